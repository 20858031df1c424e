"""What a fit of `logistic` holds at a time, and how large it makes its pieces; known without torch.

Shapes: N items, D features, R principal axes, K classes, P problems (strengths).
"""

from __future__ import annotations

from dataclasses import dataclass

ROWS = 2048
"""Rows of features that are processed at a time."""

_LARGE_BYTES = 1 << 26
"""Features from this size on are not copied as a whole."""

HISTORY = 10
"""M, the pairs of L-BFGS, as in scikit-learn's (SciPy's)."""

_LOGITS = 1 << 20
"""Logits of all problems that are held at a time: they stay in the processor's cache."""

_DEVICE_LOGITS = 1 << 27
"""The same on a GPU, 512 MB: its products want rows by the thousand, and each of them is a launch."""

_STATE_BYTES = 1 << 30
"""The problems are solved in groups whose histories stay below this size (1,000 classes × 2,048 dimensions are 16 MB
for each strength and vector)."""

_OTHER_VECTORS = 12
"""Point, trial, gradients, direction and what is between them, beside the history of a problem."""

_AXES_MATRICES = 5
"""D × D in float64: the covariance, its eigenvectors and what LAPACK works in."""

_PIECES = 4
"""Blocks of rows at a time."""

_DEVICE_WORKSPACE = 256 << 20
"""What the libraries of a GPU take for themselves."""


def num_kept(num_rows: int, num_all: int, dim: int, *, in_file: bool) -> int:
    """Returns of how many rows the coordinates are kept on the CPU, where there is room for all of them.

    Features that lie in memory leave room for two thirds of themselves, so that all stays below twice their size.
    """
    return num_rows if in_file or is_small(num_all, dim) else min(num_rows, 2 * num_all // 3)


def is_small(num_all: int, dim: int) -> bool:
    """Tells whether features are so few that nobody asks for room for their coordinates."""
    return 4 * num_all * dim <= _LARGE_BYTES


def group_of(rank: int, num_classes: int) -> int:
    """Returns how many problems are solved together."""
    return max(1, _STATE_BYTES // (4 * (rank + 1) * num_classes * (2 * HISTORY + 8)))


def rows_at_once(columns: int, count: int, *, on_gpu: bool) -> int:
    """Returns how many of `count` rows a product takes that gives so many logits of each."""
    at_once, limit = (_DEVICE_LOGITS, count) if on_gpu else (_LOGITS, ROWS)
    return max(64, min(limit, at_once // columns))


@dataclass(frozen=True, kw_only=True)
class FitSize:
    """How large a fit is."""

    dim: int
    """D."""
    num_classes: int
    """K."""
    num_strengths: int
    """P."""
    several_labels: bool
    """Whether an item has several labels: one-vs-rest."""

    @property
    def classifier(self) -> int:
        """Bytes of one classifier, or of one vector of L-BFGS."""
        return 4 * (self.dim + 1) * self.num_classes

    @property
    def state(self) -> int:
        """Bytes of the problems that are solved together, of all that were solved, and of finding the axes."""
        together = min(self.num_strengths, group_of(self.dim, self.num_classes))
        vectors = together * (2 * HISTORY + _OTHER_VECTORS) + self.num_strengths
        return self.classifier * vectors + _AXES_MATRICES * 8 * self.dim**2

    @property
    def on_cpu(self) -> int:
        """Bytes that a fit holds there beside features and coordinates."""
        return self.state + 4 * _LOGITS * (6 if self.several_labels else 2) + _PIECES * 4 * ROWS * self.dim

    @property
    def on_gpu(self) -> int:
        """Bytes that a fit holds there beside features and coordinates."""
        return self.state + 4 * _DEVICE_LOGITS * (6 if self.several_labels else 2) + _DEVICE_WORKSPACE
