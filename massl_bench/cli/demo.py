"""`massl-bench demo`: the whole story on embedded data, offline, on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from massl_bench.cli.options import CacheDir, Json, cache_directory, open_registry
from massl_bench.cli.output import print_outcomes
from massl_bench.cli.stopping import REQUEUE, stopping
from massl_bench.core.terminal import say, show_document


@stopping("the same command")
def demo(
    directory: Annotated[Path, typer.Option(help="Where weights, results and leaderboard are written.")] = Path(
        "massl-bench-demo"
    ),
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Pretrain a tiny MaSSL on digits, and print its leaderboard.

    The columns are those of the suite `quick`. Offline, on a CPU.

    --json prints the outcomes as run --json does.
    """
    from massl_bench.bench.pretraining import PretrainRequest, pretrain
    from massl_bench.bench.progress import reporting
    from massl_bench.bench.request import RunRequest
    from massl_bench.bench.runner import run_request
    from massl_bench.core.files import write_atomic
    from massl_bench.datasets import DataOptions
    from massl_bench.pretrain.configure import load_config
    from massl_bench.records.reading import check_results_dir
    from massl_bench.records.rows import collect
    from massl_bench.records.tables import to_markdown

    check_results_dir(directory, "directory")
    weights_dir = directory / "weights"
    request = PretrainRequest(
        dataset="digits",
        config=load_config("tiny-digits"),
        name="massl-digits",
        resume=True,  # a second demo finds the training finished
        with_untrained=True,
        weights_dir=weights_dir,
        licence="none stated",
        data=DataOptions(cache_dir=cache_directory(cache_dir), offline=True),
    )
    say("1. pretraining a tiny ViT with MaSSL on the images of scikit-learn's digits, without their labels")
    trained = pretrain(request, open_registry(None, weights_dir), rank=0, device="cpu")
    if not trained.finished:
        say(f"stopped by SIGTERM after step {trained.step}; the same command goes on")
        raise typer.Exit(REQUEUE)
    registry = open_registry(None, weights_dir)  # anew: it now holds the manifests
    run = RunRequest(
        cells=registry.suite("quick").pairs,
        models=[*request.models, "pixels"],
        suite="quick",
        device="cpu",
        data=request.data,
        results_dir=directory / "results",
    )
    say("2. the suite quick: the trained network, the same network untrained, and the pixels themselves")
    outcomes = print_outcomes(run_request(run, registry, reporting()), as_json=as_json)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)
    table = to_markdown(collect(run.results_dir, registry, "quick"))
    write_atomic(directory / "LEADERBOARD.md", table)
    if not as_json:
        show_document(f"\n{table}\n")
    say(f"3. all of it is in {directory}: weights with their manifests, one record a number, LEADERBOARD.md. Next:")
    for line in (
        "massl-bench run --task knn --dataset folder:DIR --model CHECKPOINT    (images in DIR/{train,test}/CLASS/)",
        "massl-bench pretrain --dataset folder:DIR --preset small-cifar10 --bench quick",
        "massl-bench list datasets    massl-bench info knn    massl-bench doctor",
    ):
        say(f"  {line}")
