"""What killed processes leave of their writing: known by its name and its age."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.(tmp|old)")
"""What files and directories are called while they are written or removed."""

_LEFTOVER_S = 24 * 3600.0
"""Age at which one of them is taken for that of a killed process: nothing pauses for a day while it is written."""


def leftovers(directory: Path, older_than: float = _LEFTOVER_S) -> list[Path]:
    """Returns what killed processes left in a directory: of their writing, untouched for `older_than` seconds."""
    before = time.time() - older_than
    found = []
    with suppress(OSError):
        for entry in os.scandir(directory):
            if (named := _LEFTOVER.fullmatch(entry.name)) is not None:
                with suppress(OSError):
                    if named[1] == "old" or _last_touched(Path(entry.path)) <= before:
                        found.append(Path(entry.path))
    return found


def _last_touched(path: Path) -> float:
    inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
    return max(float(each.lstat().st_mtime) for each in (path, *inside))


def remove_leftovers(directory: Path, older_than: float = _LEFTOVER_S) -> list[Path]:
    """Removes what `leftovers` finds; returns it."""
    found = leftovers(directory, older_than)
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return found
