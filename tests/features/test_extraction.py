"""Extraction: the preprocessing against its definition, and what must not change a feature."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as reference

import massl_bench as mb
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.settings import (
    DEFAULT_PREPROCESSING,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    PreprocessingOverride,
)
from massl_bench.datasets import DataOptions, open_dataset, splits
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.features import BankKey, ExtractionOptions, FeatureCache, Reporting, Wanted, bank_key, load_or_extract
from massl_bench.models.encoder import Encoder
from massl_bench.models.pixels import pixels_card
from massl_bench.specs.registry import Registry
from tests.conftest import write_image


@pytest.mark.parametrize("size", [(500, 375), (31, 90), (256, 256), (8, 8)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_default_chain_is_the_published_one(size: tuple[int, int], interpolation: str, tmp_path: Path) -> None:
    write_image(tmp_path / "i.png", seed=1, size=size)
    with Image.open(tmp_path / "i.png") as image:
        mode = reference.InterpolationMode(interpolation)
        expected = reference.Compose(
            [
                reference.Resize(256, mode),
                reference.CenterCrop(224),
                reference.ToTensor(),
                reference.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )(image)
        preprocessing = PreprocessingOverride(interpolation=interpolation).apply(DEFAULT_PREPROCESSING)  # type: ignore[arg-type]
        pixels = apply_preprocessing(image, preprocessing)
    card = pixels_card().model_copy(update={"preprocessing": preprocessing})
    found = Encoder(torch.nn.Identity(), card).normalise(torch.from_numpy(pixels)[None])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_squash_ignores_the_aspect(tmp_path: Path) -> None:
    write_image(tmp_path / "i.png", seed=1, size=(64, 20))
    preprocessing = PreprocessingOverride(resize=32, resize_mode="squash", crop=32).apply(DEFAULT_PREPROCESSING)
    with Image.open(tmp_path / "i.png") as image:
        found = apply_preprocessing(image, preprocessing)
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert (found == expected).all()


def test_every_colour_mode_becomes_rgb(image_folder: Path) -> None:
    folder = image_folder / "train" / "blue"
    Image.new("L", (9, 9), 17).save(folder / "0.png")
    Image.new("RGBA", (9, 9), (17, 17, 17, 0)).save(folder / "1.png")
    Image.new("CMYK", (9, 9), (0, 0, 0, 238)).save(folder / "2.jpg", quality=100)
    Image.new("P", (9, 9), 0).save(folder / "3.png")
    (folder / "2.png").unlink()
    bank = mb.extract(mb.load_encoder("pixels"), f"folder:{image_folder}")["train"]
    by_id = {name.decode(): row for name, row in zip(bank.ids, bank.features, strict=True)}
    for name in ("0.png", "1.png", "2.jpg"):
        np.testing.assert_allclose(by_id[f"train/blue/{name}"], 17 / 255, atol=2 / 255)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 0), (64, 0), (3, 2)])
def test_batch_size_and_workers_change_nothing(
    batch_size: int, workers: int, image_folder: Path, tmp_path: Path
) -> None:
    encoder = mb.load_encoder("random:resnet10t")
    dataset = f"folder:{image_folder}"
    plain = mb.extract(encoder, dataset, cache_dir=tmp_path / "a", options=ExtractionOptions(batch_size=4))
    options = ExtractionOptions(batch_size=batch_size, num_workers=workers)
    other = mb.extract(encoder, dataset, cache_dir=tmp_path / "b", options=options)
    for role in ("train", "test"):
        np.testing.assert_allclose(plain[role].features, other[role].features, atol=1e-5)
        assert (plain[role].labels == other[role].labels).all()
        assert (plain[role].ids == other[role].ids).all()
        assert plain[role].key == other[role].key


FIRST = r"train/blue/0\.png"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RequestError("x.parquet: it cannot be read: bad page"), r"x\.parquet: it cannot be read: bad page$"),
        (
            OSError(errno.EIO, "Input/output error", "x.tar"),
            r"train/blue/0\.png: it cannot be read: Input/output error; repair or remove",
        ),
        (MemoryError(), f"{FIRST}: this machine has not enough memory for it"),
    ],
)
def test_a_file_of_images_that_cannot_be_read(
    error: Exception, reason: str, workers: int, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same line whether a process of the loader met it or this one, and nothing is left out for it."""

    def broken(_self: object, _indices: object) -> Never:
        raise error

    monkeypatch.setattr(splits.FileSplit, "encoded", broken)
    options = ExtractionOptions(num_workers=workers, skip_corrupt=True)
    with pytest.raises(CellError, match=f"^{reason}"):
        mb.extract(mb.load_encoder("pixels"), f"folder:{image_folder}", options=options)


def test_every_image_once_in_order(image_folder: Path) -> None:
    bank = mb.extract(mb.load_encoder("pixels"), f"folder:{image_folder}")["train"]
    assert [name.decode() for name in bank.ids] == [f"train/{c}/{n}.png" for c in ("blue", "red") for n in range(6)]
    for name, features in zip(bank.ids, bank.features, strict=True):
        with Image.open(image_folder / name.decode()) as image:
            expected = apply_preprocessing(image, pixels_card().preprocessing).reshape(-1) / np.float32(255)
        np.testing.assert_allclose(features, expected, atol=1e-7)


def key(**changes: Any) -> BankKey:
    fields: dict[str, Any] = {
        "weights_sha256": "w", "network_sha256": "a", "pooling": "p", "preprocessing": DEFAULT_PREPROCESSING,
        "dataset_fingerprint": "d", "split": "train", "limit": None, "precision": "fp32",
    }  # fmt: skip
    return BankKey(**{**fields, **changes})


def test_the_key_covers_all_that_can_change_a_feature() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"weights_sha256": "other"},
        {"network_sha256": "other"},
        {"pooling": "other"},
        {"preprocessing": PreprocessingOverride(interpolation="bilinear").apply(DEFAULT_PREPROCESSING)},
        {"preprocessing": PreprocessingOverride(resize=255).apply(DEFAULT_PREPROCESSING)},
        {"preprocessing": PreprocessingOverride(resize_mode="longest").apply(DEFAULT_PREPROCESSING)},
        {"preprocessing": PreprocessingOverride(scales=(1.0, 0.5)).apply(DEFAULT_PREPROCESSING)},
        {"preprocessing": PreprocessingOverride(query_box=True).apply(DEFAULT_PREPROCESSING)},
        {"dataset_fingerprint": "other"},
        {"split": "test"},
        {"limit": 5},
        {"precision": "bf16"},
        {"extractor_version": 99},
    ]
    assert len({key(**change).digest for change in changes}) == len(changes)
    assert set(BankKey.model_fields) == {name for change in changes for name in change}


@pytest.mark.parametrize("change", [{}, {"scales": (1.0,), "query_box": False}])
def test_keys_outlive_new_settings(change: dict[str, Any]) -> None:
    """The digests are as if there were neither scales nor boxes."""
    squashed = PreprocessingOverride(resize=320, resize_mode="squash", crop=320, **change).apply(DEFAULT_PREPROCESSING)
    assert key().digest == "25685b7d34d45d6aa5be592efc000958afbf687c2e90efaec6f9abde31c27cc7"
    expected = "d3d0285411f65867024220cd319b28431fa72dbdeb7840322f7fb67a2c2e2718"
    assert key(preprocessing=squashed, limit=5).digest == expected
    assert set(squashed.model_dump(mode="json")) == {"resize", "resize_mode", "crop", "interpolation", "mean", "std"}
    assert Preprocessing.model_validate(squashed.model_dump(mode="json")) == squashed


def write_bank(cache: FeatureCache, rows: int = 7) -> np.ndarray:
    features = np.random.default_rng(0).standard_normal((rows, 5)).astype(np.float32)
    with cache.writer(key(), 5, model="m", dataset="d") as writer:
        writer.append(features[:3])
        writer.append(features[3:])
        writer.finish(
            labels=np.arange(rows),
            ids=np.array([b"x"] * rows),
            class_names=["a"],
            num_classes=rows,
            skipped=[],
            validation_from=None,
        )
    return features


def test_a_bank_reads_back_as_a_memory_map(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    features = write_bank(cache)
    bank, damage = cache.read(key())
    assert damage is None
    assert bank is not None
    assert isinstance(bank.features, np.memmap)
    assert (bank.features == features).all()
    assert np.load(cache.path(key()) / "features.npy").shape == (7, 5)  # any numpy reads it
    assert cache.read(key(split="test")) == (None, None)


@pytest.mark.parametrize("name", ["features.npy", "labels.npy", "ids.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_noticed(name: str, damage: str, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    write_bank(cache)
    file = cache.path(key()) / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-3])
    else:
        file.unlink()
    bank, text = cache.read(key())
    assert bank is None
    assert text is not None
    cache.discard(key())
    assert cache.read(key()) == (None, None)
    assert not list(cache.path(key()).parent.iterdir())


def test_a_bank_that_another_process_finished_first_stays(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with cache.writer(key(), 5, model="m", dataset="d") as writer:
        first = write_bank(cache)  # the other process
        before = cache.path(key()).stat().st_ino
        writer.append(first + 1)
        writer.finish(
            labels=None, ids=np.array([b"x"] * 7), class_names=None, num_classes=None, skipped=[], validation_from=None
        )
    assert cache.path(key()).stat().st_ino == before
    bank, _ = cache.read(key())
    assert bank is not None
    assert (bank.features == first).all()
    assert [path.name for path in cache.path(key()).parent.iterdir()] == [key().digest]


def test_images_that_can_be_read_again_replace_a_bank_without_them(image_folder: Path, tmp_path: Path) -> None:
    encoder, cache = mb.load_encoder("pixels"), FeatureCache(tmp_path)
    dataset = open_dataset(f"folder:{image_folder}", Registry(), DataOptions(cache_dir=tmp_path))
    options = ExtractionOptions()
    wanted = bank_key(encoder.card, encoder.card.preprocessing, dataset, "test", None, options)
    with cache.writer(wanted, 1, model="m", dataset="d") as writer:
        writer.append(np.zeros((1, 1), np.float32))
        writer.finish(
            labels=None, ids=np.array([b"x"]), class_names=None, num_classes=None, skipped=["y"], validation_from=None
        )
    bank = load_or_extract(cache, Wanted(wanted, lambda: encoder, dataset), options, Reporting())
    assert (bank.skipped, len(bank)) == ((), 6)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)

    def write() -> None:
        with cache.writer(key(), 5, model="m", dataset="d") as writer:
            writer.append(np.zeros((2, 5), np.float32))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CellError, match="could not be written: No space left on device"):
        write()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk(image_folder: Path, tmp_path: Path) -> None:
    """The kernel refuses the write: a limit on file sizes stands for the full disk, as it needs no mount."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "from massl_bench.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "run", "--task", "knn", "--dataset", f"folder:{image_folder}", "--model"]
    command += ["pixels", "--set", "knn.k=3", "--set", "knn.headline=top1@3", "--cache-dir", str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "the feature cache" in done.stderr
    assert "File too large; free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "c").glob("features/*/*")) == []
    assert not (tmp_path / "results").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 65536  # only the child was limited


Run = Callable[..., object]
ARGUMENTS = ("run", "--task", "knn", "--model", "pixels", "--set", "knn.k=3", "--set", "knn.headline=top1@3")


def test_interrupted_in_the_middle(image_folder: Path, tmp_path: Path) -> None:
    """Ctrl-C while images go through the model: 130, one line, nothing left, and the next run is complete."""
    for number in range(4000):  # enough to be interrupted within
        target = image_folder / "train" / "blue" / f"x{number}.png"
        target.hardlink_to(image_folder / "train" / "blue" / "0.png")
    command = [sys.executable, "-u", "-m", "massl_bench", *ARGUMENTS, "--dataset", f"folder:{image_folder}"]
    command += ["--cache-dir", str(tmp_path / "c"), "--batch-size", "1"]

    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts what runs in the background without

    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=heed_interrupts,  # noqa: PLW1509  # no other thread of this process holds a lock
    )
    partial = tmp_path / "c" / "features"
    try:
        while not list(partial.glob("*/.*.tmp/features.npy")):
            assert child.poll() is None, "it ended before it could be interrupted"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert err.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in err
    assert list(partial.glob("*/.*")) == []
    assert list(partial.glob("*/*")) == []
    assert not (tmp_path / "results").exists()
