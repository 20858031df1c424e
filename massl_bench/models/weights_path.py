"""Which file of a path is its weights; opens nothing."""

from __future__ import annotations

import stat
from pathlib import Path

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable
from massl_bench.models.weights.fetch import CHECKPOINT_SUFFIXES

NAMED_BY_LIBRARIES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""What timm and Hugging Face call the file of weights beside a `config.json`, the one that they take first."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""What Hugging Face calls the list of the files of weights, where they are several."""

_CONFIG = "config.json"


def weights_of(path: Path) -> Path:
    """Returns the file of weights that a path means.

    Raises:
        RequestError: There is none, or several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise RequestError(f"model {path}: {_what_is_there(path)}; expected a checkpoint, or a directory with one")
    named = [path / name for name in (*NAMED_BY_LIBRARIES, *_INDEXES) if (path / name).is_file()]
    if named and has_config(path):
        return _inside(named[0], path)
    found = [path / name for name in _INDEXES if (path / name).is_file()]
    found = found or _checkpoints(path)
    if not found and any(entry.suffix == ".distcp" for entry in path.iterdir()):
        raise RequestError(
            f"model {path}: a distributed checkpoint of torch (DCP), in shards: make one file of it with python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE.pth, and give that"
        )
    if not found:
        suffixes = ", ".join(sorted(CHECKPOINT_SUFFIXES))
        raise RequestError(f"model {path}: no checkpoint in this directory ({suffixes}): {_held(path)}")
    if len(found) != 1:
        names = ", ".join(printable(entry.name) for entry in found[:5])
        raise RequestError(f"model {path}: expected one checkpoint in this directory, found {names}; name the file")
    return _inside(found[0], path)


def _what_is_there(path: Path) -> str:
    """Returns what a path leads to that is neither file nor directory."""
    if path.is_symlink():
        return f"a link to {path.readlink()}, which is not there"
    try:
        mode = path.stat().st_mode
    except OSError:
        return "no such file"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device" if not stat.S_ISSOCK(mode) else "a socket"


def _held(folder: Path) -> str:
    """Returns what lies in a directory, for people; of directories in it, that a checkpoint may lie there."""
    entries = sorted(folder.iterdir())
    if not entries:
        return "it is empty"
    names = ", ".join(printable(entry.name) + "/" * entry.is_dir() for entry in entries[:4])
    more = f", … {len(entries)} in all" if len(entries) > 4 else ""
    inner = next((each for entry in entries if entry.is_dir() for each in _checkpoints(entry)), None)
    return f"it holds {names}{more}" + (f"; next: give {inner}" if inner is not None else "")


def _checkpoints(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix in CHECKPOINT_SUFFIXES)
    except OSError:
        return []


def _inside(file: Path, folder: Path) -> Path:
    """Raises `RequestError` where a file of a directory is a link that leads out of where its neighbours are.

    A hub's cache links every file into one folder of blobs: that folder lies beside the snapshots.
    """
    root = folder.resolve()
    allowed = root.parent.parent if root.parent.name == "snapshots" else root
    if not file.resolve().is_relative_to(allowed):
        raise RequestError(
            f"model {folder}: {file.name} is a link out of the directory, to {file.resolve()}; name that file"
        )
    return file


def has_config(folder: Path) -> bool:
    """Returns whether a configuration lies in a folder."""
    return (folder / _CONFIG).is_file()
