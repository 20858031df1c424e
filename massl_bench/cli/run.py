"""`massl-bench run`: the cells of every model, task and dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from massl_bench.cli.options import (
    NONE_GIVEN,
    CacheDir,
    DataRoot,
    Devices,
    IncludePath,
    Json,
    MaxPixels,
    Offline,
    Processes,
    Rehash,
    ResultsDir,
    WeightsDir,
    cache_directory,
    model_options,
    open_registry,
    parse_bytes,
    parse_devices,
    parse_limits,
    parse_overrides,
    parse_sample,
    parse_splits,
    split_names,
)
from massl_bench.cli.output import print_json, print_outcomes
from massl_bench.cli.stopping import stopping
from massl_bench.core.errors import RequestError
from massl_bench.core.terminal import say, show

if TYPE_CHECKING:
    from massl_bench.bench.request import RunRequest
    from massl_bench.bench.runner import Outcome
    from massl_bench.core.model_settings import ModelSettings
    from massl_bench.features.options import Shard
    from massl_bench.specs.registry import Registry


@model_options
@stopping("finished cells are kept, the same command")
def run(
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Task; repeatable, or a list with commas.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="DATASET", help="Registry name, folder:DIR, hf:REPO[@REV] or wds:PATTERN."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Manifest, checkpoint file, timm:NAME, hf-hub:ORG/NAME, torchvision:NAME[@FILE], random:TIMM_NAME or "
            "pixels; repeatable [default: the bundled weights].",
        ),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="The cells of a suite, in place of --task and --dataset.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Your own features (.npz), in place of model and dataset.")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="What each query should find (.json), for --features of database and queries.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the results.")] = None,
    settings: ModelSettings = NONE_GIVEN,
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = Path("results"),
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    devices: Devices = None,
    processes: Processes = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="i/n, i from 0: one of n processes, on any machines, that share the work through the cache and the "
            "results [default: as torchrun or srun say]."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, tf32, bf16 or fp16, which is held against fp32 on a sample.")
    ] = "fp32",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images at a time; changes no number [default: 32 on the CPU, 256 on a GPU]."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode images [default: none on the CPU, one a core on a GPU]."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What computations may hold beside their features, as 8G [default: half of what is free]."),
    ] = None,
    limit: Annotated[
        str | None, typer.Option(help="First items only: N, or train=N,test=M; the record is partial.")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(help="train=N,test=M[,seed=S]: a fixed draw, of every class as many; the record is partial."),
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option(metavar="TASK.PARAMETER=VALUE", help="As in knn.k=10,20; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the task's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Splits of folder: and hf: data: train=NAME,test=NAME.")] = None,
    split_share: Annotated[
        float | None,
        typer.Option(help="For folder: of class folders without train/ and test/: the part of each class to test on."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Which configuration of hf: data, where it has several.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images [default: image or img].")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels [default: label].")] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave damaged images out; the record lists them and is partial.")
    ] = False,
    without_duplicates: Annotated[
        Path | None,
        typer.Option(
            help="What datasets overlap --json printed: cells are measured with the test images that it names, and "
            "again without them, as a departing record."
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    rehash: Rehash = False,
    offline: Offline = False,
    launcher: Annotated[
        str, typer.Option(help="local; ray: on a Ray cluster (RAY_ADDRESS) or one on this machine; or a plugin's.")
    ] = "local",
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with what is cached, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Run cells: every model on every task and dataset. Finished cells are skipped."""
    from massl_bench.bench import watched
    from massl_bench.bench.launch import find_launcher
    from massl_bench.bench.progress import reporting
    from massl_bench.bench.request import RunRequest
    from massl_bench.datasets import MAX_PIXELS, Columns, DataOptions
    from massl_bench.features import ExtractionOptions

    if precision not in ("fp32", "tf32", "bf16", "fp16"):
        raise RequestError(f"--precision {precision}: expected fp32, tf32, bf16 or fp16")
    found = find_launcher(launcher)
    registry = open_registry(include_path, weights_dir)
    _check_combination(task, dataset, model, suite, features, name, ground_truth)
    cells = _cells(task, dataset, features) if suite is None else registry.suite(suite).pairs
    models = split_names("--model", model) if model or features is not None else _default_models()
    device, place = _place(device, devices, processes, shard)
    drawn, sample_seed = parse_sample(sample)
    request = RunRequest(
        cells=cells,
        models=models,
        suite=suite,
        features_file=features,
        ground_truth=ground_truth,
        name=name,
        overrides=parse_overrides(set),
        seed=seed,
        without_duplicates=without_duplicates,
        limit=parse_limits(limit),
        device=device,
        devices=parse_devices(devices),
        processes=processes,
        memory=parse_bytes(memory),
        data=DataOptions(
            cache_dir=cache_directory(cache_dir),
            data_root=data_root,
            offline=offline,
            columns=Columns(image_column, label_column),
            splits=parse_splits(split),
            config=config,
            split_share=split_share,
            sample=drawn,
            sample_seed=sample_seed,
            max_pixels=max_pixels or MAX_PIXELS,
            rehash=rehash,
        ),
        extraction=ExtractionOptions(
            precision=precision,  # type: ignore[arg-type]  # checked above
            batch_size=batch_size,
            num_workers=workers,
            skip_corrupt=skip_corrupt,
            shard=place,
        ),
        results_dir=results_dir,
        settings=settings,
        force=force,
    )
    if dry_run:
        _print_plans(request, registry, as_json=as_json)
        return
    outcomes = print_outcomes(watched.launch(found, request, registry, reporting()), as_json=as_json)
    _exit_with(outcomes)


def _exit_with(outcomes: Sequence[Outcome]) -> None:
    """Exits with 1 where a cell failed."""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        if len(outcomes) > 1:
            say(f"{failed} of {len(outcomes)} cells failed; mend what their lines say, and the same command runs these")
        raise typer.Exit(1)


def _cells(task: list[str] | None, dataset: list[str] | None, features: Path | None) -> list[tuple[str, str]]:
    """Returns every task on every dataset, or on the features that were handed in."""
    datasets = [features.stem] if features is not None else split_names("--dataset", dataset)
    return [(each, data) for data in datasets for each in split_names("--task", task)]


def _print_plans(request: RunRequest, registry: Registry, *, as_json: bool) -> None:
    """Prints what running each cell would do, and says what the extraction would take."""
    from massl_bench.bench.planned import CellPlan, ImageCell
    from massl_bench.bench.planner import Planner
    from massl_bench.bench.progress import reporting

    planner = Planner(request, registry, reporting())
    cells = planner.plan()
    plans, waiting = list[CellPlan](), list[ImageCell]()
    for cell in cells:
        plans.append(planner.describe(cell, waiting))
        if isinstance(cell, ImageCell) and plans[-1].status == "extract":
            waiting.append(cell)
    if as_json:
        print_json([vars(plan) for plan in plans])
    for plan in [] if as_json else plans:
        show(f"{plan.model} {plan.task} {plan.dataset}: {plan.status} ({plan.detail})")
    if any(cell.to_extract(planner.cache) for cell in waiting):
        from massl_bench.bench.cost import extraction_cost

        say(str(extraction_cost(planner, waiting)))


def _place(device: str, devices: str | None, processes: int | None, shard: str | None) -> tuple[str, Shard]:
    """Returns the device, and which of several processes this one is: as asked for, or as its launcher says."""
    from massl_bench.bench.shards import parse_shard, shard_of_environment
    from massl_bench.core.devices import num_gpus
    from massl_bench.features.options import Shard

    several = devices is not None or (processes or 1) > 1
    if shard is not None:
        if several:
            raise RequestError(
                "--shard is one process of several, --devices and --processes start several: give either"
            )
        return device, parse_shard(shard)
    found = None if several else shard_of_environment()
    if found is None:
        return device, Shard()
    place, local = found
    say(f"shard {place.index} of {place.count}, as this process was started")
    if device == "auto" and (gpus := num_gpus()) > 1:
        device = f"cuda:{local % gpus}"
    return device, place


def _default_models() -> list[str]:
    """Returns what is measured where no model is named, and says so."""
    from massl_bench.specs.manifest import DEFAULT_MODEL

    say(f"no --model given: the bundled weights {DEFAULT_MODEL}, a small network for images of 32 × 32 pixels")
    return [DEFAULT_MODEL]


def _check_combination(
    task: list[str] | None,
    dataset: list[str] | None,
    model: list[str] | None,
    suite: str | None,
    features: Path | None,
    name: str | None,
    ground_truth: Path | None,
) -> None:
    """Raises `RequestError` for options that do not go together, or are missing."""
    if ground_truth is not None and features is None:
        raise RequestError(f"--ground-truth {ground_truth}: belongs to --features FILE.npz, which is not given")
    if features is not None:
        if dataset or model or suite:
            raise RequestError(
                "--features takes the place of --model, --dataset and --suite: give --features, --task, --name"
            )
        if not name:
            raise RequestError("--features needs --name NAME: what the model is called in the results")
        if not task:
            raise RequestError("no task; give --task (see massl-bench list tasks)")
        return
    if suite is not None and (task or dataset):
        raise RequestError("--suite takes the place of --task and --dataset: give one or the other")
    if suite is None and not task:
        raise RequestError("no task; give --task (see massl-bench list tasks) or --suite")
    if suite is None and not dataset:
        raise RequestError(
            "no dataset; give --dataset (see massl-bench list datasets), folder:DIR, hf:REPO or wds:PATTERN"
        )
    if name and len(split_names("--model", model)) > 1:
        raise RequestError("--name names one model; several were given")
