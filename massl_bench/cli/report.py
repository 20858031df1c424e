"""`massl-bench report`: a page of charts and images of a few models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.cli.options import (
    CacheDir,
    DataRoot,
    IncludePath,
    ResultsDir,
    WeightsDir,
    cache_directory,
    open_registry,
)
from massl_bench.cli.output import say_apart, write_out
from massl_bench.core.errors import unknown_name
from massl_bench.core.terminal import say

if TYPE_CHECKING:
    from massl_bench.core.galleries import Gallery, Look
    from massl_bench.records.rows import Row
    from massl_bench.specs.registry import Registry

_LOOKS = 3
"""Datasets of a model that are looked at, at most, where none is named."""
_IMAGES = 1500
"""Images in all maps of a page together."""


def report(
    models: Annotated[list[str], typer.Argument(help="Models, as a leaderboard names them.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Whose images are shown; repeatable [default: three that are there].")
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Galleries, maps and attention, of features in the cache.")
    ] = True,
    map: Annotated[str, typer.Option(help="Of features: tsne, umap (needs umap-learn) or pca.")] = "tsne",
    out: Annotated[Path, typer.Option(help="The page that is written.")] = Path("report.html"),
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = Path("results"),
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
) -> None:
    """Write one page of charts and images of some models.

    Values over cells, sizes, time, k, shots and classes; confusions; the pretraining; maps of features, queries with
    their nearest neighbours, what retrieval and copy detection miss, attention.

    Needs matplotlib: pip install 'massl-bench[report]'. Images come from --data-root and features from the cache,
    where they are; what is not there is said in the page.
    """
    from massl_bench.records.rows import collect
    from massl_bench.report.models import models_page
    from massl_bench.report.pictures import check_there

    if map not in ("tsne", "umap", "pca"):
        raise unknown_name("map", map, ["tsne", "umap", "pca"])
    check_there()
    registry = open_registry(include_path, weights_dir)
    board = collect(results_dir, registry)
    found = {name: [row for row in board.rows if row.record.identity.model.name == name] for name in models}
    for name, rows in found.items():
        if not rows:
            known = {row.record.identity.model.name for row in board.rows}
            raise unknown_name("model", name, known, "models with a current, complete record")
    say_apart(board, models)
    for name in dataset or ():
        known = {row.cell[1] for rows in found.values() for row in rows}
        if name not in known:
            raise unknown_name("dataset", name, known, "datasets that these models were measured on")
    place: dict[str, Any] = {"data_root": data_root, "cache_dir": cache_directory(cache_dir), "offline": True}
    logs = {name: log for name in found if (log := _log_of(name, registry)) is not None}
    looks = _looks(found, dataset, registry, place, map) if images else {}
    views = _views(list(found), registry, place) if images else {}
    write_out(out, models_page(found, logs, looks, views))


def _looks(
    models: dict[str, list[Row]], datasets: list[str] | None, registry: Registry, place: dict[str, Any], map: Any
) -> dict[str, list[Look]]:
    from massl_bench.bench.galleries import Wishes, look_at, to_look_at
    from massl_bench.bench.progress import reporting
    from massl_bench.datasets import DataOptions

    chosen = {name: to_look_at([row.record for row in rows], datasets) for name, rows in models.items()}
    chosen = {name: records if datasets else records[:_LOOKS] for name, records in chosen.items()}
    count = max(1, sum(len(records) for records in chosen.values()))
    wishes = Wishes(map=map, map_items=min(300, _IMAGES // count))
    looks: dict[str, list[Look]] = {}
    for name, records in chosen.items():
        for record in records:
            look = look_at(record, registry, DataOptions(**place), wishes, reporting())
            looks.setdefault(name, []).append(look)
            for what, why in look.missing.items():
                say(f"{name} on {look.dataset}: no {what}: {why}")
    return looks


def _views(models: list[str], registry: Registry, place: dict[str, Any]) -> dict[str, Gallery]:
    """Returns samples of the views that models were pretrained on, where it is known which, and the data is here."""
    from massl_bench.bench.views import views_of
    from massl_bench.datasets import DataOptions

    found = {name: views_of(name, registry, DataOptions(**place), say) for name in models}
    return {name: gallery for name, gallery in found.items() if gallery is not None}


def _log_of(name: str, registry: Registry) -> Path | None:
    """Returns the log that pretraining left beside a model's manifest."""
    manifest = registry.manifests.get(name)
    log = manifest.with_name(f"{name}.log.jsonl") if manifest is not None else None
    return log if log is not None and log.is_file() else None
