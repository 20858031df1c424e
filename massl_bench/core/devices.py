"""Devices by name, without importing torch where there is no GPU driver."""

from __future__ import annotations

import ctypes
import re

from massl_bench.core.errors import RequestError


def resolve_device(name: str) -> str:
    """Returns `cpu` or `cuda:i` for `auto`, `cpu`, `cuda` or `cuda:i`.

    Raises:
        RequestError: The name is of another form, or that GPU is not there.
    """
    if name == "cpu":
        return "cpu"
    if not re.fullmatch(r"auto|cuda(:\d+)?", name):
        raise RequestError(f"--device {name}: expected auto, cpu, cuda or cuda:i")
    count = num_gpus()
    if name == "auto":
        return "cuda:0" if count else "cpu"
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise RequestError(
            f"--device {name}: torch sees {count} GPUs here; use --device cpu, or see massl-bench doctor"
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
