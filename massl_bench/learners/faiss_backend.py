"""Which library searches, and where: the one module that imports faiss."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.values import SearchBackend

DEFAULT_BACKEND = SearchBackend("faiss-cpu")


def resolve_backend(device: str) -> SearchBackend:
    """Returns what searches on a device: FAISS on a CPU, torch on a GPU."""
    return SearchBackend("torch", device) if device.startswith("cuda") else DEFAULT_BACKEND


def installed_faiss() -> dict[str, str]:
    """Returns the distributions that install the module `faiss`, with their versions."""
    # By the folders' names: to ask every package of the machine for its own takes longer than a cached run.
    folders = (folder for place in sys.path for folder in sorted(Path(place).glob("[Ff][Aa][Ii][Ss][Ss]*-info")))
    found = [metadata.Distribution.at(folder) for folder in folders]
    return {each.metadata["Name"]: each.version for each in reversed(found)}  # the first place counts


def check_installation() -> None:
    """Raises `RequestError` where no FAISS wheel, or more than one, is installed."""
    wheels = installed_faiss()
    if len(wheels) > 1:
        names = sorted(wheels)
        raise RequestError(
            f"{len(names)} FAISS wheels are installed ({', '.join(f'{n} {wheels[n]}' for n in names)}) and overwrite "
            f"each other; keep one: pip uninstall -y {' '.join(names)} && pip install {preferred_backend(names)}"
        )
    if not wheels:
        raise RequestError("FAISS is not installed; pip install faiss-gpu (Linux x86-64) or faiss-cpu (elsewhere)")


def preferred_backend(names: list[str]) -> str:
    """Returns the wheel to keep where several are installed: the one that also searches on a GPU."""
    return next((name for name in names if "gpu" in name), names[0])


@cache
def import_faiss() -> Any:
    """Returns the module; raises `RequestError` where its installation is broken."""
    check_installation()
    import faiss

    return faiss


@contextmanager
def large_blocks() -> Iterator[None]:
    """Lets FAISS multiply blocks that its BLAS is fast on, and look through their products while a cache has them.

    With many neighbours to find, blocks of 4,096 queries and 8,192 rows take 1.25 times as long (50,000 × 384, two
    cores), and its defaults (4,096 and 1,024) a little more than these.
    """
    variables, sizes = import_faiss().cvar, {"query": 1024, "database": 4096}
    names = {f"distance_compute_blas_{what}_bs": size for what, size in sizes.items()}
    before = {name: getattr(variables, name) for name in names}
    try:
        for name, size in names.items():
            setattr(variables, name, size)
        yield
    finally:
        for name, size in before.items():
            setattr(variables, name, size)


_GPU_PROBE = """
import torch, numpy
from massl_bench.learners.faiss_backend import import_faiss, on_gpu
faiss, index = import_faiss(), {index}
assert faiss.get_num_gpus() > index, f"this FAISS build sees {{faiss.get_num_gpus()}} GPUs"
rows = numpy.random.default_rng(0).standard_normal((512, 64), dtype=numpy.float32)
with on_gpu(f"cuda:{{index}}") as placed:
    database = placed(faiss.IndexFlatL2(64))
    database.add(rows)
    assert database.search(rows, 1)[1][:, 0].tolist() == list(range(512)), "wrong neighbours"
"""

_GPU_TEMPORARY_BYTES = 256 << 20
"""What FAISS works in on a GPU, where it would take 1.5 GB."""


@cache
def gpu_problem(index: int) -> str | None:
    """Returns why FAISS cannot use GPU `index`, or None where a search there was right.

    It is tried in a child process: a wheel that does not fit the driver can end the process.
    """
    probe = subprocess.run(  # nosec B603  # this interpreter, with text of ours
        [sys.executable, "-c", _GPU_PROBE.format(index=index)], capture_output=True, text=True, check=False, timeout=300
    )
    if probe.returncode == 0:
        return None
    lines = probe.stderr.strip().splitlines()
    return lines[-1] if lines else f"the probe ended with code {probe.returncode}"


@contextmanager
def on_gpu(device: str) -> Iterator[Callable[[Any], Any]]:
    """Yields what copies an index to a GPU, `cuda:i`, where it can be used inside."""
    import torch  # before faiss: the other order has been seen to crash

    faiss, index = import_faiss(), int(device.partition(":")[2] or 0)
    # Outside this context a GPU other than the first returns wrong neighbours.
    with torch.cuda.device(index):
        resources = faiss.StandardGpuResources()
        resources.setTempMemory(_GPU_TEMPORARY_BYTES)
        yield lambda found: faiss.index_cpu_to_gpu(resources, index, found)
