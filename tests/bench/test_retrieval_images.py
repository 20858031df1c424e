"""Landmark retrieval from images: the settings of its tasks against plain PIL and torch, and whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import massl_bench as mb
from massl_bench.core.errors import CellError
from massl_bench.core.settings import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from massl_bench.core.values import FeatureBank
from massl_bench.datasets import Dataset, open_dataset
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.datasets.published import READERS
from massl_bench.features import ExtractionOptions, FeatureCache, Reporting, Wanted, bank_key, load_or_extract
from massl_bench.models.encoder import Encoder
from massl_bench.records.reading import read_record
from massl_bench.records.record import ResultRecord
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.datasets.copies import LANDMARK_QUERIES, LANDMARK_SIZES, small_registry, write_landmarks
from tests.datasets.test_layouts import options

Cli = Callable[..., Answer]
Places = tuple[object, ...]
MODEL = "random:resnet10t"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """The small copy of roxford5k, and the options that lead to it."""
    write_landmarks(tmp_path / "data" / "roxford5k", "roxford5k")
    small_registry(tmp_path, "roxford5k", LANDMARK_SIZES)
    return ("--include-path", tmp_path / "registry", "--data-root", tmp_path / "data", "--offline")


@pytest.fixture
def dataset(places: Places, tmp_path: Path) -> Dataset:
    return open_dataset("roxford5k", Registry([tmp_path / "registry"]), options(tmp_path))


def of_task(name: str, encoder: Encoder) -> Preprocessing:
    override = Registry().task(name).preprocessing
    assert override is not None
    return override.apply(encoder.card.preprocessing)


def bank(
    task: str,
    encoder: Encoder,
    dataset: Dataset,
    role: str,
    cache: Path,
    chosen: ExtractionOptions = ExtractionOptions(),  # noqa: B008  # frozen
) -> FeatureBank:
    key = bank_key(encoder.card, of_task(task, encoder), dataset, role, None, chosen)
    return load_or_extract(FeatureCache(cache), Wanted(key, lambda: encoder, dataset), chosen, Reporting())


def test_what_the_tasks_say() -> None:
    three = (1.0, 1 / 2 ** (1 / 2), 1 / 2)
    expected = {
        "retrieval": (512, three, False),
        "retrieval-box": (512, three, True),
        "retrieval-single": (512, (1.0,), False),
        "retrieval-single-box": (512, (1.0,), True),
        "retrieval-224": (224, (1.0,), False),
    }
    for name, (resize, scales, query_box) in expected.items():
        spec = Registry().task(name)
        settings = spec.preprocessing
        assert settings is not None
        assert (settings.resize, settings.scales, settings.query_box) == (resize, scales, query_box)
        assert (settings.resize_mode, settings.interpolation) == ("longest", "lanczos")
        assert spec.params == Registry().task("retrieval").params


def test_preprocessing_in_words() -> None:
    assert of_task("retrieval-box", mb.load_encoder(MODEL)).describe() == (
        "crop queries to their boxes, resize long side to at most 512 (lanczos, antialiased), no crop, "
        "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225], "
        "features summed over the scales 1, 0.7071, 0.5 (bilinear)"
    )


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(600, 410), (410, 600), (2400, 1601), (513, 512)])
def test_the_thumbnail_is_pils(size: tuple[int, int]) -> None:
    image = noise(*size)
    found = apply_preprocessing(image, of_task("retrieval", mb.load_encoder("pixels")))
    assert image.size == size  # the caller's image is left as it was
    image.thumbnail((512, 512), Image.Resampling.LANCZOS)
    assert max(found.shape) == 512
    assert (found == np.asarray(image).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("size", [(512, 512), (511, 300), (60, 100), (1, 1)])
def test_the_thumbnail_never_enlarges(size: tuple[int, int]) -> None:
    image = noise(*size)
    found = apply_preprocessing(image, of_task("retrieval", mb.load_encoder("pixels")))
    assert (found == np.asarray(image).transpose(2, 0, 1)).all()


def by_hand(network: torch.nn.Module, image: Image.Image, scales: list[float]) -> torch.Tensor:
    """The published scripts in plain torch: thumbnail, normalised tensor at each scale, the sum of the features [D]."""
    image.thumbnail((512, 512), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    values = (values - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    total = torch.zeros(1)
    for scale in scales:
        scaled = values
        if scale != 1:
            scaled = torch.nn.functional.interpolate(values, scale_factor=scale, mode="bilinear", align_corners=False)
        with torch.no_grad():
            total = total + network(scaled)[0]
    return total


@pytest.mark.parametrize("model", [MODEL, "a ViT"])
@pytest.mark.parametrize("task", ["retrieval", "retrieval-box", "retrieval-single"])
def test_features_are_those_worked_out_by_hand(
    task: str, model: str, dataset: Dataset, golden: Path, tmp_path: Path
) -> None:
    """Pictures of three sizes in one batch; most of their sides are no multiples of the ViT's patch."""
    encoder = mb.load_encoder(model if model == MODEL else str(golden / "official_format_checkpoint.pth"))
    scales = [1.0] if task == "retrieval-single" else [1, 1 / 2 ** (1 / 2), 1 / 2]
    for role in ("database", "queries"):
        found = bank(task, encoder, dataset, role, tmp_path / "c").features
        split = dataset.split(role)
        for index, path in enumerate(split.encoded(range(len(split)))):
            assert isinstance(path, Path)
            with Image.open(path) as image:
                box = LANDMARK_QUERIES[index]["bbx"] if (task, role) == ("retrieval-box", "queries") else None
                expected = by_hand(encoder.network, image.crop(box) if box else image.convert("RGB"), scales)
            np.testing.assert_allclose(found[index], expected.numpy(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 2)])
def test_batch_size_and_workers_change_nothing(batch_size: int, workers: int, dataset: Dataset, tmp_path: Path) -> None:
    encoder = mb.load_encoder(MODEL)
    plain = bank("retrieval-224", encoder, dataset, "database", tmp_path / "a")
    chosen = ExtractionOptions(batch_size=batch_size, num_workers=workers)
    other = bank("retrieval-224", encoder, dataset, "database", tmp_path / "b", chosen)
    assert plain.key == other.key
    assert (plain.ids == other.ids).all()
    np.testing.assert_allclose(plain.features, other.features, atol=1e-5)


def test_the_box_changes_only_queries(dataset: Dataset, tmp_path: Path) -> None:
    encoder = mb.load_encoder(MODEL)
    whole, boxed = (
        {role: bank(task, encoder, dataset, role, tmp_path / task) for role in ("database", "queries")}
        for task in ("retrieval-single", "retrieval-single-box")
    )
    assert whole["database"].key == boxed["database"].key  # one extraction serves both tasks
    assert (whole["database"].features == boxed["database"].features).all()
    assert whole["queries"].key != boxed["queries"].key
    assert (np.abs(whole["queries"].features - boxed["queries"].features).max(axis=1) > 1e-3).all()


def records() -> dict[str, ResultRecord]:
    """The records of the working directory by task."""
    return {path.parent.name: read_record(path) for path in sorted(Path("results").rglob("*.json"))}


def test_a_run_on_perfect_features(places: Places, run_cli: Cli) -> None:
    """All pictures of a landmark are the same, so that any network ranks them first."""
    command = ("run", "--task", "retrieval,retrieval-single,retrieval-224", "--dataset", "roxford5k", "--model", MODEL)
    answer = run_cli(*command, *places)
    assert answer.code == 0, answer.err
    assert answer.out.count("map_medium 100.00 [100.00, 100.00]") == 3
    for record in records().values():
        assert {metric.value for metric in record.metrics.values()} == {1.0}
        assert record.metrics["map_easy"].details == {"queries_left_out": 1}
        assert record.num_items == LANDMARK_SIZES
        assert (record.num_classes, record.complete, record.departures) == (None, True, [])
    assert run_cli(*command, *places).out.count("finished before") == 3


def test_a_run_with_and_without_the_box_is_verified(places: Places, run_cli: Cli) -> None:
    command = ("run", "--task", "retrieval,retrieval-box", "--dataset", "roxford5k", "--model", MODEL)
    answer = run_cli(*command, *places)
    assert answer.code == 0, answer.err
    found = records()
    plain, boxed = (found[name].identity for name in ("retrieval", "retrieval-box"))
    assert plain.preprocessing is not None
    assert boxed.preprocessing is not None
    assert (plain.preprocessing.query_box, boxed.preprocessing.query_box) == (False, True)
    assert plain.preprocessing.scales == boxed.preprocessing.scales == (1.0, 0.7071067811865475, 0.5)
    assert (plain.preprocessing.resize_mode, plain.preprocessing.crop) == ("longest", None)
    assert plain.feature_keys["database"] == boxed.feature_keys["database"]
    assert plain.feature_keys["queries"] != boxed.feature_keys["queries"]
    files = sorted(Path("results").rglob("*.json"))
    answer = run_cli("verify", *files, *places)
    assert answer.code == 0, answer.out + answer.err
    assert answer.out.count("reproduced exactly") == 2


def test_fewer_queries(places: Places, run_cli: Cli) -> None:
    command = ("run", "--task", "retrieval-224", "--dataset", "roxford5k", "--model", MODEL, *places)
    answer = run_cli(*command, "--limit", "queries=1")
    assert answer.code == 0, answer.err
    record = records()["retrieval-224"]
    assert record.num_items == {"database": 6, "queries": 1}
    assert record.metrics["map_easy"].details == {}  # it is the second that has nothing easy, and would be left out
    assert record.departures == ["--limit queries=1"]


@pytest.mark.parametrize("limit", ["3", "database=3"])
def test_a_part_of_the_database_is_refused(limit: str, places: Places, run_cli: Cli) -> None:
    command = ("run", "--task", "retrieval", "--dataset", "roxford5k", "--model", MODEL, *places)
    answer = run_cli(*command, "--limit", limit)
    assert answer.code == 2
    assert "the ground truth of roxford5k names the rows of its database, which must therefore stay" in answer.error
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("role", "name"), [("database", "place_b_database000002"), ("queries", "place_a_queries000000")]
)
def test_corrupt_images_are_not_skipped(role: str, name: str, places: Places, run_cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "data" / "roxford5k" / "jpg" / f"{name}.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    command = ("run", "--task", "retrieval-224", "--dataset", "roxford5k", "--model", MODEL, *places)
    answer = run_cli(*command, "--skip-corrupt")
    assert answer.code == 1
    assert f"1 of the {role} skipped, which the ground truth of roxford5k counts by their rows: jpg/" in answer.error
    assert f"{name}.jpg: corrupt image" in run_cli(*command).error
    assert not Path("results").exists()


@pytest.mark.parametrize("model", ["random:vit_tiny_patch16_224", "pixels"])
def test_models_of_one_size_only(model: str, places: Places, run_cli: Cli) -> None:
    answer = run_cli("run", "--task", "retrieval", "--dataset", "roxford5k", "--model", model, *places)
    assert answer.code == 1
    assert "does not take images of 350 × 512 pixels, as the task needs them (its own are" in answer.error
    assert "take a convolutional network, or a ViT from a checkpoint file" in answer.error


class Broken(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("boom")


def test_other_errors_of_a_model_stay_its_own(dataset: Dataset, tmp_path: Path) -> None:
    """Only at sizes other than its own the size is named as the reason."""
    encoder = Encoder(Broken(), mb.load_encoder(MODEL).card)
    with pytest.raises(CellError, match=r"does not take images of 350 × 512 pixels.*: boom"):
        bank("retrieval", encoder, dataset, "database", tmp_path)
    chosen = ExtractionOptions()
    key = bank_key(encoder.card, encoder.card.preprocessing, dataset, "queries", None, chosen)
    with pytest.raises(RuntimeError, match=r"^boom$"):
        load_or_extract(FeatureCache(tmp_path), Wanted(key, lambda: encoder, dataset), chosen, Reporting())


def test_a_copy_without_ground_truth_is_refused(places: Places, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "roxford5k", replace(READERS["roxford5k"], truth=None))
    answer = run_cli("run", "--task", "retrieval", "--dataset", "roxford5k", "--model", "pixels", *places)
    assert answer.code == 2
    assert "task retrieval must know what each query should find, and this copy does not say it" in answer.error


def test_tasks_of_other_kinds_are_refused(places: Places, run_cli: Cli) -> None:
    answer = run_cli("run", "--task", "knn", "--dataset", "roxford5k", "--model", MODEL, *places)
    assert answer.code == 2
    assert "task knn needs a single-label dataset, and roxford5k is retrieval" in answer.error
    assert "retrieval-single-box" in answer.error


def test_check_and_plan(places: Places, run_cli: Cli) -> None:
    answer = run_cli("datasets", "check", "roxford5k", *places)
    assert answer.code == 0, answer.err
    assert "roxford5k: ok; published in" in answer.out
    assert "database 6, queries 2; fingerprint" in answer.out
    command = ("run", "--task", "retrieval", "--dataset", "roxford5k", "--model", MODEL, *places)
    (plan,) = json.loads(run_cli(*command, "--dry-run", "--json").out)
    assert plan["status"] == "extract"
    assert plan["detail"].endswith(": database 6, queries 2")


def test_a_million_distractors_are_shared(run_cli: Cli, tmp_path: Path) -> None:
    """The publishers' folders beside each other: the distractors go through the network once for both datasets."""
    data, names = tmp_path / "data", ("roxford5k", "rparis6k")
    for name in names:
        write_landmarks(data / name, name)
        small_registry(tmp_path, f"{name}-1m", {**LANDMARK_SIZES, "distractors": 5})
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        path = data / "revisitop1m" / "jpg" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((60, 45), Image.Resampling.NEAREST).save(path)
    places = ("--include-path", tmp_path / "registry", "--data-root", data, "--offline", "--model", MODEL)
    found = []
    for name in names:
        answer = run_cli("run", "--task", "retrieval-1m", "--dataset", f"{name}-1m", *places)
        assert answer.code == 0, answer.err
        (record,) = (read_record(path) for path in Path("results").rglob(f"{name}-1m.json"))
        assert record.num_items == {**LANDMARK_SIZES, "distractors": 5}
        assert record.metrics["map_medium"].details["distractors"] == 5
        assert {metric.value for metric in record.metrics.values()} == {1.0}
        found.append((record.num_extracted, record.identity.feature_keys["distractors"]))
    landmarks = sum(LANDMARK_SIZES.values())
    assert [count for count, _ in found] == [landmarks + 5, landmarks]
    assert found[0][1] == found[1][1]
    shutil.rmtree(data / "revisitop1m")
    answer = run_cli("run", "--task", "retrieval-1m", "--dataset", "roxford5k-1m", *places, "--force")
    assert answer.code in (1, 2)
    assert "expected its own layout (with revisitop1m); next: place roxford5k as for the dataset" in answer.err
