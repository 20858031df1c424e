"""What the protocols ask of labels. Shapes: N items, C classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import EvaluationData, FeatureBank
from massl_bench.core.wording import asked
from massl_bench.metrics.multilabel import lacking


def check_not_empty(roles: Iterable[str], num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for the first of the splits that has no items."""
    for role in roles:
        if num_items[role] == 0:
            raise RequestError(f"the {role} split is empty: at least one image is needed")


def labels_of(role: str, bank: FeatureBank) -> NDArray[Any]:
    """Returns the labels of a split; raises `RequestError` for a split without items or without labels."""
    check_not_empty([role], {role: len(bank)})
    if bank.labels is None:
        raise RequestError(f"the {role} split has no labels; spectrum is the task that needs none")
    return bank.labels


def single_labels(role: str, bank: FeatureBank) -> NDArray[np.int64]:
    """Returns class indices int64 [N]; raises `RequestError` for multi-label data."""
    labels = labels_of(role, bank)
    if labels.ndim != 1:
        raise RequestError(f"needs one label an image, and the {role} split has {labels.shape[1]} (multi-label)")
    return labels.astype(np.int64, copy=False)


def multi_labels(role: str, bank: FeatureBank) -> NDArray[np.int8]:
    """Returns int8 [N, C] with 1 present, 0 difficult, −1 absent.

    Raises:
        RequestError: Single-label data; difficult items where nothing is absent: these labels mean something else.
    """
    labels = labels_of(role, bank)
    if labels.ndim != 2:
        raise RequestError(f"needs multi-label data, and the {role} split has one label an image")
    if (labels == 0).any() and not (labels == -1).any():
        raise RequestError(
            f"the {role} split has labels 0 (difficult) and no -1 (absent): where 0 means absent, make the bank with "
            "FeatureBank.from_arrays(features, labels, label_coding='0/1')"
        )
    return labels.astype(np.int8, copy=False)


def class_count(data: EvaluationData) -> int:
    """Returns C; raises `RequestError` where it is unknown or 1."""
    if data.num_classes is None:
        raise RequestError("the number of classes is not known")
    if data.num_classes < 2:
        raise RequestError(
            f"the dataset has {data.num_classes} class: there is nothing to tell apart; "
            "give a dataset of two classes or more"
        )
    return data.num_classes


def check_every_class(labels_N: NDArray[np.int64], num_classes: int, names: tuple[str, ...] | None) -> None:
    """Raises `CellError` where a class has no training item: it could never be predicted."""
    missing = np.flatnonzero(np.bincount(labels_N, minlength=num_classes) == 0)
    if len(missing):
        shown = ", ".join(class_name(index, names) for index in missing[:3]) + (", …" if len(missing) > 3 else "")
        raise CellError(
            f"{len(missing)} of {num_classes} classes have no training image ({shown}); every class needs "
            f"one: raise {asked('limit', 'train=N')}, or take a split that has them"
        )


def class_name(index: int, names: tuple[str, ...] | None) -> str:
    """Returns how an error calls a class."""
    return f"class {index}" if names is None else f"class {index}, {names[index]!r}"


def scored_classes(
    truth_NC: NDArray[np.int8], names: tuple[str, ...] | None, *, difficult_is_negative: bool
) -> tuple[str, ...]:
    """Returns the notes that name the classes of a test split that no average precision exists for.

    Raises:
        CellError: There is none for any class.
    """
    missing = lacking(truth_NC, difficult_is_negative=difficult_is_negative)
    if len(np.unique(np.concatenate([*missing.values()]))) == truth_NC.shape[1]:
        raise CellError(
            "no class has a positive and a negative test image: there is no precision to average; found "
            + ", ".join(f"{len(classes)} of {truth_NC.shape[1]} without a {word}" for word, classes in missing.items())
        )
    return tuple(
        f"left out of the mean, without a {word} test image: {_listed(classes, names)}"
        for word, classes in missing.items()
        if len(classes)
    )


def _listed(classes: NDArray[np.int64], names: tuple[str, ...] | None) -> str:
    shown = "; ".join(class_name(index, names) for index in classes[:20].tolist())
    return f"{shown}; … ({len(classes)} in all)" if len(classes) > 20 else shown
