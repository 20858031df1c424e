"""`massl-bench pretrain`: train, write the weights with their manifest, and benchmark them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from massl_bench.cli.options import (
    CacheDir,
    DataRoot,
    IncludePath,
    Json,
    Offline,
    ResultsDir,
    WeightsDir,
    cache_directory,
    open_registry,
)
from massl_bench.cli.output import outcome_json, print_json, print_outcome
from massl_bench.cli.stopping import REQUEUE, stopping
from massl_bench.core.directories import check_directory
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.terminal import say, show, show_document
from massl_bench.pretrain.presets import preset_files

if TYPE_CHECKING:
    from massl_bench.bench.beside import BesideTraining
    from massl_bench.bench.launch import Launcher
    from massl_bench.bench.pretraining import PretrainPlan, PretrainRequest
    from massl_bench.bench.request import RunRequest
    from massl_bench.bench.runner import Outcome
    from massl_bench.pretrain.config import PretrainConfig
    from massl_bench.specs.registry import Registry


@stopping("the same command with --resume")
def pretrain(
    dataset: Annotated[str, typer.Option(help="Registry name, folder:DIR, hf:REPO[@REV] or wds:PATTERN.")],
    preset: Annotated[
        str,
        typer.Option(help=f"Configuration to start from, or a TOML file of yours: {', '.join(preset_files())}."),
    ],
    method: Annotated[str | None, typer.Option(help="Which the preset must be of; it says so itself.")] = None,
    set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="As in optimiser.lr=0.001; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the weights [default: PRESET-DATASET].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Resume under another configuration; start with too little memory.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration, steps, memory and hours, and train nothing.")
    ] = False,
    bench: Annotated[str | None, typer.Option(help="Then run this suite, beside the untrained network.")] = None,
    bench_every: Annotated[
        int | None,
        typer.Option(min=1, help="Run it on checkpoints too, every so many steps, beside the training (--launcher)."),
    ] = None,
    launcher: Annotated[str, typer.Option(help="Of --bench, as of run: local, ray, or a plugin's.")] = "local",
    wandb: Annotated[str | None, typer.Option(help="Project of Weights & Biases to log to as well.")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, for their manifest.")] = "none stated",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = Path("results"),
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Pretrain a backbone; write NAME.safetensors and its manifest. Under torchrun it is distributed.

    --json prints {name, steps, manifest, outcomes}; outcomes are those of --bench, as run --json prints them. With
    --dry-run it prints {config, images, steps, memory_bytes, free_bytes, step_s, views_s, hours}.
    """
    if os.environ.get("RANK", "0") == "0":  # at once: torch alone takes longer to load
        say(f"pretrain: preset {preset}, dataset {dataset}")
    import json

    from massl_bench.bench import watched
    from massl_bench.bench.pretraining import PretrainRequest, plan_pretraining, weights_name
    from massl_bench.bench.pretraining import pretrain as train
    from massl_bench.bench.progress import reporting
    from massl_bench.datasets import DataOptions
    from massl_bench.pretrain.configure import load_config
    from massl_bench.pretrain.loop.trackers import require_wandb
    from massl_bench.records.reading import check_results_dir

    registry = open_registry(include_path, weights_dir)
    cells = registry.suite(bench).pairs if bench is not None else []
    check_results_dir(results_dir)
    tracking = [f"run.wandb={json.dumps(wandb)}"] if wandb is not None else []
    config = load_config(preset, [*(set or []), *tracking], method)
    require_wandb(config)
    check_directory(weights_dir, "weights_dir")
    found = _bench_launcher(launcher, bench, bench_every, config)
    request = PretrainRequest(
        dataset=dataset,
        config=config,
        name=weights_name(name, preset, dataset),
        resume=resume,
        force=force,
        with_untrained=bench is not None,
        weights_dir=weights_dir,
        licence=licence,
        data=DataOptions(cache_dir=cache_directory(cache_dir), data_root=data_root, offline=offline),
    )
    if dry_run:
        _print_plan(plan_pretraining(request, registry, device=device), as_json=as_json)
        return
    with (
        _process_group(device) as (rank, rank_device),
        _beside(request, bench_every if rank == 0 else None, found, cells, registry, results_dir) as beside,
    ):
        written = beside.written if beside is not None else None
        trained = train(request, registry, rank=rank, device=rank_device, written=written)
    if not trained.finished:
        say(f"stopped by SIGTERM after step {trained.step}; the same command with --resume goes on")
        raise typer.Exit(REQUEUE)
    if rank != 0:
        return
    manifest = weights_dir / f"{request.name}.toml"
    if not as_json:
        show(f"{request.name}: {trained.step} steps on {dataset} -> {manifest}")
    outcomes: list[Outcome] = [*beside.outcomes] if beside is not None else []
    if bench is not None:
        run = _run_of(request, bench, cells, device, results_dir)
        registry = open_registry(include_path, weights_dir)  # anew: it now holds the manifests
        outcomes += watched.launch(found, run, registry, reporting())
        if not as_json:
            _print_rows(run, bench, registry)
    if as_json:
        told = [outcome_json(outcome) for outcome in outcomes]
        print_json({"name": request.name, "steps": trained.step, "manifest": manifest, "outcomes": told})
    _end_with_failures(outcomes, bench)


def _bench_launcher(launcher: str, bench: str | None, every: int | None, config: PretrainConfig) -> Launcher:
    """Returns the launcher of the benchmark; raises `RequestError` for options that do not go together."""
    from massl_bench.bench.launch import find_launcher

    found = find_launcher(launcher)
    if bench is None and (every is not None or launcher != "local"):
        raise RequestError(f"--{'bench-every' if every is not None else 'launcher'}: belongs to --bench SUITE")
    if every is not None:
        from massl_bench.bench.beside import check_bench_every

        check_bench_every(every, config.run.checkpoint_every, launcher)
    return found


@contextmanager
def _beside(  # what a benchmark of a checkpoint needs
    request: PretrainRequest,
    every: int | None,
    launcher: Launcher,
    cells: Sequence[tuple[str, str]],
    registry: Registry,
    results_dir: Path,
) -> Iterator[BesideTraining | None]:
    """Yields what measures checkpoints as they appear, where that is asked for."""
    if every is None:
        yield None
        return
    from massl_bench.bench.beside import BesideTraining
    from massl_bench.bench.progress import reporting
    from massl_bench.bench.request import RunRequest

    def run(file: Path, step: int) -> RunRequest:
        name = f"{request.name}-step{step}"
        return RunRequest(cells=cells, models=[str(file)], name=name, data=request.data, results_dir=results_dir)

    folder = request.weights_dir / request.name
    with BesideTraining(launcher, run, registry, reporting(), folder=folder, every=every) as beside:
        yield beside


def _run_of(
    request: PretrainRequest, suite: str, cells: Sequence[tuple[str, str]], device: str, results_dir: Path
) -> RunRequest:
    """Returns the request for a suite on what was trained."""
    from massl_bench.bench.request import RunRequest

    return RunRequest(
        cells=cells,
        models=request.models,
        suite=suite,
        device=device,
        data=request.data,
        results_dir=results_dir,
    )


def _end_with_failures(outcomes: Sequence[Outcome], suite: str | None) -> None:
    """Says which cells failed; raises `CellError` where one did."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print_outcome(outcome)
    if failed:
        raise CellError(f"{len(failed)} of {len(outcomes)} cells failed; massl-bench run --suite {suite} repeats them")


def _print_plan(plan: PretrainPlan, *, as_json: bool) -> None:
    """Prints what a training would do and need."""
    config, hours = plan.config.model_dump(mode="json", exclude_none=True), plan.seconds / 3600
    needed = None if plan.fit.unknown else plan.fit.needed
    if as_json:
        memory = {"memory_bytes": needed, "free_bytes": plan.fit.free}
        times = {"step_s": plan.step_s, "views_s": plan.views_s, "hours": hours}
        print_json({"config": config, "images": plan.images, "steps": plan.steps, **memory, **times})
        return
    from massl_bench.pretrain.config import flat

    for key, value in flat(config).items():
        show(f"{key}: {value}")
    show(
        f"steps: {plan.steps:,} of {plan.config.batch_size:,} images, in {plan.config.epochs:,} epochs of "
        f"{plan.images:,} images"
    )
    show(f"memory: {plan.fit}")
    views = "the views not counted, as the images are not on this machine"
    if plan.views_s is not None:
        views = f"{plan.views_s:.3g} s of one core for its views"
    show(f"time: about {hours:,.3g} hours; a step takes {plan.step_s:.3g} s on {plan.fit.device}, {views}")


def _print_rows(request: RunRequest, suite: str, registry: Registry) -> None:
    """Prints the rows of the models that were written."""
    from massl_bench.records.rows import Leaderboard, collect
    from massl_bench.records.tables import to_markdown

    board = collect(request.results_dir, registry, suite)
    ours = [row for row in board.rows if row.record.identity.model.name in request.models]
    show_document(to_markdown(Leaderboard(cells=board.cells, rows=ours, apart=(), suite=suite)))


@contextmanager
def _process_group(device: str) -> Iterator[tuple[int, str]]:
    """Yields this process's rank and device, inside a process group where torchrun started it.

    Raises:
        RequestError: The device is not there; before other processes are waited for.
    """
    from massl_bench.core.devices import resolve_device

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
    from torch.distributed.rendezvous import rendezvous

    from massl_bench.pretrain.distributed import store_of_this_start

    if on_gpu:
        torch.cuda.set_device(rank_device)
    store, rank, ranks = next(rendezvous("env://"))
    store = store_of_this_start(store, rank, ranks)
    dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=ranks)
    try:
        yield dist.get_rank(), rank_device
    finally:
        dist.destroy_process_group()
