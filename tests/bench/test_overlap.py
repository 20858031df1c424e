"""Equal and nearly equal images of two datasets: planted copies are found, others are not, and can be left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import massl_bench as mb
from massl_bench.bench.duplicates import Overlap
from massl_bench.core.errors import RequestError
from massl_bench.datasets.alterations import crop, jpeg
from tests.conftest import Answer

Cli = Callable[..., Answer]

SIDE = 106
"""Of pieces of the two photographs that scikit-learn has."""


def pieces() -> list[Image.Image]:
    """Pieces without a part in common, and with detail: not of the sky."""
    found = [
        photo[top : top + SIDE, left : left + SIDE]
        for photo in load_sample_images().images
        for top in range(0, photo.shape[0] - SIDE + 1, SIDE)
        for left in range(0, photo.shape[1] - SIDE + 1, SIDE)
    ]
    return [Image.fromarray(piece) for piece in found if piece.mean(axis=2)[::4, ::4].std() > 30]


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, list[str]]:
    """Two folders, `a` and `b`: names of the images in `a` by what they are of `b`."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    found: dict[str, list[str]] = {"file": [], "pixels": [], "near": [], "none": []}
    for number, image in enumerate(pieces()):
        name = f"{number:02}"
        if number % 2:
            image.save(a / f"{name}.png")
            found["none"].append(f"{name}.png")
            continue
        image.save(b / f"other{name}.png")
        kind = ("file", "pixels", "near", "near")[number // 2 % 4]
        found[kind].append(f"{name}.{'png' if kind == 'file' else 'bmp'}")
        if kind == "file":
            shutil.copy(b / f"other{name}.png", a / f"{name}.png")
        elif kind == "pixels":
            image.save(a / f"{name}.bmp")
        else:
            copy = jpeg(image, 50, "4:2:0") if number // 2 % 4 == 2 else crop(image, 80, Random(number))
            copy.save(a / f"{name}.bmp")
    return found


def test_planted_copies_are_found_and_told_apart(tmp_path: Path, planted: dict[str, list[str]], run_cli: Cli) -> None:
    sides = f"folder:{tmp_path / 'a'}", f"folder:{tmp_path / 'b'}"
    page = tmp_path / "page.html"
    answer = run_cli("datasets", "overlap", *sides, "--model", "pixels", "--json", "--gallery", page)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    by_kind: dict[str, list[str]] = {"file": [], "pixels": [], "near": []}
    for pair in found["pairs"]:
        by_kind[pair["kind"]].append(pair["a"]["name"])
        assert pair["b"]["name"] == f"other{Path(pair['a']['name']).stem}.png"
        assert (pair["correlation"] is None) == (pair["kind"] != "near")
    assert by_kind == {kind: planted[kind] for kind in by_kind}
    assert found["calibration"]["num_images"] == (len(pieces()) + 1) // 2
    assert "Nearly equal" in page.read_text()


def test_a_dataset_against_itself_is_its_test_split_against_the_others(image_folder: Path, run_cli: Cli) -> None:
    shutil.copy(image_folder / "train/red/0.png", image_folder / "test/red/planted.png")
    reference = f"folder:{image_folder}"
    found = mb.overlap(reference, reference, model="pixels", progress=False)
    exact = [pair for pair in found.pairs if pair.kind == "file"]
    assert [(pair.a.name, pair.b.name) for pair in exact] == [("test/red/planted.png", "train/red/0.png")]
    table = run_cli("datasets", "overlap", reference, reference, "--model", "pixels").out
    assert "split  images  equal files  equal pixels  nearly equal  in all" in table
    assert "test   7       1            0             0             1 (14.29 %)" in table
    assert "threshold: correlation 0." in table
    same = run_cli("datasets", "overlap", reference, reference, "--model", "pixels", "--splits", "a=test,b=test")
    assert same.code == 2
    assert "the same images" in same.error
    strange = run_cli("datasets", "overlap", reference, reference, "--model", "pixels", "--splits", "a=val")
    assert "no val split; it has: train, test" in strange.error


def test_a_run_with_and_without_duplicates(image_folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    # Two copies of training images under the other class's name: wrong, and left out in the second record.
    for number in range(2):
        shutil.copy(image_folder / f"train/red/{number}.png", image_folder / f"test/blue/planted{number}.png")
    reference, saved = f"folder:{image_folder}", tmp_path / "overlap.json"
    found = mb.overlap(reference, reference, model="pixels", save=saved, progress=False)
    near = [pair for pair in found.pairs if pair.kind == "near"]
    assert not near
    places = ("--dataset", reference, "--model", "pixels", "--set", "knn.k=1", "--set", "knn.headline=top1@1")
    answer = run_cli("run", "--task", "knn", *places, "--without-duplicates", saved, "--json")
    assert answer.code == 0, answer.err
    whole, without = (each["record"] for each in json.loads(answer.out))
    assert whole["metrics"]["top1@1"]["value"] == pytest.approx(6 / 8)
    assert without["metrics"]["top1@1"]["value"] == 1.0
    assert (whole["num_items"]["test"], without["num_items"]["test"]) == (8, 6)
    assert "--without-duplicates: 2 test images left out" in without["departures"][-1]
    assert not without["complete"]
    assert [name.partition(":")[0] for name in without["identity"]["dataset"]["skipped"]["test"]] == [
        "test/blue/planted0.png",
        "test/blue/planted1.png",
    ]
    assert whole["identity_sha256"] != without["identity_sha256"]
    again = run_cli("run", "--task", "knn", *places, "--without-duplicates", saved, "--json")
    assert [each["status"] for each in json.loads(again.out)] == ["finished", "finished"]
    record = next(Path("results").glob("pixels/knn/*@*.json"))
    records = [path for path in Path("results").glob("pixels/knn/*.json") if "left out" in path.read_text()]
    assert records
    assert record.is_file()
    assert run_cli("verify", records[0]).code == 0


def test_an_overlap_of_other_images_is_refused(image_folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    shutil.copy(image_folder / "train/red/0.png", image_folder / "test/red/planted.png")
    reference, saved = f"folder:{image_folder}", tmp_path / "overlap.json"
    mb.overlap(reference, reference, model="pixels", save=saved, progress=False)
    shutil.copy(image_folder / "train/red/1.png", image_folder / "test/red/more.png")
    places = ("run", "--task", "knn", "--dataset", reference, "--model", "pixels", "--without-duplicates", saved)
    assert "compare them again" in run_cli(*places).error
    saved.write_text("{}")
    assert "not the JSON of an overlap" in run_cli(*places).error


def reachable(real_data: Path, every: int) -> list[Path]:
    return sorted((real_data / "photos").glob("*.jpg"))[::every]


def measured_on_photographs(photos: list[Path], root: Path, model: str) -> dict[str, float]:
    """Shares of the planted copies that are found, and of the photographs without one for which something is.

    The threshold comes from copies of other images: pieces of the two photographs that scikit-learn has.
    """
    folders = {name: root / name for name in ("calibration", "all", "jpeg", "crop", "exact", "first", "second")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for number, image in enumerate(pieces()):
        image.save(folders["calibration"] / f"{number}.png")
    for number, path in enumerate(photos):
        image = Image.open(path).convert("RGB")
        image.save(folders["jpeg"] / path.name, quality=50)
        crop(image, 80, Random(number)).save(folders["crop"] / f"{path.stem}.png")
        for name in ("all", "first" if number % 2 else "second", *(["exact"] if number % 10 == 0 else [])):
            shutil.copy(path, folders[name] / path.name)
    (folders["exact"] / "one more.png").write_bytes((folders["calibration"] / "0.png").read_bytes())

    def found(a: str, b: str) -> Overlap:
        reference = {name: f"folder:{folder}" for name, folder in folders.items()}
        return mb.overlap(
            reference[a], reference[b], model=model, calibrate_on=reference["calibration"], progress=False
        )

    def right(a: str) -> float:
        pairs = [pair for pair in found(a, "all").pairs if Path(pair.a.name).stem == Path(pair.b.name).stem]
        return len(pairs) / len(list(folders[a].iterdir()))

    exact = found("exact", "all")
    halves = [found("first", "second"), found("second", "first")]
    return {
        "exact": sum(pair.kind == "file" for pair in exact.pairs) / (len(list(folders["exact"].iterdir())) - 1),
        "jpeg": right("jpeg"),
        "crop": right("crop"),
        "others": sum(len(each.pairs) for each in halves) / len(photos),
    }


def test_copies_of_photographs(real_data: Path, tmp_path: Path) -> None:
    """Of every tenth photograph; all thousand are measured in the note of the change."""
    shares = measured_on_photographs(reachable(real_data, 10), tmp_path, "massl-small-cifar10")
    assert shares["exact"] == 1.0
    assert shares["jpeg"] >= 0.95
    assert shares["crop"] >= 0.95
    assert shares["others"] < 0.001


def test_correlation_of_a_piece_with_its_whole() -> None:
    import torch

    from massl_bench.datasets.duplicates import picture
    from massl_bench.learners.alignment import SIDE as S
    from massl_bench.learners.alignment import correlation, details

    images = pieces()[:6]
    whole = details(torch.from_numpy(np.stack([picture(image, S) for image in images])))
    cropped = [crop(image, 80, Random(3)) for image in images]
    piece = details(torch.from_numpy(np.stack([picture(image, S) for image in cropped])))
    assert correlation(whole, whole).numpy() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(correlation(whole, piece), correlation(piece, whole))
    assert correlation(whole, piece).min() > 0.85
    assert correlation(whole, whole.roll(1, 0)).max() < 0.7
    sky = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (1, S, S)).astype(np.float32))
    assert 0 < correlation(sky, sky) < 0.1  # noise, which a copy of another sky could have, too


def test_the_python_interface_refuses_what_is_not_there() -> None:
    with pytest.raises(RequestError, match="unknown dataset"):
        mb.overlap("cifar", "digits", model="pixels", progress=False)
