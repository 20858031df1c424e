"""What a number was computed with: versions, machine, commit, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata

from massl_bench.records.record import Environment
from massl_bench.specs import plugins
from massl_bench.specs.registry import packaged_root

_PACKAGES = ("massl-bench", "torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "scikit-learn", "pillow")


def environment(device: str, search_backend: str | None = None) -> Environment:
    """Returns what a record says of the machine, and of where neighbours were searched."""
    packages = plugins.packages()
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
        packages=packages,
        git_commit=_git_commit(),
        search_backend=search_backend,
    )


def _git_commit() -> str | None:
    """Returns the commit of the checkout that the package runs from (`+`: with changes); None elsewhere."""
    root = packaged_root()
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def peak_memory_mb(device: str) -> dict[str, float]:
    """Returns the peak resident memory of this process so far and, on a GPU, the peak that torch allocated, in MB."""
    try:
        import resource
    except ImportError:  # Windows has no such count
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = {"host": round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)}
    if device.startswith("cuda") and "torch" in sys.modules:
        import torch

        memory["device"] = round(torch.cuda.max_memory_allocated(device) / (1 << 20), 1)
    return memory


def now() -> str:
    """Returns the current time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
