"""What a Python user holds becomes banks: arrays, tensors, lists, labels of any kind. Shapes: N items, D features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable
from massl_bench.core.values import CopyTruth, FeatureBank, GroundTruth, QueryTruth
from massl_bench.features.coding import AmbiguousCodingError, as_banks_hold_them, assumed, inferred_coding

Handed = Any
"""A bank; features [N, D]; or features with labels, [N] or [N, C]. Arrays, tensors, data frames, nested lists."""


def banks_of(handed: Mapping[str, Handed]) -> tuple[dict[str, FeatureBank], tuple[str, ...]]:
    """Returns the banks of what was handed in, by role, and what was assumed of their labels.

    Labels [N] may be any values that can be sorted, words too: those of `train`, sorted, become the class indices.
    Labels [N, C] are multi-label: 1 present, 0 difficult, −1 absent; or 0 absent and 1 present.

    Raises:
        RequestError: Shapes or types do not fit, a feature is not finite, or a label does not occur in `train`.
    """
    features, labels = {}, {}
    banks: dict[str, FeatureBank] = {}
    for role, value in handed.items():
        if isinstance(value, FeatureBank):
            banks[role] = value
            continue
        features[role], given = _pair(role, value)
        if given is not None:
            labels[role] = given
    indices, names, notes = _class_indices(labels)
    for role, values_ND in features.items():
        try:
            bank = FeatureBank.from_arrays(values_ND, indices.get(role))
        except ValueError as error:
            raise RequestError(f"{role}: {error}") from None
        bank = replace(bank, on_device=_on_a_gpu(handed[role]))
        if names is not None and role in indices:
            bank = replace(bank, class_names=names, num_classes=len(names))
        banks[role] = bank
    return {role: banks[role] for role in handed}, notes


def _pair(role: str, value: Handed) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Returns (features, labels or None)."""
    if isinstance(value, tuple):
        if len(value) != 2:
            raise RequestError(
                f"{role}: expected features [N, D], or a pair of features and labels; found {len(value)} values"
            )
        return _array(role, "features", value[0]), _array(role, "labels", value[1])
    return _array(role, "features", value), None


def _on_a_gpu(value: Handed) -> Any:
    """Returns the features of what was handed in, a float32 tensor [N, D], where they lie on a GPU; None elsewhere."""
    features = value[0] if isinstance(value, tuple) else value
    return features.detach().float().contiguous() if getattr(features, "is_cuda", False) else None


def _array(role: str, what: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a tensor of torch, which is not imported for this
        value = value.detach().cpu()
        value = value.float().numpy() if value.dtype.is_floating_point else value.numpy()
    try:
        found = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise RequestError(f"{role}: {what}: not an array: {error}") from None
    if found.dtype == object:
        if what == "labels" and all(isinstance(each, str) for each in found.ravel()):
            return found.astype(np.str_)
        raise RequestError(f"{role}: {what}: expected numbers, found objects of {type(found.flat[0]).__name__}")
    if (what == "features" and not np.issubdtype(found.dtype, np.number)) or np.iscomplexobj(found):
        raise RequestError(f"{role}: {what}: expected numbers, found {found.dtype}")
    return found


def _class_indices(
    labels: Mapping[str, NDArray[Any]],
) -> tuple[Mapping[str, NDArray[Any]], tuple[str, ...] | None, tuple[str, ...]]:
    """Returns (labels as a bank holds them, class names of labels [N], what was assumed)."""
    if not labels or any(each.ndim == 2 for each in labels.values()):
        indices, notes = _multi_labels(labels)
        return indices, None, notes
    reference = "train" if "train" in labels else next(iter(labels))
    classes = np.unique(labels[reference])
    found = {}
    for role, values_N in labels.items():
        if np.issubdtype(values_N.dtype, np.floating):
            raise RequestError(f"{role}: labels: expected whole numbers or words, found {values_N.dtype}")
        unknown = np.setdiff1d(values_N, classes)
        if len(unknown):
            raise RequestError(
                f"{role}: labels: class {printable(str(unknown[0]))} does not occur in {reference}, whose "
                f"{len(classes)} classes are {_some(classes)}"
            )
        found[role] = np.searchsorted(classes, values_N).astype(np.int64)
    return found, tuple(str(each) for each in classes), ()


def _multi_labels(labels: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[np.int8]], tuple[str, ...]]:
    """Returns (int8 [N, C] by role: 1 present, 0 difficult, −1 absent; what was assumed)."""
    for role, values_NC in labels.items():
        if values_NC.ndim != 2:
            raise RequestError(f"{role}: labels: expected [N, C] as in the other splits, found {list(values_NC.shape)}")
        wrong = np.setdiff1d(values_NC, (-1, 0, 1))
        if len(wrong):
            raise RequestError(f"{role}: labels: expected 1, 0 and -1, or 1 and 0; found {wrong[0]}")
    try:
        coding = inferred_coding(labels)
    except AmbiguousCodingError as error:
        seen = "no -1, and other splits have some" if not error.absent[error.role] else f"0 {error.zeros} times, and -1"
        raise RequestError(
            f"{error.role}: labels: {seen}: is 0 absent, or difficult? Use one coding in all splits: 1 present, 0 "
            "difficult, -1 absent; or 1 present, 0 absent; FeatureBank.from_arrays(…, label_coding=…) says which"
        ) from None
    meaning = assumed(labels, coding)
    return as_banks_hold_them(labels, coding), (meaning,) if meaning is not None else ()


def _some(classes: NDArray[Any]) -> str:
    shown = ", ".join(printable(str(each)) for each in classes[:6])
    return shown if len(classes) <= 6 else f"{shown}, …"


def truth_of(value: Any) -> GroundTruth | None:
    """Returns what queries should find: a truth as it is; dictionaries of easy, hard and junk; or rows of originals.

    Raises:
        RequestError: It is none of these.
    """
    if value is None or isinstance(value, CopyTruth):
        return value
    entries = list(value)
    if entries and all(isinstance(entry, QueryTruth) for entry in entries):
        return entries
    if entries and all(isinstance(entry, Mapping) for entry in entries):
        return [_query_truth(index, entry) for index, entry in enumerate(entries)]
    rows_Q = _array("ground_truth", "rows of the originals", value)
    if rows_Q.ndim != 1 or not np.issubdtype(rows_Q.dtype, np.integer):
        raise RequestError(
            "ground_truth: expected QueryTruth or {easy, hard, junk} for each query (retrieval); or a CopyTruth, or "
            "for each query the row of its original, -1 for none (copy detection); found "
            f"{rows_Q.dtype} {list(rows_Q.shape)}"
        )
    return CopyTruth(original=rows_Q.astype(np.int64), block=np.full(len(rows_Q), "strong"))


def _query_truth(index: int, entry: Mapping[str, Sequence[int]]) -> QueryTruth:
    unknown = set(entry) - {"easy", "hard", "junk"}
    if unknown or not entry:
        raise RequestError(
            f"ground_truth: query {index}: expected easy, hard and junk, found {', '.join(sorted(entry))}"
        )
    rows = {name: np.asarray(entry.get(name, ()), dtype=np.int64) for name in ("easy", "hard", "junk")}
    try:
        return QueryTruth(**rows)
    except ValueError as error:
        raise RequestError(f"ground_truth: query {index}: {error}") from None
