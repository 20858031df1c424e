"""`massl-bench report`: a page of charts of a few models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from massl_bench.cli.options import IncludePath, ResultsDir, WeightsDir, open_registry
from massl_bench.cli.output import say_apart, write_out
from massl_bench.core.errors import unknown_name

if TYPE_CHECKING:
    from massl_bench.specs.registry import Registry


def report(
    models: Annotated[list[str], typer.Argument(help="Models, as a leaderboard names them.")],
    out: Annotated[Path, typer.Option(help="The page that is written.")] = Path("report.html"),
    results_dir: ResultsDir = Path("results"),
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
) -> None:
    """Write one page of charts of some models.

    Values over cells, sizes, k, shots and classes, and the pretraining.

    Needs matplotlib: pip install 'massl-bench[report]'. Outcomes by class come from the items beside records, the
    pretraining from the log beside a model's manifest.
    """
    from massl_bench.records.rows import collect
    from massl_bench.report.models import models_page

    registry = open_registry(include_path, weights_dir)
    board = collect(results_dir, registry)
    found = {name: [row for row in board.rows if row.record.identity.model.name == name] for name in models}
    for name, rows in found.items():
        if not rows:
            known = {row.record.identity.model.name for row in board.rows}
            raise unknown_name("model", name, known, "models with a current, complete record")
    say_apart(board, models)
    text = models_page(found, {name: log for name in found if (log := _log_of(name, registry)) is not None})
    write_out(out, text)


def _log_of(name: str, registry: Registry) -> Path | None:
    """Returns the log that pretraining left beside a model's manifest."""
    manifest = registry.manifests.get(name)
    log = manifest.with_name(f"{name}.log.jsonl") if manifest is not None else None
    return log if log is not None and log.is_file() else None
