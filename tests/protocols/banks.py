"""Evaluation data of plain arrays."""

import numpy as np

from massl_bench.core.values import EvaluationData, FeatureBank


def bank(features, labels=None):
    return FeatureBank(
        features=np.asarray(features, dtype=np.float32),
        labels=labels,
        ids=np.array([str(row).encode() for row in range(len(features))]),
    )


def evaluation(num_classes=None, **splits):
    banks = {role: bank(*arrays) for role, arrays in splits.items()}
    return EvaluationData(banks=banks, num_classes=num_classes)


def params_of(protocol, task):
    """The parameters of a task of the registry."""
    from massl_bench.specs.registry import Registry

    return protocol.Params.model_validate(Registry().task(task).params)
