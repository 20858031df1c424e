"""Small inputs that gave a wrong number, silence, a traceback or worse: each with what is right."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from massl_bench.core.errors import RequestError
from massl_bench.datasets import DataOptions, Dataset, corrupt_images, open_dataset
from massl_bench.datasets.images.decoding import Decoding, ImageLimitError, Unreadable, decode_rgb
from massl_bench.datasets.tables import encoded_value
from massl_bench.specs.registry import Registry
from tests.conftest import Answer

FAULTS = Path(__file__).parents[1] / "faults"
KNN = ("--task", "knn", "--set", "knn.k=1", "--set", "knn.headline=top1@1")
OWN = Decoding(upright=True, strict=True)

Run = Callable[..., Answer]


def opened(reference: str, tmp_path: Path) -> Dataset:
    return open_dataset(reference, Registry(), DataOptions(cache_dir=tmp_path / "cache"))


def names(dataset: Dataset, role: str = "all") -> list[str]:
    split = dataset.split(role)
    return [split.locate(index) for index in range(len(split))]


def picture(colour: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (colour, 255 - colour, 7))


def write_folders(root: Path, colours: dict[str, int], each: int = 3) -> None:
    """Class folders of images of one colour each, all of them different."""
    for folder, colour in colours.items():
        (root / folder).mkdir(parents=True)
        for number in range(each):
            picture(colour + number).save(root / folder / f"{number}.png")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("hostile/png-crc-bit.png", "corrupt image: the chunk 'IDAT' at byte 33 does not have its checksum"),
        ("hostile/jpg-delete-1-byte.jpg", "corrupt image: Corrupt JPEG data: 64 extraneous bytes before marker 0xd9"),
        ("hostile/eps.jpg", "corrupt image: no image of a format that is read here"),
    ],
)
def test_damaged_images(name: str, what: str) -> None:
    for encoded in (FAULTS / name, (FAULTS / name).read_bytes()):
        with pytest.raises(ValueError, match=r".") as raised:
            decode_rgb(encoded, OWN)
        found = Unreadable.of(raised.value)
        assert (found.what, found.damaged) == (what, True)


def test_a_postscript_file_starts_no_program(run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin64c"):
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "images").mkdir()
    shutil.copy(FAULTS / "hostile" / "eps.jpg", tmp_path / "images" / "x.jpg")
    answer = run_cli("datasets", "check", f"folder:{tmp_path / 'images'}")
    assert answer.code == 1
    assert "x.jpg: corrupt image: no image of a format that is read here" in answer.error
    assert not (tmp_path / "started").exists()


def test_parquet_shards_that_number_their_classes_otherwise(run_cli: Run, tmp_path: Path) -> None:
    # The same images and classes in two shards, of which one counts them in another order: 72.2 where that is not seen.
    (tmp_path / "data").mkdir()
    shutil.copytree(FAULTS / "parquet_shards_other_names", tmp_path / "data" / "shards")
    labels = opened_parquet(tmp_path / "data" / "shards").split("train").labels
    assert labels is not None
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [0] * 6 + [1] * 6 + [2] * 6


def opened_parquet(root: Path) -> Dataset:
    from massl_bench.datasets.columns import Columns
    from massl_bench.datasets.layouts import find_parquet

    layout = find_parquet(root, ["train", "test"], Columns())
    assert layout is not None
    return Dataset(
        name="tables",
        kind="single-label",
        spec=None,
        layout=layout,
        sources={"train": ("train",), "test": ("test",)},
        memo_dir=root.parent / "memo",
        decoding=OWN,
    )


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    shutil.copytree(FAULTS / "parquet_null_image", tmp_path / "tables")
    problems = corrupt_images(opened_parquet(tmp_path / "tables").split("train"))
    assert [text.partition(": ")[2] for text in problems] == ["corrupt image: there is no image"]


def test_another_of_pyarrows_errors(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "tables").mkdir(exist_ok=True)
        shutil.copy(
            FAULTS / "hostile" / "parquet-196-t.parquet", tmp_path / "tables" / f"{split}-00000-of-00001.parquet"
        )
    with pytest.raises(RequestError, match="Integers with more than 64 bits not implemented; copy or fetch"):
        opened_parquet(tmp_path / "tables").split("train")


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "a/../../b.png"])
def test_rows_that_name_images_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"it names the image .*, and images lie below the table's own folder"):
        encoded_value({"bytes": None, "path": name}, tmp_path, "x.parquet")
    assert encoded_value("a/../b.png", tmp_path, "x.parquet") == tmp_path / "b.png"


@pytest.mark.parametrize(
    ("tar", "count", "left_out"),
    [
        ("other_suffixes.tar", 8, ""),
        ("half_input_suffix.tar", 8, ""),
        ("latin1_names.tar", 4, ""),
        ("hostile/ansi.tar", 7, ""),
        ("hostile/links.tar", 7, "3 files left out: l.png in links.tar, f.png in links.tar, d.png in links.tar"),
        (
            "hostile/tar-1043-p.tar",
            4,
            "1 file left out: 723 bytes behind its end that are no tar in tar-1043-p.tar",
        ),
    ],
)
def test_tars_are_taken_whole(tar: str, count: int, left_out: str, tmp_path: Path) -> None:
    dataset = opened(f"wds:{FAULTS / tar}", tmp_path)
    split = dataset.split("all")
    assert len(split) == count
    assert (str(dataset.left_out) if dataset.left_out else "") == left_out
    assert all(name.isprintable() for name in names(dataset))
    images = [encoded for encoded in split.encoded(range(count)) if len(encoded) > 3]  # type: ignore[arg-type]
    assert len({split.decode(encoded).size for encoded in images}) == 1


def test_joined_tars_are_one(tmp_path: Path) -> None:
    parts = [(FAULTS / tar).read_bytes() for tar in ("other_suffixes.tar", "latin1_names.tar")]
    (tmp_path / "a.tar").write_bytes(parts[0] + parts[1])
    assert len(opened(f"wds:{tmp_path / 'a.tar'}", tmp_path).split("all")) == 12
    (tmp_path / "b.tar").write_bytes(parts[0] + parts[1][:300] + b"\xff" + parts[1][301:])
    with pytest.raises(
        RequestError, match=r"b.tar: not a whole uncompressed tar: no end at byte 20,480; copy it again"
    ):
        opened(f"wds:{tmp_path / 'b.tar'}", tmp_path).split("all")


def test_names_that_are_not_utf_8(run_cli: Run, tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/d\xe9p\xf4t"
    for split in (b"train", b"test"):
        for name, colour in ((b"caf\xe9", 0), (b"th\xe9", 200)):
            Path(os.fsdecode(root + b"/" + split + b"/" + name)).mkdir(parents=True)
            for number in range(3):
                place = os.fsdecode(root + b"/" + split + b"/" + name + b"/\xff%d.png" % number)
                picture(colour + number).save(place, "PNG")
    dataset = opened(f"folder:{os.fsdecode(root)}", tmp_path)
    assert names(dataset, "train")[0] == r"train/caf\xe9/\xff0.png"
    assert dataset.split("train").class_names == (r"caf\xe9", r"th\xe9")
    assert dataset.split("train").ids(1).tolist() == [b"train/caf\xe9/\xff0.png"]
    cell = ("--dataset", f"folder:{os.fsdecode(root)}", *KNN)
    answer = run_cli("run", *cell, "--model", "pixels", "--json")
    assert answer.code == 0, answer.error
    (outcome,) = json.loads(answer.out)
    record = json.loads(Path(outcome["path"]).read_text())
    assert record["metrics"]["top1@1"]["value"] == 1.0


def test_exif_orientation(tmp_path: Path) -> None:
    stored = np.asarray(decode_rgb(FAULTS / "exif_orientation6.jpg"))
    upright = np.asarray(decode_rgb(FAULTS / "exif_orientation6.jpg", Decoding(upright=True)))
    assert np.array_equal(upright, np.rot90(stored, 3))
    assert not np.array_equal(upright, stored)
    gradient = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    image = Image.fromarray(gradient)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        content = io.BytesIO()
        image.save(content, "PNG", exif=exif)
        from PIL import ImageOps

        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content.getvalue())))
        found = decode_rgb(content.getvalue(), OWN)
        assert np.array_equal(np.asarray(found), np.asarray(expected)), orientation


def test_whether_images_are_turned_is_said_and_in_the_identity(run_cli: Run, tmp_path: Path) -> None:
    write_folders(tmp_path / "a", {"train/x": 0, "train/y": 100, "test/x": 10, "test/y": 110})
    shutil.copy(FAULTS / "exif_orientation6.jpg", tmp_path / "a" / "train" / "x" / "9.jpg")
    cell = ("--dataset", f"folder:{tmp_path / 'a'}", *KNN)
    answer = run_cli("run", *cell, "--model", "pixels")
    assert "/train: 1 image has an EXIF orientation and is turned upright, as viewers do" in answer.err
    dataset = opened(f"folder:{tmp_path / 'a'}", tmp_path)
    from dataclasses import replace

    assert replace(dataset, decoding=Decoding()).fingerprint != dataset.fingerprint


@pytest.mark.parametrize("name", ["elongated_5000x1.png", "hostile/aspect-1x60000.png"])
def test_very_long_images(name: str) -> None:
    from massl_bench.core.settings import Preprocessing
    from massl_bench.datasets.images.preprocess import apply_preprocessing

    image = decode_rgb(FAULTS / name, OWN)
    settings = Preprocessing(
        resize=256, crop=224, interpolation="bicubic", resize_mode="shortest", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    assert apply_preprocessing(image, settings).shape == (3, 224, 224)
    uncropped = settings.model_copy(update={"crop": None, "resize": 2048})
    with pytest.raises(ImageLimitError, match=r"resized, it would have 2,048 × .* pixels, more than the limit of"):
        apply_preprocessing(image, uncropped)


def test_a_part_is_resized_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from massl_bench.core.settings import Preprocessing
    from massl_bench.datasets.images import preprocess

    rng = np.random.default_rng(0)
    for width, height in ((7, 3001), (3001, 7), (60, 3333), (224, 4000)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for interpolation in ("bilinear", "bicubic", "lanczos"):
            settings = Preprocessing(
                resize=256,
                crop=224,
                interpolation=interpolation,
                resize_mode="shortest",
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            )
            whole = preprocess.apply_preprocessing(image, settings).astype(int)
            with monkeypatch.context() as patch:
                patch.setattr(preprocess, "_LONGEST_PIXELS", 0)
                part = preprocess.apply_preprocessing(image, settings).astype(int)
            assert np.abs(whole - part).max() <= 1
            assert (whole != part).mean() < 0.005


def test_a_large_image_is_not_called_corrupt(run_cli: Run, tmp_path: Path) -> None:
    write_folders(tmp_path / "a", {"train/x": 0, "train/y": 100, "test/x": 10, "test/y": 110})
    Image.new("1", (14_000, 13_000)).save(tmp_path / "a" / "train" / "x" / "big.png")
    cell = ["run", "--dataset", f"folder:{tmp_path / 'a'}", *KNN, "--model", "pixels"]
    answer = run_cli(*cell, "--skip-corrupt")
    assert "train/x/big.png: it has 182,000,000 pixels, more than the limit of 89,478,485 pixels" not in answer.error
    assert "train/x/big.png: it has" in answer.error
    assert "more than the limit of 89,478,485; allow more with --max-pixels N, or remove the image" in answer.error
    assert "corrupt" not in answer.error
    small = run_cli(*cell, "--max-pixels", "50")
    assert "it has 8 × 8 pixels, more than the limit of 50; allow more with --max-pixels N" in small.error


def test_what_depends_on_the_machine_is_never_left_out() -> None:
    for error in (MemoryError(), OSError(24, "Too many open files"), ImageLimitError("it has 9", 3)):
        assert not Unreadable.of(error).damaged
    assert Unreadable.of(MemoryError()).what == "this machine has not enough memory for it"


def test_what_is_no_file_in_the_place_of_one(run_cli: Run, tmp_path: Path) -> None:
    for kind in ("pipe", "zero"):
        write_folders(tmp_path / kind, {"train/x": 0, "train/y": 100, "test/x": 10, "test/y": 110})
        place = tmp_path / kind / "train" / "x" / "9.png"
        if kind == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to("/dev/zero")
        answer = run_cli("run", "--dataset", f"folder:{tmp_path / kind}", "--task", "knn", "--model", "pixels")
        assert answer.code == 2
        what = "a pipe" if kind == "pipe" else "a device"
        assert f"9.png: cannot be read: not a regular file but {what}; repair it, or remove it" in answer.error


def test_a_file_larger_than_any_image_is_not_hashed(run_cli: Run, tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/x": 0, "train/y": 100, "test/x": 10, "test/y": 110})
    with (tmp_path / "train" / "x" / "9.png").open("wb") as hole:
        hole.truncate(3 << 30)
    answer = run_cli("datasets", "check", f"folder:{tmp_path}")
    assert answer.code == 1
    assert "9.png: 3,221,225,472 bytes are more than an image has (at most 1,073,741,824); repair it" in answer.error


def test_equal_images_are_no_misses_of_copy_detection(run_cli: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for number in range(10):
        pixels = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    before = opened_copies(tmp_path)
    for number in range(10):
        shutil.copy(tmp_path / "a" / f"{number}.png", tmp_path / "a" / f"{number}b.png")
    after = opened_copies(tmp_path)
    for role in before.sources:
        assert names(before, role) == names(after, role)
    assert str(after.left_out) == "10 files left out: 0b.png, 1b.png, 2b.png, …"
    assert before.fingerprint != after.fingerprint


def opened_copies(tmp_path: Path) -> Dataset:
    from massl_bench.datasets import with_copies

    registry = Registry()
    return with_copies(opened(f"folder:{tmp_path / 'a'}", tmp_path), "like-copydays", registry)
