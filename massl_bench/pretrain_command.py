"""`massl-bench pretrain`: train, write the weights with their manifest, and benchmark them.

This is a part of the command line: it hands the protocols to the trainer, which knows none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.errors import CellError, RequestError

if TYPE_CHECKING:
    from massl_bench.datasets import DataOptions, ImageSplit
    from massl_bench.pretrain.config import PretrainConfig
    from massl_bench.pretrain.trainer import OnlineEvaluation
    from massl_bench.specs import Registry

REQUEUE = 75
"""Exit code after SIGTERM (EX_TEMPFAIL): the same command with --resume goes on."""


def pretrain(
    dataset: Annotated[str, typer.Option(help="Registry name, folder:DIR, hf:REPO[@REV] or wds:PATTERN.")],
    method: Annotated[str, typer.Option(help="massl or carp.")],
    preset: Annotated[str, typer.Option(help="Configuration to start from.")],
    set: Annotated[list[str] | None, typer.Option(help="key=value, as in optimiser.lr=0.001; repeatable.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the weights [default: PRESET-DATASET].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Resume under another configuration.")] = False,
    bench: Annotated[str | None, typer.Option(help="Then run this suite, beside the untrained network.")] = None,
    wandb: Annotated[str | None, typer.Option(help="Project of Weights & Biases to log to as well.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    data_root: Annotated[
        Path | None, typer.Option(envvar="MASSL_BENCH_DATA", help="Directory with one folder for each dataset.")
    ] = None,
    cache_dir: Annotated[Path | None, typer.Option(envvar="MASSL_BENCH_CACHE", help="Features and downloads.")] = None,
    weights_dir: Annotated[Path, typer.Option(help="Where weights, manifest and checkpoints are written.")] = Path(
        "weights"
    ),
    results_dir: Annotated[Path, typer.Option(help="Where --bench writes its records.")] = Path("results"),
    include_path: Annotated[list[Path] | None, typer.Option(help="Directory with tasks/ of your own.")] = None,
    offline: Annotated[bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Never download.")] = False,
) -> None:
    """Pretrain a backbone; write NAME.safetensors and its manifest. Under torchrun it is distributed."""
    from massl_bench.datasets import DataOptions
    from massl_bench.pretrain.config import load_config
    from massl_bench.pretrain.trackers import require_wandb
    from massl_bench.specs import Registry
    from massl_bench.storage import default_cache_dir, file_safe

    if method not in ("massl", "carp"):
        raise RequestError(f"--method {method}: expected massl or carp")
    registry = Registry(include_path or [], weights_dir)
    if bench is not None:
        registry.suite(bench)
    settings = [*(set or []), *([f"run.wandb={json.dumps(wandb)}"] if wandb is not None else [])]
    config = load_config(preset, settings, method)
    require_wandb(config)
    request = _Request(
        dataset=dataset,
        config=config,
        name=file_safe(name if name is not None else f"{preset}-{dataset}"),
        resume=resume,
        force=force,
        weights_dir=weights_dir,
        data=DataOptions(
            cache_dir=cache_dir.expanduser() if cache_dir is not None else default_cache_dir(),
            data_root=data_root,
            offline=offline,
        ),
    )
    with _process_group(device) as (rank, rank_device):
        _train_and_export(request, registry, rank, rank_device, with_untrained=bench is not None)
    if bench is not None and rank == 0:
        _benchmark(request, bench, results_dir, device, include_path)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What the user asked for, checked as far as that is possible without data."""

    dataset: str
    config: PretrainConfig
    name: str
    resume: bool
    force: bool
    weights_dir: Path
    data: DataOptions

    @property
    def untrained(self) -> str:
        """The name of the same network at random initialisation."""
        return f"{self.name}-untrained"


def _train_and_export(request: _Request, registry: Registry, rank: int, device: str, *, with_untrained: bool) -> None:
    from massl_bench.datasets import open_dataset
    from massl_bench.pretrain.export import export_weights
    from massl_bench.pretrain.loading import check_images
    from massl_bench.pretrain.state import initial_network
    from massl_bench.pretrain.trainer import TrainingJob, train

    config = request.config
    dataset = open_dataset(request.dataset, registry, request.data, fetch=True)
    split = dataset.split("train" if "train" in dataset.sources else next(iter(dataset.sources)))
    check_images(split, config, request.dataset)
    trained = train(
        TrainingJob(
            config=config,
            split=split,
            data={"reference": request.dataset, "fingerprint": dataset.fingerprint, "images": len(split)},
            folder=request.weights_dir / request.name,
            device=device,
            resume=request.resume,
            force=request.force,
            evaluate=_online_evaluation(config, split) if rank == 0 else None,
        )
    )
    if not trained.finished:
        _say(f"stopped by SIGTERM after step {trained.step}; the same command with --resume goes on")
        raise typer.Exit(REQUEUE)
    if rank != 0:
        return
    told: dict[str, Any] = {"dataset": request.dataset, "fingerprint": dataset.fingerprint, "images": len(split)}
    manifest = export_weights(
        trained.backbone,
        config,
        name=request.name,
        folder=request.weights_dir,
        training={**told, "steps": trained.step},
    )
    print(f"{request.name}: {trained.step} steps on {request.dataset} -> {manifest}")
    if with_untrained:
        fresh = initial_network(config).backbone.eval()
        export_weights(fresh, config, name=request.untrained, folder=request.weights_dir, training={**told, "steps": 0})


def _online_evaluation(config: PretrainConfig, split: ImageSplit) -> OnlineEvaluation | None:
    """Returns the k-NN accuracy on held out training images as a function of the backbone, where there are labels."""
    from massl_bench.api import evaluate
    from massl_bench.pretrain.export import evaluation_preprocessing
    from massl_bench.pretrain.holdout import Holdout

    if split.labels is None or split.labels.ndim != 1 or not config.run.knn_every:
        return None
    holdout = Holdout.draw(
        split, evaluation_preprocessing(config), seed=config.seed, max_bank=10_000, max_queries=2_000
    )
    k = min(20, len(holdout.bank))

    def accuracy(backbone: Any) -> float:
        params = {"k": [k], "bootstrap_resamples": 1}
        return evaluate("knn", holdout.banks(backbone), params=params)[f"top1@{k}"].value

    return accuracy


def _benchmark(request: _Request, suite: str, results_dir: Path, device: str, include_path: list[Path] | None) -> None:
    """Runs a suite on the trained and the untrained network and prints their rows."""
    from massl_bench.leaderboard import Leaderboard, collect, to_markdown
    from massl_bench.planning import Planner, RunRequest
    from massl_bench.progress import reporting
    from massl_bench.runner import Runner
    from massl_bench.specs import Registry

    registry = Registry(include_path or [], request.weights_dir)  # anew: it now holds the exported manifests
    models = [request.name, request.untrained]
    run = RunRequest(
        cells=[(cell.task, cell.dataset) for cell in registry.suite(suite).cells],
        models=models,
        from_suite=True,
        device=device,
        data=request.data,
        results_dir=results_dir,
    )
    planner = Planner(run, registry, reporting())
    planned = planner.plan()
    failed = [outcome for outcome in Runner(planner, reporting()).run(planned) if outcome.status == "failed"]
    for outcome in failed:
        _say(f"error: {outcome.model} {outcome.task} {outcome.dataset}: {outcome.error}")
    board = collect(results_dir, registry, suite)
    ours = [row for row in board.rows if row.record.identity.model.name in models]
    print(to_markdown(Leaderboard(cells=board.cells, rows=ours, apart=(), suite=suite)), end="")
    if failed:
        raise CellError(f"{len(failed)} of {len(planned)} cells failed; massl-bench run --suite {suite} repeats them")


@contextmanager
def _process_group(device: str) -> Iterator[tuple[int, str]]:
    """Yields this process's rank and device, inside a process group where torchrun started it."""
    from massl_bench.devices import num_gpus, resolve_device

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, resolve_device(device)
        return
    import torch
    import torch.distributed as dist

    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = device != "cpu" and num_gpus() > 0
    rank_device = f"cuda:{local_rank}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank(), rank_device
    finally:
        dist.destroy_process_group()


def _say(text: str) -> None:
    from massl_bench.progress import say

    say(text)
