"""Evaluation data of plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from massl_bench.core.values import EvaluationData, FeatureBank


def bank(features: Any, labels: Any = None) -> FeatureBank:
    return FeatureBank(
        features=np.asarray(features, dtype=np.float32),
        labels=labels,
        ids=np.array([str(row).encode() for row in range(len(features))]),
    )


def evaluation(num_classes: int | None = None, **splits: Any) -> EvaluationData:
    banks = {role: bank(*arrays) for role, arrays in splits.items()}
    return EvaluationData(banks=banks, num_classes=num_classes)


def params_of(protocol: Any, task: str) -> Any:
    """The parameters of a task of the registry."""
    from massl_bench.specs.registry import Registry

    return protocol.Params.model_validate(Registry().task(task).params)
