"""What a fit of `logistic` holds at a time, and how large it makes its pieces; known without torch.

Shapes: N items, D features, R principal axes, K classes, P problems (strengths).
"""

from __future__ import annotations

from dataclasses import dataclass

HISTORY = 10
"""M, the pairs of L-BFGS, as in scikit-learn's (SciPy's)."""

_LOGITS = 1 << 20
"""Logits of all problems that are held at a time: they stay in the processor's cache."""

_DEVICE_LOGITS = 1 << 27
"""The same on a GPU, 512 MB: its products want rows by the thousand, and each of them is a launch."""

_STATE_BYTES = 1 << 30
"""The problems are solved in groups whose histories stay below this size (1,000 classes × 2,048 dimensions are 16 MB
for each strength and vector)."""


def group_of(rank: int, num_classes: int) -> int:
    """Returns how many problems are solved together."""
    return max(1, _STATE_BYTES // (4 * (rank + 1) * num_classes * (2 * HISTORY + 8)))


def rows_at_once(columns: int, count: int, *, on_gpu: bool, most: int) -> int:
    """Returns how many rows a product takes: of `count`, and on the CPU no more than `most`.

    Args:
        columns: logits of a row, of all problems.
        count: N.
        on_gpu: where it computes.
        most: rows of a block that is read at a time on the CPU.
    """
    at_once, limit = (_DEVICE_LOGITS, count) if on_gpu else (_LOGITS, most)
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
    def state(self) -> int:
        """Bytes of what is solved together, and of all that was solved."""
        vector = 4 * (self.dim + 1) * self.num_classes
        together = min(self.num_strengths, group_of(self.dim, self.num_classes))
        return vector * (together * (2 * HISTORY + 14) + 2 * self.num_strengths)

    @property
    def on_device(self) -> int:
        """Bytes that a fit holds on a GPU beside features and coordinates."""
        logits = 4 * _DEVICE_LOGITS * (6 if self.several_labels else 2)
        return self.state + logits + 5 * 8 * self.dim**2 + (256 << 20)
