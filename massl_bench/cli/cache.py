"""`massl-bench cache`: what is kept, whether it is whole, and how to make room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.cli.options import CacheDir, Json, cache_directory
from massl_bench.cli.output import print_json
from massl_bench.core.terminal import say, show

if TYPE_CHECKING:
    from massl_bench.features.inventory import Entry

cache_app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="List, verify and clear extracted features."
)

_DAY_S = 24 * 3600.0


@cache_app.command("list", epilog="Example: massl-bench cache list")
def list_(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """List the features that are kept, one bank a line.

    --json prints a list of {path, model, dataset, split, items, dim, bytes, age_s, problem}.
    """
    from massl_bench.features import FeatureCache
    from massl_bench.features.inventory import entries
    from massl_bench.features.pieces import unfinished

    found = list(entries(FeatureCache(cache_directory(cache_dir))))
    if as_json:
        print_json([_plain(entry) for entry in found])
        return
    for entry in found:
        show(_described(entry))
    size = sum(entry.num_bytes for entry in found)
    for part in unfinished(cache_directory(cache_dir)):
        state = "being made" if part.in_use else "not finished: the same run goes on from there"
        show(f"{part.num_pieces} pieces of a bank, {state}; {part.num_bytes / 1e6:,.1f} MB, {part.path.name[:12]}")
    say(f"{len(found)} banks, {size / 1e6:,.1f} MB, in {cache_directory(cache_dir)}")


@cache_app.command(epilog="Example: massl-bench cache verify")
def verify(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Compare every file of every bank with its hash.

    Exit 1 where one is damaged: it would be extracted again when it is wanted, and clear --damaged removes it.

    --json prints a list as list --json does.
    """
    from massl_bench.features import FeatureCache
    from massl_bench.features.inventory import entries

    found = list(entries(FeatureCache(cache_directory(cache_dir)), whole=True))
    damaged = [entry for entry in found if entry.problem is not None]
    if as_json:
        print_json([_plain(entry) for entry in found])
    else:
        for entry in damaged:
            show(_described(entry))
        show(f"{len(found)} banks, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


@cache_app.command(epilog="Example: massl-bench cache clear --model 'massl-*' --older-than 30")
def clear(
    model: Annotated[str | None, typer.Option(help="Only of this model, by name or pattern.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset, by name or pattern.")] = None,
    older_than: Annotated[float, typer.Option(min=0, help="Only what was written so many days ago.")] = 0,
    damaged: Annotated[bool, typer.Option("--damaged", help="Only what is not as it was written.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and stop.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Remove features, and what killed runs left; without an option, all of them.

    They are extracted again when they are wanted. Downloads are kept, and so is what a running extraction holds.

    --json prints {removed, in_use, leftovers, memos}; removed and in_use as list --json does.
    """
    from massl_bench.features import FeatureCache, inventory

    wanted = inventory.Wanted(model=model, dataset=dataset, older_than_s=older_than * _DAY_S, damaged_only=damaged)
    done = inventory.clear(FeatureCache(cache_directory(cache_dir)), wanted, dry_run=dry_run)
    if as_json:
        removed, in_use = ([_plain(entry) for entry in some] for some in (done.removed, done.in_use))
        print_json({"removed": removed, "in_use": in_use, "leftovers": done.leftovers, "memos": done.memos})
        return
    for entry in done.removed:
        show(_described(entry))
    for entry in done.in_use:
        say(f"in use, and kept: {_described(entry)}")
    size = sum(entry.num_bytes for entry in done.removed)
    what = f"{len(done.removed)} banks, {size / 1e6:,.1f} MB; {len(done.leftovers)} leftovers of killed runs"
    say(f"{'would remove' if dry_run else 'removed'} {what}; {done.memos} memos of hashes")


def _described(entry: Entry) -> str:
    """Returns a bank in one line."""
    where = f"{entry.num_bytes / 1e6:,.1f} MB, {entry.age_s / _DAY_S:.0f} days old, {entry.path.name[:12]}"
    if entry.meta is None:
        return f"damaged bank: {entry.problem}; {where}"
    meta = entry.meta
    bank = f"{meta.model} on {meta.dataset}/{meta.key.split}: {meta.num_items:,} × {meta.dim}"
    return f"{bank}; {where}{f'; damaged: {entry.problem}' if entry.problem is not None else ''}"


def _plain(entry: Entry) -> dict[str, Any]:
    meta = entry.meta
    return {
        "path": entry.path,
        "model": meta.model if meta is not None else None,
        "dataset": meta.dataset if meta is not None else None,
        "split": meta.key.split if meta is not None else None,
        "items": meta.num_items if meta is not None else None,
        "dim": meta.dim if meta is not None else None,
        "bytes": entry.num_bytes,
        "age_s": round(entry.age_s, 1),
        "problem": entry.problem,
    }
