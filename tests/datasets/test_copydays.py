"""Copydays in its published layout: which copy belongs to which original, and what is said of an incomplete one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from massl_bench.core.errors import MissingDataError, RequestError
from massl_bench.core.values import CopyTruth
from massl_bench.datasets import Dataset, open_dataset
from massl_bench.specs.registry import Registry
from tests.conftest import Answer, write_image
from tests.datasets.test_layouts import options

ORIGINALS = ("200000", "200100", "200200")
STRONG = ("200001", "200002", "200101", "200201")
WEAK = (
    *(f"crops/{level}" for level in (10, 15, 20, 30, 40, 50, 60, 70, 80)),
    *(f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)),
)


@pytest.fixture
def copydays(tmp_path: Path) -> Path:
    """A small Copydays, in which each copy is its original once more."""
    root = tmp_path / "data" / "copydays"
    seeds = {name[:4]: seed for seed, name in enumerate(ORIGINALS)}
    for block, names in (("original", ORIGINALS), ("strong", STRONG), *((block, ORIGINALS) for block in WEAK)):
        for name in names:
            write_image(root / block / f"{name}.png", seeds[name[:4]])
    return root


def write_sizes(tmp_path: Path, originals: int, strong: int) -> None:
    """Writes `own/`, whose Copydays was published with these numbers."""
    text = Registry().datasets["copydays"].read_text()
    text = text.replace("originals = 157", f"originals = {originals}").replace("strong = 229", f"strong = {strong}")
    (tmp_path / "own" / "tasks" / "datasets").mkdir(parents=True, exist_ok=True)
    (tmp_path / "own" / "tasks" / "datasets" / "copydays.toml").write_text(text)


def opened(tmp_path: Path) -> Dataset:
    return open_dataset("copydays", Registry(), options(tmp_path))


def truth(tmp_path: Path) -> CopyTruth:
    found = opened(tmp_path).ground_truth()
    assert isinstance(found, CopyTruth)
    return found


def test_every_block_and_its_originals(tmp_path: Path, copydays: Path) -> None:
    dataset = opened(tmp_path)
    assert dataset.kind == "copy-detection"
    assert set(dataset.sources) == {"originals", "queries"}  # nothing lies beside it
    assert {role: dataset.num_items(role) for role in dataset.sources} == {"originals": 3, "queries": 4 + 18 * 3}
    queries, found = dataset.split("queries"), truth(tmp_path)
    assert queries.locate(0) == "strong/200001.png"
    assert queries.locate(4) == "crops/10/200000.png"
    assert queries.locate(57) == "jpegqual/75/200200.png"
    assert found.original.tolist() == [0, 0, 1, 2] + 18 * [0, 1, 2]
    assert found.block.tolist() == 4 * ["strong"] + [block for block in WEAK for _ in range(3)]
    assert found.missing_blocks == ()


def test_perfect_copies_give_one(tmp_path: Path, copydays: Path, run_cli: Callable[..., Answer]) -> None:
    write_image(copydays / "distractors" / "deep" / "other.jpg", 99)
    shutil.rmtree(copydays / "crops" / "20")
    shutil.rmtree(copydays / "jpegqual")
    arguments = ("run", "--task", "copy-detection", "--dataset", "copydays", "--data-root", tmp_path / "data")
    answer = run_cli(*arguments, "--model", "pixels")
    assert answer.code == 0, answer.err
    missing = ", ".join(("crops/20", *(block for block in WEAK if block.startswith("jpeg"))))
    assert f"not there, and left out: {missing}" in answer.err
    unlike = "originals: 3 of 157, strong: 4 of 229"
    assert f"not as published: {unlike}; was an archive unpacked in part?" in answer.err
    record = json.loads(Path("results/pixels/copy-detection/copydays.json").read_text())
    assert record["num_items"] == {"originals": 3, "queries": 4 + 8 * 3, "distractors": 1}
    assert record["generated_copies"] is None
    assert len(record["metrics"]) == 1 + 8 + 1
    for name, metric in record["metrics"].items():
        assert metric["value"] == 1.0, name
        assert metric["details"]["missing_blocks"] == missing
        assert metric["details"]["unlike_published"] == unlike
        assert metric["details"]["distractors"] == 1


@pytest.mark.parametrize("nested", [False, True])
def test_folders_called_after_their_archives(tmp_path: Path, copydays: Path, nested: bool) -> None:
    expected = truth(tmp_path)
    for folder, archive in (("original", "original"), ("strong", "strong"), ("crops", "crop"), ("jpegqual", "jpeg")):
        target = copydays / f"copydays_{archive}" / (folder if nested else "")
        target.parent.mkdir(exist_ok=True)
        (copydays / folder).rename(target)
    dataset, found = opened(tmp_path), truth(tmp_path)
    assert dataset.num_items("queries") == 58
    assert found.missing_blocks == ()
    assert found.original.tolist() == expected.original.tolist()
    assert found.block.tolist() == expected.block.tolist()


def test_whitening_is_read_where_it_is_there(tmp_path: Path, copydays: Path) -> None:
    write_image(copydays / "whitening" / "a.png", 5)
    assert set(opened(tmp_path).sources) == {"originals", "queries", "whitening"}
    (copydays / "distractors").mkdir()
    with pytest.raises(RequestError, match=r"distractors: no image in it; add the images, or remove the folder"):
        opened(tmp_path)


@pytest.mark.parametrize("block", ["original", "strong"])
def test_originals_and_strong_copies_are_needed(tmp_path: Path, copydays: Path, block: str) -> None:
    shutil.rmtree(copydays / block)
    with pytest.raises(RequestError, match=rf"no image in {block}/.*; unpack copydays_{block}\.tar\.gz there"):
        opened(tmp_path)


def test_a_strong_copy_of_no_original(tmp_path: Path, copydays: Path) -> None:
    (copydays / "strong" / "200201.png").rename(copydays / "strong" / "209901.png")
    with pytest.raises(RequestError, match=r"strong/209901\.png: no original's name begins with '2099'.*200000\.png"):
        truth(tmp_path)


def test_two_originals_of_one_prefix(tmp_path: Path, copydays: Path) -> None:
    (copydays / "original" / "200200.png").rename(copydays / "original" / "200150.png")
    with pytest.raises(RequestError, match=r"200150\.png: its name begins with '2001', as 200100\.png does"):
        truth(tmp_path)


def test_a_block_with_a_copy_too_few(tmp_path: Path, copydays: Path, run_cli: Callable[..., Answer]) -> None:
    (copydays / "crops" / "30" / "200100.png").unlink()
    arguments = ("run", "--task", "copy-detection", "--dataset", "copydays", "--data-root", tmp_path / "data")
    answer = run_cli(*arguments, "--model", "pixels")
    assert answer.code == 2
    assert "crops/30: found 2 copies, expected 3, one for each original" in answer.error
    assert not Path("results").exists()


def test_a_whole_copy_is_as_published(tmp_path: Path, copydays: Path, run_cli: Callable[..., Answer]) -> None:
    write_sizes(tmp_path, originals=3, strong=5)
    places = ("--include-path", tmp_path / "own", "--data-root", tmp_path / "data")
    answer = run_cli("datasets", "check", "copydays", *places)
    assert answer.code == 1
    assert "copydays: not as published: strong: 4 of 5" in answer.error
    assert "copydays: problems: 1" in answer.out
    write_sizes(tmp_path, originals=3, strong=4)
    assert "copydays: ok" in run_cli("datasets", "check", "copydays", *places).out
    found = open_dataset("copydays", Registry([tmp_path / "own"]), options(tmp_path)).ground_truth()
    assert isinstance(found, CopyTruth)
    assert found.unlike_published == ()


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"download copydays_original\.tar\.gz and copydays_strong\.tar\.gz"):
        opened(tmp_path)
