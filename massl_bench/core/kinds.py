"""The kinds of dataset that there are: what its images come with."""

from __future__ import annotations

from typing import Literal

DatasetKind = Literal["single-label", "multi-label", "retrieval", "copy-detection", "segmentation", "unlabelled"]
LABELLED_KINDS: frozenset[DatasetKind] = frozenset({"single-label", "multi-label"})
"""The kinds whose images have classes."""
