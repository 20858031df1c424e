"""`massl-bench datasets`: download ahead, and verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.cli.options import (
    CacheDir,
    DataRoot,
    IncludePath,
    Json,
    MaxPixels,
    Offline,
    Rehash,
    cache_directory,
    open_registry,
    parse_splits,
)
from massl_bench.cli.output import fail, print_json
from massl_bench.cli.overlap import overlap
from massl_bench.core.errors import MasslBenchError
from massl_bench.core.terminal import show

if TYPE_CHECKING:
    from massl_bench.datasets import DataOptions
    from massl_bench.specs.registry import Registry

datasets_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Download datasets ahead, verify and compare them.",
)
datasets_app.command(epilog="Example: massl-bench datasets overlap cifar10 cifar10 --data-root data")(overlap)


@datasets_app.command(epilog="Example: massl-bench datasets fetch cifar10 cifar100")
def fetch(
    names: Annotated[list[str], typer.Argument(help="Registry names, or hf:REPO[@REV].")],
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    include_path: IncludePath = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Download datasets from their pinned sources, where missing.

    --json prints a list of {name, ok, problems} and, of what was opened, {place, splits, fingerprint}.
    """
    from massl_bench.datasets import DataOptions

    options = DataOptions(cache_dir=cache_directory(cache_dir), data_root=data_root, offline=offline)
    _for_datasets(names, options, include_path, fetch=True, as_json=as_json)


@datasets_app.command(epilog="Example: massl-bench datasets check cifar10 --data-root data")
def check(
    names: Annotated[list[str], typer.Argument(help="Registry names, folder:DIR, or hf:REPO[@REV].")],
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    include_path: IncludePath = None,
    split: Annotated[str | None, typer.Option(help="Splits of folder: and hf: data: train=NAME,test=NAME.")] = None,
    config: Annotated[str | None, typer.Option(help="Which configuration of hf: data, where it has several.")] = None,
    max_pixels: MaxPixels = None,
    rehash: Rehash = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Verify sizes, classes, labels and files; decode every image.

    --json prints a list of {name, ok, problems} and, of what was opened, {place, splits, fingerprint, left_out}.
    """
    from massl_bench.datasets import MAX_PIXELS, DataOptions

    options = DataOptions(
        cache_dir=cache_directory(cache_dir),
        data_root=data_root,
        offline=offline,
        splits=parse_splits(split),
        config=config,
        max_pixels=max_pixels or MAX_PIXELS,
        rehash=rehash,
    )
    _for_datasets(names, options, include_path, fetch=False, as_json=as_json)


def _for_datasets(
    names: list[str],
    options: DataOptions,
    include_path: list[Path] | None,
    *,
    fetch: bool,
    as_json: bool,
) -> None:
    """Opens and checks each dataset; goes on after a failure, and then exits with 1 (2 where a name is unknown)."""
    registry = open_registry(include_path)
    for name in names:
        if ":" not in name:
            registry.dataset(name)
    report: list[dict[str, Any]] = []
    for name in names:
        problems: list[str] = []
        try:
            found, said = _checked(name, registry, options, problems, fetch=fetch)
        except MasslBenchError as error:
            for text in (*problems, str(error)):
                fail(text)
            report.append({"name": name, "ok": False, "problems": [*problems, str(error)]})
            continue
        for problem in problems:
            fail(f"{name}: {problem}")
        report.append({"name": name, "ok": not problems, "problems": problems, **found})
        if not as_json:
            show(said)
    if as_json:
        print_json(report)
    if not all(entry["ok"] for entry in report):
        raise typer.Exit(1)


def _checked(
    name: str, registry: Registry, options: DataOptions, problems: list[str], *, fetch: bool
) -> tuple[dict[str, Any], str]:
    """Opens a dataset, and checks it where it was not fetched; returns what is there, for machines and for people.

    Args:
        name: a registry name, or another reference.
        registry: the known datasets.
        options: where to look.
        problems: gets what is wrong; what was found before an error is there too.
        fetch: whether it is downloaded where it is not there, and opened only.
    """
    from massl_bench.bench.progress import reporting
    from massl_bench.core.values import CopyTruth
    from massl_bench.datasets import corrupt_images, open_dataset, published_files, wrong_checksums
    from massl_bench.datasets.left_out import LeftOut

    dataset = open_dataset(name, registry, options, fetch=fetch)
    files = {} if fetch else published_files(dataset, options.data_root)
    if files:
        with reporting().progress(f"{name}/checksums", len(files)) as progress:
            problems += wrong_checksums(files, progress)
    splits = {role: dataset.split(role) for role in dataset.sources}
    truth = None if fetch else dataset.ground_truth()
    if isinstance(truth, CopyTruth) and truth.unlike_published:
        problems.append(f"not as published: {', '.join(truth.unlike_published)}")
    fingerprint = dataset.fingerprint
    left_out = LeftOut() if fetch else dataset.left_out
    for role, split in {} if fetch else splits.items():
        with reporting().progress(f"{name}/{role}", len(split)) as progress:
            problems += corrupt_images(split, progress)
    state = f"problems: {len(problems)}" if problems else "there" if fetch else "ok"
    sizes = ", ".join(f"{role} {len(split):,}" for role, split in splits.items())
    known = len(dataset.spec.archives) if dataset.spec is not None and not fetch else 0
    compared = f"checksums compared: {len(files)} of {known}; " if known else ""
    others = f"{left_out}; " if left_out else ""
    found = {
        "place": dataset.place,
        "splits": {role: len(split) for role, split in splits.items()},
        "fingerprint": fingerprint,
        "left_out": {"count": left_out.count, "first": list(left_out.first)},
    }
    said = f"{dataset.place}; {sizes}; {compared}{others}fingerprint {fingerprint[:16]}"
    return found, f"{dataset.name}: {state}; {said}"
