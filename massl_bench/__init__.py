"""Evaluation protocols for self-supervised visual representations.

```python
import massl_bench as mb

encoder = mb.load_encoder("checkpoint.pth", device="cpu")  # normalised images [B, 3, H, W] -> features [B, D]
banks = mb.extract(encoder, "cifar10", data_root="data")   # {"train": FeatureBank, "test": FeatureBank}
scores = mb.evaluate("knn", banks)                         # {"top1@20": Score, ...}
```

The names load when they are first used: importing the package is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from massl_bench.bench.api import evaluate, extract, load_encoder
    from massl_bench.core.errors import CellError, MasslBenchError, RequestError
    from massl_bench.core.values import FeatureBank, Score

_HOMES = {
    "load_encoder": "bench.api",
    "extract": "bench.api",
    "evaluate": "bench.api",
    "FeatureBank": "core.values",
    "Score": "core.values",
    "MasslBenchError": "core.errors",
    "RequestError": "core.errors",
    "CellError": "core.errors",
}

__all__ = [
    "CellError",
    "FeatureBank",
    "MasslBenchError",
    "RequestError",
    "Score",
    "evaluate",
    "extract",
    "load_encoder",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("massl-bench")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
