"""`massl-bench demo`: a first table, offline, on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from massl_bench.cli.options import CacheDir, cache_directory, open_registry
from massl_bench.cli.output import print_outcome


def demo(
    directory: Annotated[Path, typer.Option(help="Where results and leaderboard are written.")] = Path(
        "massl-bench-demo"
    ),
    cache_dir: CacheDir = None,
) -> None:
    """Run the suite `quick` on embedded data, offline, and print its leaderboard."""
    from massl_bench.datasets import DataOptions
    from massl_bench.leaderboard import collect, to_markdown
    from massl_bench.planning import Planner, RunRequest
    from massl_bench.progress import reporting, say
    from massl_bench.runner import Runner
    from massl_bench.storage import write_atomic

    registry = open_registry(None)
    request = RunRequest(
        cells=[(cell.task, cell.dataset) for cell in registry.suite("quick").cells],
        models=["pixels", "random:mobilenetv3_small_100"],
        data=DataOptions(cache_dir=cache_directory(cache_dir), offline=True),
        results_dir=directory / "results",
    )
    say("k-nearest neighbours on scikit-learn's digits: the raw pixels, and an untrained MobileNet as an encoder")
    planner = Planner(request, registry, reporting())
    failed = False
    for outcome in Runner(planner, reporting()).run(planner.plan()):
        print_outcome(outcome)
        failed |= outcome.status == "failed"
    if failed:
        raise typer.Exit(1)
    table = to_markdown(collect(request.results_dir, registry, "quick"))
    write_atomic(directory / "LEADERBOARD.md", table)
    print(f"\n{table}")
    say(
        f"written to {directory}. Next, your own data and weights:\n"
        "  massl-bench run --task knn --dataset folder:DIR --model CHECKPOINT    (images in DIR/{train,test}/CLASS/)\n"
        "  massl-bench list datasets    massl-bench info knn    massl-bench doctor"
    )
