"""The command line: parse, call, print. Results go to stdout, everything else to stderr.

Exit codes: 0 done; 1 a cell failed while running; 2 known before work started, nothing written; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.errors import MasslBenchError, RequestError, unknown_name
from massl_bench.pretrain_command import pretrain

if TYPE_CHECKING:
    from massl_bench.specs import Registry

# Newer versions of typer carry their own copy of click: this is the base of every wrong use, in either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Evaluate frozen visual representations: exact protocols, one registry, one record a number.",
    epilog="Start with: massl-bench demo",
)
datasets_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Download datasets ahead, and verify them."
)
app.add_typer(datasets_app, name="datasets")
app.command(epilog="Example: massl-bench pretrain --dataset digits --method massl --preset tiny-digits")(pretrain)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="MASSL_BENCH_DATA", help="Directory with one folder for each dataset.", show_envvar=True),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(envvar="MASSL_BENCH_CACHE", help="Features and downloads [default: the user's cache directory]."),
]
ResultsDir = Annotated[Path, typer.Option(help="Where records are written and read.")]
IncludePath = Annotated[
    list[Path] | None, typer.Option(metavar="DIR", help="Directory with tasks/, tasks/datasets/, … of your own.")
]
WeightsDir = Annotated[Path, typer.Option(help="Where manifests of models are looked for first.")]
Offline = Annotated[bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Never download.")]


_INTERRUPTED = 130


def main() -> None:
    """Runs the command line; every error is one line."""
    # A scheduler's SIGTERM ends the run as Ctrl-C does: through the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # typer turns Ctrl-C into this
            raise KeyboardInterrupt
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
        else:
            _fail(str(error))
        code = 2
    except RequestError as error:
        _fail(str(error))
        code = 2
    except MasslBenchError as error:
        _fail(str(error))
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; finished cells are kept, the same command goes on with the rest")
        code = _INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout went away (`| head`): nothing is wrong. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        print(f"massl-bench {version('massl-bench')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def _registry(include: list[Path] | None, weights_dir: Path | None = None) -> Registry:
    from massl_bench.specs import Registry

    return Registry(include or [], weights_dir)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _cache_dir(cache_dir: Path | None) -> Path:
    from massl_bench.storage import default_cache_dir

    return cache_dir.expanduser() if cache_dir is not None else default_cache_dir()


def _names(values: list[str] | None) -> list[str]:
    """Returns the names of a repeatable option whose values may also be lists with commas; paths are left whole."""
    names: list[str] = []
    for value in values or []:
        whole = value.startswith(("folder:", "torchvision:")) or Path(value).exists()
        names += [value] if whole else [name for name in value.split(",") if name]
    return list(dict.fromkeys(names))


def _limits(limit: str | None) -> dict[str, int]:
    """Returns `N` as {"": N} and `train=N,test=M` as {"train": N, "test": M}."""
    limits = {}
    for part in limit.split(",") if limit is not None else []:
        split, equals, number = part.rpartition("=")
        if not number.isdecimal() or int(number) < 1 or (equals and not split) or split in limits:
            raise RequestError(f"--limit {limit}: expected a number from 1, or train=N,test=M")
        limits[split] = int(number)
    if "" in limits and len(limits) > 1:
        raise RequestError(f"--limit {limit}: expected one number for all splits, or one for each, not both")
    return limits


def _overrides(settings: list[str] | None) -> dict[str, dict[str, Any]]:
    """Returns `knn.k=10,20` as {"knn": {"k": [10, 20]}}; values are written as in TOML, lists without brackets."""
    import tomllib

    overrides: dict[str, dict[str, Any]] = {}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        task, dot, name = key.partition(".")
        if not (equals and dot and task and name and text):
            raise RequestError(f"--set {setting}: expected TASK.PARAMETER=VALUE, as in knn.k=10,20")
        value: Any = text
        for spelling in (text, f"[{text}]"):
            try:
                value = tomllib.loads(f"value = {spelling}")["value"]
                break
            except tomllib.TOMLDecodeError:
                continue
        overrides.setdefault(task, {})[name] = value
    return overrides


def _splits(split: str | None) -> dict[str, str]:
    """Returns `train=NAME,test=NAME` as a dictionary."""
    pairs = [part.partition("=") for part in split.split(",")] if split is not None else []
    if any(not (role and equals and source) for role, equals, source in pairs):
        raise RequestError(f"--split {split}: expected train=NAME,test=NAME")
    return {role: source for role, _, source in pairs}


@app.command(epilog="Example: massl-bench run --task knn --dataset cifar10 --data-root data --model pixels")
def run(
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Task; repeatable, or a list with commas.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="DATASET", help="Registry name, folder:DIR or hf:REPO[@REV].")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Manifest, checkpoint file, timm:NAME, hf-hub:ORG/NAME, torchvision:NAME[@FILE], random:TIMM_NAME or "
            "pixels; repeatable.",
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
    arch: Annotated[
        str | None, typer.Option(help="timm architecture of a checkpoint whose shapes leave it open.")
    ] = None,
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = Path("results"),
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, tf32, bf16 or fp16; a part of the features' key.")] = "fp32",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images at a time; changes no number [default: 32 on the CPU, 256 on a GPU]."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode images [default: none on the CPU, one a core on a GPU]."),
    ] = None,
    limit: Annotated[
        str | None, typer.Option(help="First items only: N, or train=N,test=M; the record is partial.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option(metavar="TASK.PARAMETER=VALUE", help="As in knn.k=10,20; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the task's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Splits of folder: and hf: data: train=NAME,test=NAME.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images [default: image or img].")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels [default: label].")] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave damaged images out; the record lists them and is partial.")
    ] = False,
    offline: Offline = False,
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with what is cached, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Run cells: every model on every task and dataset. Finished cells are skipped."""
    from massl_bench.datasets import Columns, DataOptions
    from massl_bench.features import ExtractionOptions
    from massl_bench.planning import Planner, RunRequest
    from massl_bench.progress import reporting
    from massl_bench.runner import Runner

    if precision not in ("fp32", "tf32", "bf16", "fp16"):
        raise RequestError(f"--precision {precision}: expected fp32, tf32, bf16 or fp16")
    registry = _registry(include_path, weights_dir)
    if ground_truth is not None and features is None:
        raise RequestError(f"--ground-truth {ground_truth}: belongs to --features FILE.npz, which is not given")
    _check_combination(task, dataset, model, suite, features, name)
    if suite is not None:
        cells = registry.suite(suite).pairs
    else:
        datasets = [features.stem] if features is not None else _names(dataset)
        cells = [(each, data) for data in datasets for each in _names(task)]
    request = RunRequest(
        cells=cells,
        models=_names(model),
        suite=suite,
        features_file=features,
        ground_truth=ground_truth,
        name=name,
        overrides=_overrides(set),
        seed=seed,
        limit=_limits(limit),
        device=device,
        data=DataOptions(
            cache_dir=_cache_dir(cache_dir),
            data_root=data_root,
            offline=offline,
            columns=Columns(image_column, label_column),
            splits=_splits(split),
        ),
        extraction=ExtractionOptions(
            precision=precision,  # type: ignore[arg-type]  # checked above
            batch_size=batch_size,
            num_workers=workers,
            skip_corrupt=skip_corrupt,
        ),
        results_dir=results_dir,
        arch=arch,
        force=force,
    )
    planner = Planner(request, registry, reporting())
    planned = planner.plan()
    if dry_run:
        plans = [planner.describe(cell) for cell in planned]
        if as_json:
            _print_json([vars(plan) for plan in plans])
        for plan in [] if as_json else plans:
            print(f"{plan.model} {plan.task} {plan.dataset}: {plan.status} ({plan.detail})")
        return
    outcomes = []
    for outcome in Runner(planner, reporting()).run(planned):
        outcomes.append(outcome)
        if not as_json:
            _print_outcome(outcome)
    if as_json:
        _print_json([_outcome_json(outcome) for outcome in outcomes])
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        if len(outcomes) > 1:
            print(f"{failed} of {len(outcomes)} cells failed; the same command runs them again", file=sys.stderr)
        raise typer.Exit(1)


def _check_combination(
    task: list[str] | None,
    dataset: list[str] | None,
    model: list[str] | None,
    suite: str | None,
    features: Path | None,
    name: str | None,
) -> None:
    """Raises `RequestError` for options that do not go together, or are missing."""
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
        raise RequestError("no dataset; give --dataset (see massl-bench list datasets), folder:DIR or hf:REPO")
    if not model:
        raise RequestError(
            "no model, and no default weights are bundled yet; give --model: pixels (the images themselves), "
            "random:resnet18 (an untrained network), or a checkpoint"
        )
    if name and len(_names(model)) > 1:
        raise RequestError("--name names one model; several were given")


def _print_outcome(outcome: Any) -> None:
    cell = f"{outcome.model} {outcome.task} {outcome.dataset}"
    if outcome.status == "failed":
        _fail(f"{cell}: {outcome.error}")
        return
    record = outcome.record
    headline = record.headline
    scale = record.headline_scale
    interval = f" [{scale * headline.ci95[0]:.2f}, {scale * headline.ci95[1]:.2f}]" if headline.ci95 is not None else ""
    marks = [] if outcome.status == "done" else ["finished before"]
    marks += record.departures
    note = f" ({', '.join(marks)})" if marks else ""
    print(f"{cell}: {record.identity.task.headline} {scale * headline.value:.2f}{interval}{note} -> {outcome.path}")


def _outcome_json(outcome: Any) -> dict[str, Any]:
    found = {key: getattr(outcome, key) for key in ("task", "dataset", "model", "status", "path", "error")}
    record = outcome.record.model_dump(mode="json") if outcome.record is not None else None
    return {**found, "record": record}


@app.command(epilog="Example: massl-bench demo")
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

    registry = _registry(None)
    request = RunRequest(
        cells=registry.suite("quick").pairs,
        models=["pixels", "random:mobilenetv3_small_100"],
        data=DataOptions(cache_dir=_cache_dir(cache_dir), offline=True),
        results_dir=directory / "results",
    )
    say("k-nearest neighbours on scikit-learn's digits: the raw pixels, and an untrained MobileNet as an encoder")
    planner = Planner(request, registry, reporting())
    failed = False
    for outcome in Runner(planner, reporting()).run(planner.plan()):
        _print_outcome(outcome)
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


@app.command(epilog="Example: massl-bench leaderboard --format md --out LEADERBOARD.md")
def leaderboard(
    suite: Annotated[str | None, typer.Option(help="The columns of one suite, in its order.")] = None,
    format: Annotated[str, typer.Option(help="md, csv or json.")] = "md",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    results_dir: ResultsDir = Path("results"),
    include_path: IncludePath = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare --out with what would be written; exit 1 where stale.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the table of all complete records of current task versions."""
    from massl_bench.errors import CellError
    from massl_bench.leaderboard import collect, to_csv, to_json, to_markdown
    from massl_bench.storage import write_atomic

    chosen = "json" if as_json else format
    if chosen not in ("md", "csv", "json"):
        raise unknown_name("format", chosen, ["md", "csv", "json"])
    if check and out is None:
        raise RequestError("--check needs --out FILE: the table to compare with")
    board = collect(results_dir, _registry(include_path), suite)
    if chosen == "json":
        text = json.dumps(to_json(board), indent=2, ensure_ascii=False) + "\n"
    else:
        text = to_csv(board) if chosen == "csv" else to_markdown(board)
    if check and out is not None:
        if not out.is_file() or out.read_text(encoding="utf-8") != text:
            raise CellError(f"{out} is stale: massl-bench leaderboard --format {chosen} --out {out} writes it anew")
    elif out is not None:
        write_atomic(out, text)
        print(f"written to {out}", file=sys.stderr)
    else:
        print(text, end="")
    if chosen == "csv" and board.apart:
        print(f"{len(board.apart)} records are not in the table; --format md says why", file=sys.stderr)


@app.command(epilog="Example: massl-bench verify results/pixels/knn/digits.json")
def verify(
    results: Annotated[list[Path], typer.Argument(help="Result records.")],
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    cached: Annotated[
        bool, typer.Option("--cached", help="Take features from the cache where they are there.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Compute records again, from the images, and compare identity and every metric. Exit 1 where one differs."""
    from massl_bench.datasets import DataOptions
    from massl_bench.progress import reporting
    from massl_bench.results import read_record
    from massl_bench.verification import verify as recompute

    registry = _registry(include_path, weights_dir)
    data = DataOptions(cache_dir=_cache_dir(cache_dir), data_root=data_root, offline=offline)
    records = [(path, read_record(path)) for path in results]
    failed = False
    for path, record in records:
        verdict = recompute(record, registry, data, device=device, use_cached_features=cached, reporting=reporting())
        differences = [*verdict.identity_differences, *verdict.metric_differences]
        failed |= bool(differences)
        print(f"{path}: {'differs' if differences else 'reproduced exactly'}")
        for difference in differences:
            print(f"  {difference}")
    if failed:
        raise typer.Exit(1)


@app.command("list", epilog="Example: massl-bench list tasks")
def list_(
    kind: Annotated[str, typer.Argument(help="tasks, datasets, models or suites.")],
    include_path: IncludePath = None,
    weights_dir: WeightsDir = Path("weights"),
    as_json: Json = False,
) -> None:
    """List what there is, one name a line."""
    registry = _registry(include_path, weights_dir)
    kinds: dict[str, tuple[dict[str, Path], Any]] = {
        "tasks": (registry.tasks, registry.task),
        "datasets": (registry.datasets, registry.dataset),
        "models": (registry.manifests, registry.manifest),
        "suites": (registry.suites, registry.suite),
    }
    if kind not in kinds:
        raise unknown_name("kind", kind, kinds)
    files, load = kinds[kind]
    summaries = {name: load(name).summary for name in files}
    if kind == "models":
        summaries["pixels"] = "The image itself, 32 × 32, as its feature"
    if as_json:
        _print_json([{"name": name, "summary": summary} for name, summary in summaries.items()])
        return
    width = max((len(name) for name in summaries), default=0)
    for name, summary in summaries.items():
        print(f"{name:{width}}  {summary}")
    if kind == "models":
        print(
            "also: a checkpoint file, timm:NAME, hf-hub:ORG/NAME, torchvision:NAME[@FILE], random:TIMM_NAME",
            file=sys.stderr,
        )


@app.command(epilog="Example: massl-bench info knn")
def info(
    name: Annotated[str, typer.Argument(help="A task, dataset, suite or model.")],
    arch: Annotated[
        str | None, typer.Option(help="timm architecture of a checkpoint whose shapes leave it open.")
    ] = None,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Show one thing in full: parameters, splits, source, licence, citation, preprocessing."""
    registry = _registry(include_path, weights_dir)
    loaders: list[tuple[str, dict[str, Path], Any]] = [
        ("task", registry.tasks, registry.task),
        ("dataset", registry.datasets, registry.dataset),
        ("suite", registry.suites, registry.suite),
    ]
    found = [(kind, load(name)) for kind, files, load in loaders if name in files]
    if not found:
        found = [("model", _card(name, arch, cache_dir, registry, offline))]
    contents = [{"kind": kind, **spec.model_dump(mode="json", exclude_none=True)} for kind, spec in found]
    if as_json:
        _print_json(contents[0] if len(contents) == 1 else contents)
        return
    for content in contents:
        for key, value in content.items():
            for line_key, line_value in _flat(key, value):
                print(f"{line_key}: {line_value}")
        if content["kind"] == "model":
            print(f"preprocessing, in words: {found[0][1].preprocessing.describe()}")


def _card(name: str, arch: str | None, cache_dir: Path | None, registry: Registry, offline: bool) -> Any:
    from massl_bench.models import ModelOptions, open_model

    try:
        return open_model(
            name, registry, ModelOptions(cache_dir=_cache_dir(cache_dir), arch=arch, download=not offline)
        ).card
    except RequestError as error:
        if not str(error).startswith("unknown model"):
            raise
        known = [*registry.tasks, *registry.datasets, *registry.suites, *registry.manifests, "pixels"]
        raise unknown_name("name", name, known, "or a model as --model takes it") from None


def _flat(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in _flat(f"{key}.{name}", inner)]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [pair for number, part in enumerate(value, 1) for pair in _flat(f"{key}.{number}", part)]
    if isinstance(value, list):
        return [(key, ", ".join(map(str, value)))]
    return [(key, value)]


@datasets_app.command(epilog="Example: massl-bench datasets fetch cifar10 cifar100")
def fetch(
    names: Annotated[list[str], typer.Argument(help="Registry names, or hf:REPO[@REV].")],
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    include_path: IncludePath = None,
    offline: Offline = False,
) -> None:
    """Download datasets from their pinned sources, unless they are there."""
    _for_datasets(names, data_root, cache_dir, include_path, offline, fetch=True)


@datasets_app.command(epilog="Example: massl-bench datasets check cifar10 --data-root data")
def check(
    names: Annotated[list[str], typer.Argument(help="Registry names, folder:DIR, or hf:REPO[@REV].")],
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    include_path: IncludePath = None,
    offline: Offline = False,
) -> None:
    """Verify split sizes, classes, labels, and that every image can be decoded."""
    _for_datasets(names, data_root, cache_dir, include_path, offline, fetch=False)


def _for_datasets(
    names: list[str],
    data_root: Path | None,
    cache_dir: Path | None,
    include_path: list[Path] | None,
    offline: bool,
    *,
    fetch: bool,
) -> None:
    """Opens and checks each dataset; goes on after a failure, and then exits with 1 (2 where a name is unknown)."""
    from massl_bench.datasets import DataOptions, corrupt_images, open_dataset
    from massl_bench.progress import reporting

    registry = _registry(include_path)
    for name in names:
        if ":" not in name:
            registry.dataset(name)
    options = DataOptions(cache_dir=_cache_dir(cache_dir), data_root=data_root, offline=offline)
    failed = False
    for name in names:
        try:
            dataset = open_dataset(name, registry, options, fetch=fetch)
            splits = {role: dataset.split(role) for role in dataset.sources}
            sizes = ", ".join(f"{role} {len(split):,}" for role, split in splits.items())
            problems: list[str] = []
            for role, split in {} if fetch else splits.items():
                with reporting().progress(f"{name}/{role}", len(split)) as progress:
                    problems += corrupt_images(split, progress)
        except MasslBenchError as error:
            failed = True
            _fail(str(error))
            continue
        for problem in problems:
            _fail(f"{name}: {problem}")
        failed |= bool(problems)
        state = f"{len(problems)} corrupt images" if problems else "there" if fetch else "ok"
        print(f"{name}: {state}; {dataset.place}; {sizes}; fingerprint {dataset.fingerprint[:16]}")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: massl-bench doctor")
def doctor(data_root: DataRoot = None, cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Say what works here, what is missing, and how to get it."""
    from massl_bench.doctor import examine

    findings = examine(_cache_dir(cache_dir), data_root, _registry(None))
    if as_json:
        _print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(
                f"{'ok  ' if finding.ok else 'MISS' if finding.optional else 'BAD '} {finding.subject}: {finding.text}"
            )
    if any(not finding.ok and not finding.optional for finding in findings):
        raise typer.Exit(1)
