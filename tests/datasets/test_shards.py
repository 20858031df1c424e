"""WebDataset shards: their listing, their images at any place, and what is said of a wrong one."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from massl_bench.core.errors import RequestError
from massl_bench.datasets import DataOptions, ImageSplit, decode_rgb, open_dataset
from massl_bench.datasets import shards as shards_module
from massl_bench.datasets.shards import expand_braces, find_shards
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.loading import StepRequests, divide
from massl_bench.specs.registry import Registry
from tests.datasets.copies import write_tar


def picture(number: int, suffix: str = "png") -> bytes:
    """An image whose pixels all have the value of its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(buffer, format={"jpg": "jpeg"}.get(suffix, suffix))
    return buffer.getvalue()


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    """Four shards of ten numbered images, with classes and more beside them."""
    for shard in range(4):
        members: dict[str, bytes] = {}
        for number in range(10 * shard, 10 * shard + 10):
            members |= {
                f"{number:04}.png": picture(number),
                f"{number:04}.cls": b"%d\n" % (number % 3),
                f"{number:04}.mask.png": b"no image",
                f"{number:04}.json": b"{}",
            }
        write_tar(tmp_path / "shards" / f"train-{shard:02}.tar", members)
    return f"{tmp_path}/shards/train-{{00..03}}.tar"


def read(pattern: str, memo_dir: Path) -> ImageSplit:
    return find_shards(pattern, memo_dir).read("all")


def values(split: ImageSplit, indices: list[int]) -> list[int]:
    return [int(np.asarray(decode_rgb(encoded))[0, 0, 0]) for encoded in split.encoded(indices)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a{08..10}.tar", ["a08.tar", "a09.tar", "a10.tar"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{00..1}", ["00", "01"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("x{1,{4..5}}", ["x1", "x4", "x1", "x5"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


def test_images_in_any_order(pattern: str, tmp_path: Path) -> None:
    split = read(pattern, tmp_path / "memo")
    assert len(split) == 40
    order = np.random.default_rng(0).permutation(40).tolist()
    assert values(split, order) == order
    assert split.labels is not None
    assert split.labels.tolist() == [number % 3 for number in range(40)]
    assert split.class_names == ("0", "1", "2")
    assert split.locate(23) == "train-02.tar, 0023.png"
    again = pickle.loads(pickle.dumps(split))
    assert values(again, order) == order


def test_all_suffixes_of_images(tmp_path: Path) -> None:
    suffixes = ["jpg", "jpeg", "PNG", "webp"]
    members = {f"a/{number}.{suffix}": picture(number, suffix.lower()) for number, suffix in enumerate(suffixes)}
    split = read(str(write_tar(tmp_path / "a.tar", members)), tmp_path)
    assert values(split, [3, 2, 1, 0]) == pytest.approx([3, 2, 1, 0], abs=1)
    assert split.labels is None


def test_long_names(tmp_path: Path) -> None:
    """Names of more than 100 bytes take blocks of their own in a tar."""
    members = {f"{'folder/' * 30}{number}.png": picture(number) for number in range(3)}
    assert values(read(str(write_tar(tmp_path / "a.tar", members)), tmp_path), [2, 0, 1]) == [2, 0, 1]


def test_more_shards_than_open_files(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_MOST_OPEN", 2)
    split = read(pattern, tmp_path)
    order = [0, 10, 20, 30, 1, 11, 21, 31]
    assert values(split, order) == order


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_workers_and_their_parent_read_at_the_same_time(pattern: str, tmp_path: Path, start: str) -> None:
    """A forked process shares the places of its parent's open files: each must have files of its own."""
    split = read(pattern, tmp_path)
    assert values(split, [39]) == [39]
    loader = DataLoader(  # type: ignore[var-annotated]
        range(40),  # type: ignore[arg-type]
        batch_size=4,
        num_workers=2,
        collate_fn=_Reader(split),
        multiprocessing_context=start,
    )
    found = []
    for batch in loader:
        found += batch
        assert values(split, [7, 33]) == [7, 33]
    assert found == list(range(40))


class _Reader:
    def __init__(self, split: ImageSplit) -> None:
        self.split = split

    def __call__(self, indices: list[int]) -> list[int]:
        return values(self.split, indices)


def test_ranks_take_every_image_once_an_epoch(pattern: str, tmp_path: Path) -> None:
    config = load_config("tiny-digits", ["batch_size=8", "epochs=5", "massl.memory_size=1024"])
    shares = divide(config, 40, 2)
    for epoch in range(2):
        taken = []
        for rank in range(2):
            split = read(pattern, tmp_path)
            requests = StepRequests(shares, seed=0, rank=rank, first_step=5 * epoch, num_steps=5 * epoch + 5)
            taken += [value for request in requests for value in values(split, list(request.indices))]
        assert sorted(taken) == list(range(40))


def test_listings_are_remembered_while_a_shard_stays(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    original = shards_module.list_tar
    monkeypatch.setattr(shards_module, "list_tar", lambda shard: listed.append(shard.name) or original(shard))  # type: ignore[func-returns-value]
    for _ in range(2):
        read(pattern, tmp_path / "memo")
    assert sorted(listed) == [f"train-{shard:02}.tar" for shard in range(4)]
    listed.clear()
    write_tar(tmp_path / "shards" / "train-02.tar", {"5.png": picture(5), "5.cls": b"1"})
    split = read(pattern, tmp_path / "memo")
    assert listed == ["train-02.tar"]
    assert values(split, [19, 20, 21]) == [19, 5, 30]


def test_shards_as_a_dataset(pattern: str, tmp_path: Path) -> None:
    options = DataOptions(cache_dir=tmp_path / "cache")
    dataset = open_dataset(f"wds:{pattern}", Registry(), options)
    assert (dataset.kind, list(dataset.sources), len(dataset.split("all"))) == ("unlabelled", ["all"], 40)
    one = open_dataset(f"wds:{pattern.replace('{00..03}', '00')}", Registry(), options)
    assert one.fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("https://host/{000..146}.tar", "expected tar files of a file system"),
        ("none-{0..9}.tar", "10 of 10 shards not found: none-0.tar, none-1.tar, none-2.tar, none-3.tar, none-4.tar, …"),
        ("a-{5..1}.tar", "{5..1}: expected the smaller number first"),
    ],
)
def test_patterns_that_cannot_be_read(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        find_shards(pattern, tmp_path)


def test_damaged_shards(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", {f"{n}.png": picture(n) for n in range(5)}).read_bytes()
    member = 1024  # of header and content
    damaged = {
        "within": whole[: 2 * member + 600],
        "between": whole[: 3 * member],
        "header": whole[: 2 * member] + b"\x07" * 512 + whole[2 * member + 512 :],
        "other": b"no tar at all" * 100,
        "empty": b"",
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        with pytest.raises(RequestError, match=rf"{name}\.tar: not a whole uncompressed tar: .*; copy it again"):
            read(str(path), tmp_path)
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "whole.tar")
    with pytest.raises(RequestError, match=r"packed\.tar: not a whole uncompressed tar"):
        read(str(packed), tmp_path)


def test_keys_that_are_not_clear(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": picture(1), "1.jpg": picture(1, "jpg")})
    with pytest.raises(RequestError, match=r"a\.tar: 1\.png and 1\.jpg: expected one image under a key"):
        read(str(path), tmp_path)
    path = write_tar(tmp_path / "b.tar", {"1.png": picture(1), "1.cls": b"0", "2.png": picture(2)})
    with pytest.raises(RequestError, match=r"1 of 2 images have a \.cls; expected all or none"):
        read(str(path), tmp_path)
