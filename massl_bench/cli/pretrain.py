"""`massl-bench pretrain`: train, write the weights with their manifest, and benchmark them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from massl_bench.cli.options import DataRoot, Offline, cache_directory, open_registry
from massl_bench.cli.output import print_outcome
from massl_bench.errors import CellError, RequestError

if TYPE_CHECKING:
    from massl_bench.planning import RunRequest
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
    licence: Annotated[str, typer.Option(help="Of the weights, for their manifest.")] = "none stated",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    data_root: DataRoot = None,
    cache_dir: Annotated[Path | None, typer.Option(envvar="MASSL_BENCH_CACHE", help="Features and downloads.")] = None,
    weights_dir: Annotated[Path, typer.Option(help="Where weights, manifest and checkpoints are written.")] = Path(
        "weights"
    ),
    results_dir: Annotated[Path, typer.Option(help="Where --bench writes its records.")] = Path("results"),
    include_path: Annotated[list[Path] | None, typer.Option(help="Directory with tasks/ of your own.")] = None,
    offline: Offline = False,
) -> None:
    """Pretrain a backbone; write NAME.safetensors and its manifest. Under torchrun it is distributed."""
    from massl_bench.datasets import DataOptions
    from massl_bench.planning import RunRequest
    from massl_bench.pretrain.config import load_config
    from massl_bench.pretrain.trackers import require_wandb
    from massl_bench.pretraining import PretrainRequest
    from massl_bench.pretraining import pretrain as train
    from massl_bench.progress import say
    from massl_bench.results import check_results_dir
    from massl_bench.storage import file_safe

    if method not in ("massl", "carp"):
        raise RequestError(f"--method {method}: expected massl or carp")
    registry = open_registry(include_path, weights_dir)
    cells = registry.suite(bench).pairs if bench is not None else []
    check_results_dir(results_dir)
    settings = [*(set or []), *([f"run.wandb={json.dumps(wandb)}"] if wandb is not None else [])]
    config = load_config(preset, settings, method)
    require_wandb(config)
    request = PretrainRequest(
        dataset=dataset,
        config=config,
        name=file_safe(name if name is not None else f"{preset}-{dataset}"),
        resume=resume,
        force=force,
        with_untrained=bench is not None,
        weights_dir=weights_dir,
        licence=licence,
        data=DataOptions(cache_dir=cache_directory(cache_dir), data_root=data_root, offline=offline),
    )
    with _process_group(device) as (rank, rank_device):
        trained = train(request, registry, rank=rank, device=rank_device)
    if not trained.finished:
        say(f"stopped by SIGTERM after step {trained.step}; the same command with --resume goes on")
        raise typer.Exit(REQUEUE)
    if rank != 0:
        return
    print(f"{request.name}: {trained.step} steps on {dataset} -> {weights_dir / request.name}.toml")
    if bench is not None:
        run = RunRequest(
            cells=cells,
            models=request.models,
            suite=bench,
            device=device,
            data=request.data,
            results_dir=results_dir,
        )
        _benchmark(run, bench, open_registry(include_path, weights_dir))  # anew: it now holds the manifests


def _benchmark(request: RunRequest, suite: str, registry: Registry) -> None:
    """Runs a suite on the models that were written, and prints their rows."""
    from massl_bench.leaderboard import Leaderboard, collect, to_markdown
    from massl_bench.pretraining import run_suite

    failed = [outcome for outcome in run_suite(request, registry) if outcome.status == "failed"]
    for outcome in failed:
        print_outcome(outcome)
    board = collect(request.results_dir, registry, suite)
    ours = [row for row in board.rows if row.record.identity.model.name in request.models]
    print(to_markdown(Leaderboard(cells=board.cells, rows=ours, apart=(), suite=suite)), end="")
    if failed:
        count = len(request.cells) * len(request.models)
        raise CellError(f"{len(failed)} of {count} cells failed; massl-bench run --suite {suite} repeats them")


@contextmanager
def _process_group(device: str) -> Iterator[tuple[int, str]]:
    """Yields this process's rank and device, inside a process group where torchrun started it.

    Raises:
        RequestError: The device is not there; before other processes are waited for.
    """
    from massl_bench.devices import resolve_device

    rank_device = resolve_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, rank_device
        return
    local_rank = os.environ["LOCAL_RANK"]
    if device.startswith("cuda:"):
        raise RequestError(f"--device {device}: under torchrun each process takes its own; give auto, cuda or cpu")
    on_gpu = rank_device != "cpu"
    if on_gpu:
        rank_device = resolve_device(f"cuda:{local_rank}")
    import torch
    import torch.distributed as dist

    if on_gpu:
        torch.cuda.set_device(rank_device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank(), rank_device
    finally:
        dist.destroy_process_group()
