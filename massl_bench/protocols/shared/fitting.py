"""What protocols that fit logistic regressions hold beside their features. All in bytes.

Shapes: N items that are fitted, D features, Q test items, C classes, R resamples.
"""

from __future__ import annotations

from massl_bench.core.memory import Extent, Memory
from massl_bench.learners.fit_memory import FitSize, num_kept
from massl_bench.metrics.multilabel import memory_of_resamples

_BYTES_OF_AN_ITEM = 40
"""Its label and its number, in each of several lists."""

_BYTES_OF_A_SCORE = 8
"""A logit in float32, and the comparisons that find its rank."""

_BYTES_OF_A_RESAMPLED_CLASS = 56
"""Its counts and its accuracy."""


def memory_of_fits(
    extent: Extent, *, num_rows: int, num_strengths: int, num_held_out: int = 0, resamples: int = 0, kept: int = 0
) -> Memory:
    """Returns what fits to some rows hold, and the test of one of them.

    Args:
        extent: the sizes of the cell.
        num_rows: N, of the largest fit.
        num_strengths: that are fitted together.
        num_held_out: rows on which all of these are compared.
        resamples: R.
        kept: bytes of what was fitted before, and is kept.
    """
    size = FitSize(
        dim=extent.dim,
        num_classes=extent.num_classes,
        num_strengths=num_strengths,
        several_labels=extent.several_labels,
    )
    on_gpu = extent.device != "cpu"
    kept_rows = num_kept(num_rows, extent.num_items["train"], extent.dim, in_file=extent.in_files)
    coordinates = 4 * extent.dim * (num_rows if on_gpu else kept_rows)
    label = extent.num_classes if extent.several_labels else 8
    fitting = (
        num_rows * (_BYTES_OF_AN_ITEM + 3 * label) + 4 * num_strengths * num_held_out + (0 if on_gpu else size.on_cpu)
    )
    comparing = 4 * 5 * num_held_out * extent.num_classes if extent.several_labels else 0
    testing = _BYTES_OF_A_SCORE * extent.num_items["test"] * extent.num_classes
    if extent.several_labels:
        testing += memory_of_resamples(extent.num_items["test"], resamples)
    else:
        testing += _BYTES_OF_A_RESAMPLED_CLASS * resamples * extent.num_classes
    host = kept + max(fitting, comparing, testing)
    if not on_gpu:
        return Memory(host=host, more_host=coordinates)
    return Memory(host=host, device=size.on_gpu, more_device=2 * coordinates)
