import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture
def golden_dir() -> Path:
    return Path(__file__).parents[1] / "golden"


@pytest.fixture
def official_checkpoint(golden_dir: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint: dict[str, Any] = torch.load(golden_dir / "official_format_checkpoint.pth", weights_only=True)
    return checkpoint


@pytest.fixture
def golden(golden_dir: Path) -> Callable[[str], dict[str, Any]]:
    """Read a golden `.npz`: arrays as tensors, scalars as Python numbers."""

    def read(name: str) -> dict[str, Any]:
        with np.load(golden_dir / name) as arrays:
            numbers = {key: array for key, array in arrays.items() if array.ndim == 0 or array.dtype.kind != "U"}
        return {key: torch.from_numpy(array) if array.ndim else array.item() for key, array in numbers.items()}

    return read


@pytest.fixture
def unit_rows() -> Callable[..., Tensor]:
    """Draw unit rows."""

    def draw(num_rows: int, dim: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
        rows = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return torch.nn.functional.normalize(rows, dim=1).to(dtype)

    return draw


class OperatorLog(TorchDispatchMode):
    """Records the names of the operators that run, and the number of elements of the largest tensor they return."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket._qualified_op_name)
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.fixture
def operator_log() -> type[OperatorLog]:
    return OperatorLog


@pytest.fixture
def without_device_wait() -> Callable[[], AbstractContextManager[None]]:
    """Fail if the block reads a tensor's value, which on an accelerator waits for everything queued before."""

    @contextmanager
    def check() -> Iterator[None]:
        with OperatorLog() as log:
            yield
        assert "aten::_local_scalar_dense" not in log.names

    return check
