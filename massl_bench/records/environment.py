"""What a number was computed with: versions, machine, commit, memory."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from massl_bench.records.record import Environment
from massl_bench.specs import plugins
from massl_bench.specs.registry import packaged_root

_PACKAGES = (
    "massl-bench", "torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "scikit-learn", "pillow",
    "simplejpeg",
)  # fmt: skip


def environment(device: str, search_backend: str | None = None) -> Environment:
    """Returns what a record says of the machine, and of where neighbours were searched."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
        packages={**plugins.packages(), **_versions()},
        git_commit=_git_commit(),
        search_backend=search_backend,
        threads=_threads(),
    )


def _threads() -> int | None:
    """Returns how many threads the arithmetic had: torch's, or else the most of any library; None where there is none.

    Products that are cut among other threads round otherwise, which can turn a choice between two near ties.
    """
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    from threadpoolctl import threadpool_info

    return max((pool["num_threads"] for pool in threadpool_info()), default=None)


@cache  # as the commit: a process makes a record for every cell, and runs what it has loaded
def _versions() -> dict[str, str]:
    """Returns the versions of this package and of those whose arithmetic is behind a number."""
    versions = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions | _of_checkout()


def _of_checkout() -> dict[str, str]:
    """Returns the version that the checkout states that the package runs from.

    What pip installed as editable keeps the version of that day, however far the checkout goes on.
    """
    stated = packaged_root() / "pyproject.toml"
    if not stated.is_file():
        return {}
    return {"massl-bench": str(tomllib.loads(stated.read_text(encoding="utf-8"))["project"]["version"])}


@cache
def _git_commit() -> str | None:
    """Returns the commit of the checkout that the package runs from (`+`: with changes); None elsewhere."""
    root = packaged_root()
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(  # nosec B603 B607  # the user's own git, with words of ours
                ["git", "-C", str(root), *command],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def peak_memory_mb(device: str) -> dict[str, float]:
    """Returns the peak resident memory of this process so far and, on a GPU, the peak that torch allocated, in MB."""
    peak = _peak_bytes()
    if peak is None:
        return {}
    memory = {"host": round(peak / (1 << 20), 1)}
    if device.startswith("cuda") and "torch" in sys.modules:
        import torch

        memory["device"] = round(torch.cuda.max_memory_allocated(device) / (1 << 20), 1)
    return memory


def _peak_bytes() -> int | None:
    """Returns the peak resident memory of this process so far; None where the system has no such count."""
    status = Path("/proc/self/status")  # Linux; its ru_maxrss holds the peak of the process that started this one
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.is_file() else None
    if found is not None:
        return int(found[1]) << 10
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def now() -> str:
    """Returns the current time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
