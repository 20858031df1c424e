"""What a report shows of features and images: the right ones, and a reason where there are none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from massl_bench.bench import galleries
from massl_bench.bench.attention import attended
from massl_bench.bench.galleries import Wishes, look_at, to_look_at
from massl_bench.bench.views import views_of
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.files import default_cache_dir
from massl_bench.core.values import CopyTruth, FeatureBank, QueryTruth
from massl_bench.datasets import DataOptions
from massl_bench.features import Reporting
from massl_bench.learners.planar import planar
from massl_bench.protocols import copy_detection
from massl_bench.records.reading import read_record
from massl_bench.specs.registry import Registry
from tests.conftest import Answer

Cli = Callable[..., Answer]


def test_digits_in_pixels(run_cli: Cli) -> None:
    assert run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels", "--device", "cpu").code == 0
    record = read_record(Path("results/pixels/knn/digits.json"))
    assert record.num_extracted == 1797
    data = DataOptions(cache_dir=default_cache_dir(), offline=True)
    look = look_at(record, Registry(), data, Wishes(map="pca", map_items=100), Reporting())
    assert dict(look.missing) == {"attention": "the network has no class token"}
    wrong, right = look.galleries
    assert [query.neighbours[0].right for query in wrong.queries] == [False] * 6
    assert [query.neighbours[0].right for query in right.queries] == [True] * 6
    for query in (*wrong.queries, *right.queries):
        assert all((found.image.label == query.image.label) == found.right for found in query.neighbours)
        similarities = [found.similarity for found in query.neighbours]
        assert similarities == sorted(similarities, reverse=True)
        assert Image.open(io.BytesIO(query.image.jpeg)).size == (8, 8)
    assert "6 of 17 such test items" in wrong.text  # nearest neighbours of pixels: 433 of 450 are right
    assert look.map is not None
    assert sorted(look.map.classes) == sorted([*range(10)] * 10)
    assert len(look.map.images) == 100
    assert sum(look.spectrum) == pytest.approx(1)
    assert list(look.spectrum) == sorted(look.spectrum, reverse=True)
    assert run_cli("run", "--task", "kmeans", "--dataset", "digits", "--model", "pixels", "--device", "cpu").code == 0
    second = read_record(Path("results/pixels/kmeans/digits.json"))
    assert second.num_extracted == 0  # its features were in the cache
    assert to_look_at([second, record], None) == [record]
    assert to_look_at([second, record], ["other"]) == []

    elsewhere = DataOptions(cache_dir=Path("empty").absolute(), offline=True)
    assert (
        "are not in the cache"
        in look_at(record, Registry(), elsewhere, Wishes(), Reporting()).missing["images and features"]
    )
    task = record.identity.task.model_copy(update={"seed": 1})
    other = record.model_copy(update={"identity": record.identity.model_copy(update={"task": task})})
    assert (
        "others than the record's"
        in look_at(other, Registry(), data, Wishes(), Reporting()).missing["images and features"]
    )


def shelf(banks: dict[str, Any], **cell: Any) -> Any:
    """Banks whose images are their rows."""
    found = {role: FeatureBank.from_arrays(np.asarray(rows, np.float32)) for role, rows in banks.items()}

    def query(role: str, row: int, note: str, near: Any) -> Any:
        return SimpleNamespace(row=row, note=note, near=[(at, number, right) for at, number, right, _ in near])

    return SimpleNamespace(banks=found, query=query, cell=SimpleNamespace(task=SimpleNamespace(**cell)))


def test_queries_that_fail() -> None:
    """On a circle: the database at 0°, 10°, …, 90°."""
    angle = np.deg2rad(np.arange(0, 100, 10))
    database = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rows = lambda *numbers: np.array(numbers, dtype=np.int64)  # noqa: E731
    truth = [
        QueryTruth(easy=rows(0), hard=rows(), junk=rows()),  # found at once
        QueryTruth(easy=rows(), hard=rows(9), junk=rows(1)),  # behind eight others and a junk image
        QueryTruth(easy=rows(), hard=rows(), junk=rows(2)),  # nothing to find
    ]
    gallery = galleries._failed_retrieval(shelf({"database": database, "queries": database[[0, 0, 0]]}), truth)
    assert [(query.row, query.note) for query in gallery.queries] == [
        (1, "8 wrong images before the first right one"),
    ]
    assert gallery.queries[0].near[:3] == [("database", 0, False), ("database", 1, None), ("database", 2, False)]
    assert gallery.text.startswith("The worst 1 of 1 queries that")
    assert gallery.text.endswith("of 3")


def test_copies_that_are_missed() -> None:
    originals, distractors = np.eye(4)[:2], np.eye(4)[2:]
    queries = np.array([[1, 0.1, 0, 0], [0, 0.5, 1, 0.8], [0, 0, 1, 0]])
    truth = CopyTruth(original=np.array([0, 1, -1]), block=np.array(["strong", "crops/10", "strong"]))
    params = copy_detection.Params(
        rank_limit="all", whitening_exponent=0.5, eigenvalue_floor=1e-6, bootstrap_resamples=10
    )
    banks = {"originals": originals, "distractors": distractors, "queries": queries}
    (query,) = galleries._missed_copies(shelf(banks, params=params), truth).queries
    assert (query.row, query.note) == (1, "crops/10: 2 images before its original")
    assert query.near == [
        ("distractors", 0, False), ("distractors", 1, False), ("originals", 1, True), ("originals", 0, False),
    ]  # fmt: skip


def test_attention_is_the_networks_own() -> None:
    from massl_bench.models import ModelOptions, open_model

    options = ModelOptions(cache_dir=default_cache_dir())
    encoder = open_model("random:vit_tiny_patch16_224", Registry(), options).encoder("cpu")
    kept = []
    block = encoder.backbone.blocks[-1].attn
    block.fused_attn = False
    block.attn_drop.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    with torch.no_grad():
        block.qkv.weight.mul_(30)  # no longer uniform
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    ((seen, lit),) = attended(encoder, [image], encoder.card.preprocessing)
    (weight_1HTT,) = kept
    weight_P = weight_1HTT[0, :, 0, 1:].mean(0)
    patch = int(weight_P.argmax())
    assert weight_P.max() > 2 * weight_P.median()
    row, column = 16 * (patch // 14) + 8, 16 * (patch % 14) + 8
    here = slice(row - 3, row + 3), slice(column - 3, column + 3)
    assert np.asarray(lit, dtype=float)[here].mean() > 0.8 * np.asarray(seen, dtype=float)[here].mean()
    assert np.asarray(lit, dtype=float).mean() < 0.8 * np.asarray(seen, dtype=float).mean()
    with pytest.raises(CellError, match="no class token"):
        attended(open_model("pixels", Registry(), options).encoder("cpu"), [image], encoder.card.preprocessing)


def test_maps() -> None:
    angles = np.repeat([0, 2], 10) + np.tile(np.linspace(0, 0.1, 10), 2)
    rows = np.stack([np.cos(angles), np.sin(angles), np.zeros(20)], axis=1).astype(np.float32)
    for method in ("pca", "tsne"):
        place = planar(rows, method)
        assert place.min() == 0
        assert place.max() == 1
        gap = np.linalg.norm(place[:10].mean(axis=0) - place[10:].mean(axis=0))
        assert gap > 2 * place[:10].std(axis=0).max()
        np.testing.assert_array_equal(place, planar(rows, method))
    with pytest.raises(RequestError, match="pip install umap-learn"):
        planar(rows, "umap")


def test_views_of_a_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    data, name, registry = DataOptions(cache_dir=default_cache_dir(), offline=True), "massl-small-cifar10", Registry()
    assert views_of(name, registry, data, said.append) is None
    assert "no samples of its views: dataset cifar10 is not there" in said[0]
    assert views_of("pixels", registry, data, said.append) is None
    manifest = registry.manifest(name)
    on_digits = manifest.model_copy(update={"training": {**manifest.training, "dataset": "digits"}})
    monkeypatch.setattr(registry, "manifest", lambda _: on_digits)
    gallery = views_of(name, registry, data, said.append)
    assert gallery is not None
    assert "4 of 1,347 train images of digits" in gallery.text
    for query in gallery.queries:
        assert [found.image.label for found in query.neighbours] == ["global 1", "global 2", "local 1", "local 2"]
        sizes = [Image.open(io.BytesIO(found.image.jpeg)).size for found in query.neighbours]
        assert sizes == [(32, 32), (32, 32), (16, 16), (16, 16)]
