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
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from massl_bench.bench.api import (
        extract,
        info,
        list_datasets,
        list_models,
        list_suites,
        list_tasks,
        load_encoder,
    )
    from massl_bench.bench.benchmark import BenchmarkResult, benchmark, compare, leaderboard, overlap, verify
    from massl_bench.bench.evaluation import evaluate
    from massl_bench.bench.scores import TaskScores
    from massl_bench.bench.training import pretrain
    from massl_bench.core.errors import CellError, MasslBenchError, RequestError
    from massl_bench.core.settings import Preprocessing
    from massl_bench.core.values import CopyTruth, FeatureBank, QueryTruth, Score
    from massl_bench.features.options import ExtractionOptions
    from massl_bench.models.encoder import Encoder
else:
    from massl_bench import pretrain  # the part: the function of the same name is what calling it calls

_HOMES = {
    "BenchmarkResult": "bench.benchmark",
    "CellError": "core.errors",
    "CopyTruth": "core.values",
    "Encoder": "models.encoder",
    "ExtractionOptions": "features.options",
    "FeatureBank": "core.values",
    "MasslBenchError": "core.errors",
    "Preprocessing": "core.settings",
    "QueryTruth": "core.values",
    "RequestError": "core.errors",
    "Score": "core.values",
    "TaskScores": "bench.scores",
    "benchmark": "bench.benchmark",
    "compare": "bench.benchmark",
    "evaluate": "bench.evaluation",
    "extract": "bench.api",
    "info": "bench.api",
    "leaderboard": "bench.benchmark",
    "list_datasets": "bench.api",
    "list_models": "bench.api",
    "list_suites": "bench.api",
    "list_tasks": "bench.api",
    "load_encoder": "bench.api",
    "overlap": "bench.benchmark",
    "verify": "bench.benchmark",
}

__all__ = [
    "BenchmarkResult",
    "CellError",
    "CopyTruth",
    "Encoder",
    "ExtractionOptions",
    "FeatureBank",
    "MasslBenchError",
    "Preprocessing",
    "QueryTruth",
    "RequestError",
    "Score",
    "TaskScores",
    "benchmark",
    "compare",
    "evaluate",
    "extract",
    "info",
    "leaderboard",
    "list_datasets",
    "list_models",
    "list_suites",
    "list_tasks",
    "load_encoder",
    "overlap",
    "pretrain",
    "verify",
]


class _CallablePart(ModuleType):
    """Lets `massl_bench.pretrain` be a part, wherever it is imported, and what a user calls."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Encoder:
        """As `massl_bench.bench.training.pretrain`."""
        from massl_bench.bench import training

        return training.pretrain(*arguments, **keywords)


if not TYPE_CHECKING:
    pretrain.__class__ = _CallablePart


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("massl-bench")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
