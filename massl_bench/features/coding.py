"""What the numbers of multi-label arrays mean: 0 may be absent, or difficult. Shapes: N items, C classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import LabelCoding

MEANING: Mapping[LabelCoding, str] = {
    "0/1": "0 absent, 1 present",
    "-1/0/1": "-1 absent, 0 difficult, 1 present",
}


class AmbiguousCodingError(ValueError):
    """0 could mean absent or difficult in a split.

    Attributes:
        role: the split.
        zeros: how often 0 is in it.
        absent: how often −1 is in each split.
    """

    def __init__(self, role: str, zeros: int, absent: Mapping[str, int]) -> None:
        super().__init__(f"{role}: 0 could mean absent or difficult")
        self.role, self.zeros, self.absent = role, zeros, absent


def inferred_coding(labels: Mapping[str, NDArray[Any]]) -> LabelCoding:
    """Returns what the labels [N, C] of all splits mean; a split of a few images may hold no −1 by chance.

    Raises:
        AmbiguousCodingError: There is a −1 somewhere, and a split holds more 0 than −1.
    """
    absent = {role: int((values_NC == -1).sum()) for role, values_NC in labels.items()}
    if not any(absent.values()):
        return "0/1"
    for role, values_NC in labels.items():
        zeros = int((values_NC == 0).sum())
        if zeros > absent[role]:
            raise AmbiguousCodingError(role, zeros, absent)
    return "-1/0/1"


def assumed(labels: Mapping[str, NDArray[Any]], coding: LabelCoding) -> str | None:
    """Returns in words what was assumed of labels; None where there is no 0 that could mean anything else."""
    if not any((values_NC == 0).any() for values_NC in labels.values()):
        return None
    return f"labels read as {MEANING[coding]}"


def as_banks_hold_them(labels: Mapping[str, NDArray[Any]], coding: LabelCoding) -> dict[str, NDArray[np.int8]]:
    """Returns int8 [N, C] by role, with 1 present, 0 difficult, −1 absent."""
    if coding == "0/1":
        return {role: 2 * values_NC.astype(np.int8) - 1 for role, values_NC in labels.items()}
    return {role: values_NC.astype(np.int8, copy=False) for role, values_NC in labels.items()}
