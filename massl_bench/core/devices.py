"""Devices by name, and what memory they have left; without importing torch where there is no GPU driver."""

from __future__ import annotations

import ctypes
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked


def resolve_device(name: str) -> str:
    """Returns `cpu` or `cuda:i` for `auto`, `cpu`, `cuda` or `cuda:i`.

    Raises:
        RequestError: The name is of another form, or that GPU is not there.
    """
    if name == "cpu":
        return "cpu"
    if not re.fullmatch(r"auto|cuda(:\d+)?", name):
        raise RequestError(field="device", found=name, allowed="auto, cpu, cuda or cuda:i")
    count = num_gpus()
    if name == "auto":
        return "cuda:0" if count else "cpu"
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise RequestError(
            f"torch sees {count} GPUs here",
            field="device",
            found=name,
            remedy=f"use {asked('device', 'cpu')}, or see massl-bench doctor",
        )
    return f"cuda:{index}"


def num_gpus() -> int:
    """Returns how many GPUs torch can use; 0 without a driver (torch is not imported then)."""
    try:
        ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "windll") else "libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def available_cores() -> int:
    """Returns the cores that this process may use, which a scheduler can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: str) -> int:
    """Returns the bytes that a device can still give: for `cpu` what the system, or this container, has left.

    Of a GPU, what torch has taken from it and does not use counts as free.
    """
    if device != "cpu":
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    free = [_mem_available(), *_left_in_control_groups()]
    return min(free)


_memory_limit: int | None = None


@contextmanager
def memory_limited(limit: int | None) -> Iterator[None]:
    """Inside, one computation may hold `limit` bytes beside its features; None: half of what is free."""
    global _memory_limit  # noqa: PLW0603  # of the process, like the memory
    before, _memory_limit = _memory_limit, limit
    try:
        yield
    finally:
        _memory_limit = before


def memory_share() -> int:
    """Returns the bytes that one computation may hold beside its features."""
    return _memory_limit if _memory_limit is not None else free_memory("cpu") // 2


_KEPT = {"M_MMAP_THRESHOLD": 1 << 28, "M_TRIM_THRESHOLD": 1 << 30}
"""Bytes of a block that is mapped by itself, and of free memory at the end that is handed back."""

_GLIBC_REACHES = {"M_MMAP_THRESHOLD": 1 << 25, "M_TRIM_THRESHOLD": 1 << 26}
"""The largest that glibc sets by itself, when blocks of that size are freed."""

_MALLOPT = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3}
"""As in glibc's malloc.h."""

_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

_num_keeping = 0


@contextmanager
def memory_kept(device: str) -> Iterator[None]:
    """Inside, memory that a network's layers free on the CPU is kept for the next, and handed back at the end.

    glibc hands a tensor above 32 MB back at once, and the kernel fills its pages with zeros when the next layer asks:
    more than a third of a ResNet-50's CPU time at 32 images. Whoever has set glibc's thresholds is left with them.
    """
    global _num_keeping  # noqa: PLW0603  # of the process, like its memory
    library: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if device != "cpu" or not hasattr(library, "mallopt") or any(name in os.environ for name in _USERS_OWN):
        yield
        return
    _num_keeping += 1
    try:
        if _num_keeping == 1:
            _set_thresholds(library, _KEPT)
        yield
    finally:
        _num_keeping -= 1
        if _num_keeping == 0:
            _set_thresholds(library, _GLIBC_REACHES)
            library.malloc_trim(0)


def _set_thresholds(library: Any, thresholds: Mapping[str, int]) -> None:
    for name, value in thresholds.items():
        library.mallopt(_MALLOPT[name], value)


def _mem_available() -> int:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux: all that there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_control_groups() -> Iterator[int]:
    """Yields what each control group that this process is in leaves: a container's limit stands nowhere else."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()]
    except OSError:
        return
    for _, controllers, name in groups:
        if controllers == "":
            root, files = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = Path("/sys/fs/cgroup/memory")
        else:
            continue
        place = root / name.lstrip("/")
        for group in (place, *place.parents):
            if group.is_relative_to(root):
                yield from _left_in(group, *files)


def _left_in(group: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    try:
        allowed, used = (group / limit).read_text(encoding="ascii").strip(), int((group / usage).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return
    if allowed != "max":
        yield max(0, int(allowed) - used + int(statistics.get(reclaimable, 0)))


SHARED_MEMORY = Path("/dev/shm")  # nosec B108  # its free space is read, no file is made there


def check_shared_memory(needed: int, workers: int, remedy: str) -> None:
    """Raises `RequestError` where loader processes would not find room for the batches that they hand over.

    Containers have 64 MB of shared memory where nothing else is said; a process that finds it full dies by a signal.

    Args:
        needed: bytes that wait there at most.
        workers: processes; none need nothing.
        remedy: how the user asks for no processes.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise RequestError(
            f"{SHARED_MEMORY}: {megabytes(free)} free, and {workers} loader processes need about {megabytes(needed)} "
            f"there; give the container more (docker run --shm-size={math.ceil(needed / 2**30) + 1}g), or {remedy}"
        )


def megabytes(count: int) -> str:
    """Returns a number of bytes for people: `64 MB`, `1.5 GB` (powers of 1,024)."""
    return f"{count / 2**20:,.0f} MB" if count < 2**30 else f"{count / 2**30:,.1f} GB"
