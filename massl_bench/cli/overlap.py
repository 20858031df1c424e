"""`massl-bench datasets overlap`: which images of one dataset are in another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from massl_bench.cli.options import (
    NONE_GIVEN,
    CacheDir,
    DataRoot,
    IncludePath,
    Json,
    MaxPixels,
    Offline,
    WeightsDir,
    cache_directory,
    model_options,
    open_registry,
)
from massl_bench.cli.output import print_json
from massl_bench.core.errors import RequestError
from massl_bench.core.terminal import say, show

if TYPE_CHECKING:
    from massl_bench.bench.duplicates import Overlap
    from massl_bench.core.model_settings import ModelSettings


@model_options
def overlap(
    a: Annotated[str, typer.Argument(metavar="A", help="A dataset, as run takes it: its images are looked for in B.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one, or A again: its test split against the others.")],
    model: Annotated[
        str | None, typer.Option(help="Whose features candidates are looked for in [default: the bundled weights].")
    ] = None,
    settings: ModelSettings = NONE_GIVEN,
    splits: Annotated[
        str | None, typer.Option(help="a=test,b=train: one split of each, or several as a=train+val [default: all].")
    ] = None,
    calibrate_on: Annotated[
        str | None, typer.Option(help="The dataset whose images the copies for the threshold are made of [default: B].")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="A page with the pairs, to be written here.")] = None,
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    max_pixels: MaxPixels = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Find images of A that are in B.

    Equal files, equal pixels, and nearly equal pictures (JPEG, resized, cropped).

    --json prints what run --without-duplicates reads.
    """
    from massl_bench.bench.duplicates import overlap_as_json
    from massl_bench.bench.overlap import OverlapRequest, find_overlap, overlap_galleries
    from massl_bench.bench.progress import reporting
    from massl_bench.core.files import write_output
    from massl_bench.datasets import MAX_PIXELS, DataOptions
    from massl_bench.specs.manifest import DEFAULT_MODEL

    registry = open_registry(include_path, weights_dir)
    if model is None:
        say(f"no --model given: the bundled weights {DEFAULT_MODEL}, whose features only choose what is compared")
    request = OverlapRequest(
        a=a,
        b=b,
        model=model or DEFAULT_MODEL,
        settings=settings,
        splits=_splits(splits),
        calibrate_on=calibrate_on,
        device=device,
        data=DataOptions(
            cache_dir=cache_directory(cache_dir),
            data_root=data_root,
            offline=offline,
            max_pixels=max_pixels or MAX_PIXELS,
        ),
    )
    found = find_overlap(request, registry, reporting())
    if gallery is not None:
        from massl_bench.report.overlap import overlap_page

        shown = overlap_galleries(found, request, registry)
        write_output(gallery, overlap_page(found.a.dataset, found.b.dataset, _facts(found), shown))
        say(f"{gallery}: the pairs side by side")
    if as_json:
        print_json(overlap_as_json(found))
        return
    for line in _table(found):
        show(line)


def _splits(text: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the splits of A and of B that `a=test,b=train+val` names."""
    named: dict[str, tuple[str, ...]] = {}
    for part in text.split(",") if text else ():
        side, equals, names = part.partition("=")
        if side not in ("a", "b") or not equals or not names or side in named:
            raise RequestError(f"--splits {text}: expected a=SPLIT,b=SPLIT, or one of them; several as a=train+val")
        named[side] = tuple(names.split("+"))
    return named.get("a", ()), named.get("b", ())


_WORDS = {"file": "equal files", "pixels": "equal pixels", "near": "nearly equal"}


def _table(found: Overlap) -> list[str]:
    """Returns the lines of the terminal's table: of each split of A, how many of its images are in B."""
    heads = ["split", "images", *_WORDS.values(), "in all"]
    rows = []
    for split, size in found.a.sizes.items():
        counts = [len(found.rows(kind).get(split, [])) for kind in ("file", "pixels", "near")]
        total = len(found.rows().get(split, []))
        share = f"{total:,} ({100 * total / size:.2f} %)"
        rows.append([split, f"{size:,}", *(f"{count:,}" for count in counts), share])
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    ]
    of_b = ", ".join(f"{split} {size:,}" for split, size in found.b.sizes.items())
    title = f"{found.a.dataset}, of which images are in {found.b.dataset} ({of_b})"
    return [title, *lines, *(f"{name}: {value}" for name, value in _facts(found))]


def _facts(found: Overlap) -> list[tuple[str, str]]:
    """Returns what a reader must know of how nearly equal images were told."""
    by = found.calibration
    return [
        ("candidates", f"by the features of {found.model}"),
        (
            "threshold",
            f"correlation {by.threshold:.3f}, from copies of {by.num_images} images: it finds "
            f"{100 * by.found_jpeg:.1f} % of JPEG 50 and {100 * by.found_crop:.1f} % of 80 % crops, and "
            f"{100 * by.others:.2f} % of these images look like another of them",
        ),
    ]
