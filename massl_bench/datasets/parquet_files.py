"""Which parquet files of a folder are a split, whole and alone, and which configuration they belong to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable
from massl_bench.core.wording import asked
from massl_bench.datasets.left_out import is_ignored

_SERIES = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]{8,64})?\.parquet")
"""As the hub's library writes them, in older versions with a hash at the end."""
_NUMBERED = re.compile(r"(?P<split>.+)-(?P<number>\d+)\.parquet")
_HERE = "."
_NAMED_MISSING = 5


def find_splits(root: Path, sources: Sequence[str], config: str | None) -> dict[str, tuple[Path, ...]] | None:
    """Returns the files of each split, from `root`, or the one of its folders that has them all; None without any.

    Args:
        root: the dataset's directory.
        sources: the splits that are needed.
        config: the folder that is meant, where several have them all; `.` is `root` itself.

    Raises:
        RequestError: Several folders have them, and none was chosen; the chosen one has not; a series has a gap.
    """
    if not root.is_dir():
        return None
    inner = sorted(path for path in root.iterdir() if path.is_dir() and not is_ignored(path.name))
    folders = {_HERE: root, **{path.name: path for path in inner}}
    complete = [name for name, folder in folders.items() if all(_named(folder, source) for source in sources)]
    if config is not None and complete:
        if config not in complete:
            raise RequestError(
                f"{printable(root)}: no configuration {config!r} with the splits {', '.join(sources)}; "
                f"there are: {', '.join(map(printable, complete))}"
            )
        complete = [config]
    if not complete:
        return None
    if len(complete) > 1:
        raise RequestError(
            f"{printable(root)}: {len(complete)} configurations have the splits {', '.join(sources)}: "
            f"{', '.join(map(printable, complete))}; choose one with {asked('config', 'NAME')}"
        )
    return {source: _whole(folders[complete[0]], source) for source in sources}


def _named(folder: Path, source: str) -> list[Path]:
    """Returns the parquet files that are called after a split: exactly, so that `train-extra-…` is none of `train`."""
    found = []
    for path in folder.iterdir():
        named = _SERIES.fullmatch(path.name) or _NUMBERED.fullmatch(path.name)
        if path.name == f"{source}.parquet" or (named is not None and named["split"] == source):
            found.append(path)
    return sorted(found)


def _whole(folder: Path, source: str) -> tuple[Path, ...]:
    """Returns the files of a split; raises `RequestError` where they are not one series without a gap."""
    files = _named(folder, source)
    series = [_SERIES.fullmatch(path.name) for path in files]
    counts = {int(found["count"]) for found in series if found is not None}
    kinds = {("of", count) for count in counts}
    kinds |= {("numbered", 0) for path, found in zip(files, series, strict=True) if found is None}
    if len(kinds) > 1 or (None in series and f"{source}.parquet" in {path.name for path in files} and len(files) > 1):
        raise RequestError(
            f"{printable(folder)}: more than one series of files is called {source}: "
            f"{', '.join(printable(path.name) for path in files[:_NAMED_MISSING])}; keep one of them"
        )
    if files[0].name == f"{source}.parquet":
        return tuple(files)
    numbers = [int(found["number"]) for path in files if (found := _match(path)) is not None]
    first = min(0 if counts else 1, *numbers)
    wanted = range(first, first + (counts.pop() if counts else max(numbers) - first + 1))
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    missing = sorted(set(wanted) - set(numbers))
    if twice or missing or set(numbers) - set(wanted):
        what = f"number {twice[0]} is there twice" if twice else _missing(missing) or "numbers beyond its end"
        raise RequestError(
            f"{printable(folder)}: {source}: the series {printable(files[0].name)} … is not whole: {what}; fetch the "
            "files again"
        )
    return tuple(files)


def _match(path: Path) -> re.Match[str] | None:
    return _SERIES.fullmatch(path.name) or _NUMBERED.fullmatch(path.name)


def _missing(numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    shown = ", ".join(str(number) for number in numbers[:_NAMED_MISSING])
    return f"number {shown}{', …' if len(numbers) > _NAMED_MISSING else ''} missing"
