"""`massl-bench weights`: checkpoints become models with a name, are looked into, fetched and exported."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.cli.options import (
    NONE_GIVEN,
    CacheDir,
    IncludePath,
    Json,
    Offline,
    ResultsDir,
    WeightsDir,
    cache_directory,
    model_options,
    open_registry,
)
from massl_bench.cli.output import fail, print_json
from massl_bench.core.errors import MasslBenchError, RequestError, unknown_name
from massl_bench.core.terminal import say, show

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from massl_bench.core.model_settings import ModelSettings
    from massl_bench.models import ModelCard
    from massl_bench.models.weights.inspection import Inspection
    from massl_bench.specs.registry import Registry

weights_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Register, look into, fetch and export weights.",
)


_SUFFIXES = {"safetensors": ".safetensors", "massl": ".pth", "timm": ""}


@weights_app.command(epilog="Example: massl-bench weights add checkpoint.pth --name my-model --licence MIT")
@model_options
def add(
    file: Annotated[Path, typer.Argument(help="A checkpoint.")],
    name: Annotated[str, typer.Option(help="By which the model is then known.")],
    settings: ModelSettings = NONE_GIVEN,
    summary: Annotated[str | None, typer.Option(help="One line for lists [default: architecture and file].")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "unknown",
    citation: Annotated[str, typer.Option(help="Of the weights.")] = "unknown",
    url: Annotated[str | None, typer.Option(help="Where others can fetch the file.")] = None,
    training: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML of what is known of its training: the manifest keeps it.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the file beside the manifest.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a manifest of this name.")] = False,
    weights_dir: WeightsDir = Path("weights"),
    as_json: Json = False,
) -> None:
    """Load a checkpoint, every tensor of it; write its manifest.

    --model NAME then means this file, by its hash.

    --json prints {manifest} and what is known of the model: its card.
    """
    from massl_bench.models.weights.manifests import NewManifest, add_weights

    new = NewManifest(
        file=file.expanduser(),
        name=name,
        weights_dir=weights_dir,
        cache_dir=cache_directory(None),
        settings=settings,
        url=url,
        summary=summary,
        licence=licence,
        citation=citation,
        copy=copy,
        force=force,
        training=training,
    )
    card, manifest = add_weights(new)
    if as_json:
        print_json({"manifest": new.path, "file_sha256": manifest.sha256, **card.model_dump(mode="json")})
        return
    show(
        f"{card.name}: {card.architecture}, {card.embed_dim} dimensions, {card.num_parameters:,} parameters, sha256 "
        f"{manifest.sha256} -> {new.path}"
    )
    show(card.describe())
    for note in card.notes:
        show(f"note: {note}")


@weights_app.command(epilog="Example: massl-bench weights inspect checkpoint.pth")
@model_options
def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint.")],
    settings: ModelSettings = NONE_GIVEN,
    as_json: Json = False,
) -> None:
    """Say what is in a file, and what it would be taken for.

    Nothing in it is executed.
    """
    from massl_bench.models.weights.inspection import inspect_checkpoint

    inspection = inspect_checkpoint(file.expanduser(), settings)
    if as_json:
        own = inspection.metadata
        told = {
            "metadata": own.model_dump(mode="json") if own is not None else None,
            "next": _next(inspection, settings),
        }
        print_json({**asdict(inspection), **told})
    else:
        _print_inspection(inspection)
        if inspection.backbone.problem is None:
            show(f"next: {_next(inspection, settings)}")
    if inspection.backbone.problem is not None:
        raise typer.Exit(2)


def _next(inspection: Inspection, settings: ModelSettings) -> str | None:
    """Returns the command that gives a file its name, under the same options; None where it would be refused."""
    if inspection.backbone.problem is not None:
        return None
    options = [part for name, value in settings.named for part in (f"--{name.replace('_', '-')}", value)]
    return shlex.join(["massl-bench", "weights", "add", inspection.file, "--name", "NAME", *options])


def _print_inspection(inspection: Inspection) -> None:
    show(f"file: {inspection.file}")
    show(f"size: {inspection.num_bytes:,} bytes")
    show(f"sha256: {inspection.sha256}")
    show(f"container: {inspection.container}")
    if inspection.pickled_globals:
        show(f"pickled globals (none was imported): {', '.join(inspection.pickled_globals)}")
    for name, count in inspection.stand_ins.items():
        show(f"not read: {count} of {name}")
    for part in inspection.parts:
        show(f"{part.key or 'the file'}: {part.kind}{f', {part.text}' if part.text else ''}")
        for group in part.groups:
            show(
                f"  {group.prefix}: {group.num_tensors} tensors, {', '.join(group.dtypes)}, {group.num_values:,} "
                f"values; largest {group.largest}"
            )
        for key, text in part.values.items():
            show(f"  {key} = {text}")
    if inspection.metadata is not None:
        show(f"exported as: {inspection.metadata.name}; {inspection.metadata.preprocessing.describe()}")
    backbone = inspection.backbone
    if backbone.adapter is not None:
        show(f"adapter: {backbone.adapter} ({backbone.why})")
    show(f"backbone: {backbone.found or 'none found'}")
    show(f"architecture: {backbone.architecture or 'unknown'}")
    for aspect, origin in backbone.origins.items():
        show(f"  {aspect}: {origin}")
    if backbone.preprocessing is not None:
        show(f"preprocessing: {backbone.preprocessing}")
    for what, where in backbone.left_out.items():
        show(f"left out: {what}: {where}")
    for note in backbone.notes:
        show(f"note: {note}")
    show(f"as --model: {f'refused: {backbone.problem}' if backbone.problem else 'every tensor fits'}")


@weights_app.command(epilog="Example: massl-bench weights fetch dino-vits16")
def fetch(
    names: Annotated[
        list[str], typer.Argument(help="Of weights list --remote, of manifests with a url, or timm:NAME, …")
    ],
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Download weights of known models, and verify their hash.

    They go into the cache. Of published weights, every tensor is loaded and a manifest written: another file is refused
    from then on. Goes on after a failure.

    --json prints a list of {name, file, sha256, sha256_from, problem}; file or problem is null.
    """
    from massl_bench.models.weights.known import Fetched, check_fetchable, fetch_known

    registry = open_registry(include_path, weights_dir)
    for name in names:
        check_fetchable(name, registry)
    report: list[dict[str, Any]] = []
    for name in names:
        try:
            found = fetch_known(name, registry, weights_dir, cache_directory(cache_dir), may_download=not offline)
        except RequestError:
            raise
        except MasslBenchError as error:
            fail(str(error))
            report.append({**asdict(Fetched(name=name)), "problem": str(error)})
        else:
            report.append({**asdict(found), "problem": None})
            if not as_json:
                said = f" ({found.sha256_from})" if found.sha256_from is not None else ""
                show(f"{name}: there; {found.file}; sha256 {found.sha256}{said}")
    if as_json:
        print_json(report)
    if any(entry["problem"] is not None for entry in report):
        raise typer.Exit(1)


@weights_app.command("list", epilog="Example: massl-bench weights list --remote")
def list_(
    remote: Annotated[bool, typer.Option("--remote", help="What others publish, in place of what is here.")] = False,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    as_json: Json = False,
) -> None:
    """List the weights that are known by name, or published.

    --json prints a list of what is known of each; of --remote also the address, its source and the day it was read.
    """
    from tabulate import tabulate

    from massl_bench.models.weights.known import here, published

    registry = open_registry(include_path, weights_dir)
    place = cache_directory(cache_dir)
    rows = published(registry, place) if remote else here(registry, place)
    if as_json:
        print_json([row.values for row in rows])
        return
    if rows:
        heads = list(rows[0].columns)
        for line in tabulate([list(row.columns.values()) for row in rows], heads, disable_numparse=True).splitlines():
            show(line)
    if remote:
        say("massl-bench weights fetch NAME takes these names, and timm:NAME, torchvision:NAME, hf-hub:ORG/NAME")


@weights_app.command(epilog="Example: massl-bench weights export my-model --format safetensors")
@model_options
def export(
    name: Annotated[str, typer.Argument(help="A manifest's name, or a checkpoint.")],
    format: Annotated[
        str,
        typer.Option(
            help="safetensors; massl: the layout that the authors' tools read; timm: a directory, as on the hub."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="File (of timm, directory) to write [default: NAME with the format's suffix].")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Upload it to the hub too; a new repository is private.")
    ] = None,
    settings: ModelSettings = NONE_GIVEN,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    results_dir: ResultsDir = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a model's weights for others, with a model card.

    Read back, they give the same features. The card holds the results that are recorded of the model, and the hub's
    model-index of them.

    --json prints {name, architecture, file, card} and, of --push, {commit}.
    """
    from massl_bench.core.files import file_safe
    from massl_bench.models import ModelOptions
    from massl_bench.models.weights.export import card_path, export_timm, export_weights, open_for_export

    if format not in _SUFFIXES:
        raise unknown_name("format", format, _SUFFIXES)
    _check_push(push, format)
    registry = open_registry(include_path, weights_dir)
    model = open_for_export(name, registry, ModelOptions(cache_dir=cache_directory(cache_dir), settings=settings))
    card = model.encoder.card
    file = output if output is not None else Path(f"{file_safe(card.name)}{_SUFFIXES[format]}")
    readme = file / "README.md" if format == "timm" else card_path(file)
    _check_output(file, readme, format, force=force)
    results = _recorded(card, registry, results_dir)
    if format == "timm":
        export_timm(model, file, results)
    elif format == "massl":
        from massl_bench.pretrain.export import official_content

        training = official_content(model.encoder.files[0], model.encoder.backbone)
        export_weights(model, file, "massl", training, results)
    else:
        export_weights(model, file, "safetensors", results=results)
    told = {"name": card.name, "architecture": card.architecture, "file": file, "card": readme}
    if not as_json:
        show(f"{card.name}: {card.architecture} -> {file}, {readme}")
    if push is not None:
        told["commit"] = _pushed(push, file, readme, card.name)
        if not as_json:
            show(f"{card.name}: on the hub: {told['commit']}")
    if as_json:
        print_json(told)


def _check_push(repo: str | None, format: str) -> None:
    from massl_bench.models.weights.hub import check_repository

    if repo is None:
        return
    if format == "massl":
        raise RequestError(f"--push {repo}: the hub's readers take --format timm or safetensors, and not massl")
    check_repository(repo)


def _check_output(file: Path, readme: Path, format: str, *, force: bool) -> None:
    from massl_bench.models.weights.fetch import CHECKPOINT_SUFFIXES
    from massl_bench.models.weights.timm_export import TIMM_FILES

    suffix = _SUFFIXES[format]
    if suffix and (
        (file.suffix == ".safetensors") != (format == "safetensors") or file.suffix not in CHECKPOINT_SUFFIXES
    ):
        raise RequestError(f"--output {file}: expected a name that ends in {suffix}")
    if format == "timm" and file.exists() and not file.is_dir():
        raise RequestError(f"--output {file}: is a file; timm's layout is a directory")
    files = [*((file / name for name in TIMM_FILES) if format == "timm" else (file,)), readme]
    there = [path for path in files if path.exists()]
    if there and not force:
        raise RequestError(f"{there[0]} is there already; --force replaces it, or choose another --output")


def _recorded(card: ModelCard, registry: Registry, results_dir: Path) -> list[EvalResult]:
    from massl_bench.records.model_index import eval_results
    from massl_bench.records.rows import current_records

    return eval_results(
        current_records(results_dir, registry),
        registry,
        weights_sha256=card.weights_sha256,
        network_sha256=card.network_sha256,
        pooling=card.pooling,
        preprocessing=card.preprocessing,
    )


def _pushed(repo: str, file: Path, readme: Path, name: str) -> str:
    from massl_bench.models.weights.hub import push
    from massl_bench.models.weights.timm_export import TIMM_FILES

    files = {name: file / name for name in TIMM_FILES} if file.is_dir() else {"model.safetensors": file}
    return push(repo, {**files, "README.md": readme}, f"{name}, exported by massl-bench")
