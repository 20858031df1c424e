"""What the protocols ask of features. Shapes: N items, D dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import CellError

_CHUNK = 4096


def check_not_constant(images: str, features_ND: NDArray[np.float32]) -> None:
    """Raises `CellError` where two items or more all have the same features; `images` is what they are called."""
    count, dims = features_ND.shape
    pieces = (features_ND[start : start + _CHUNK] for start in range(0, count, _CHUNK))  # ends at the first other row
    if count > 1 and all((piece_nD == features_ND[0]).all() for piece_nD in pieces):
        raise CellError(
            f"all {dims} feature dimensions are constant over the {count} {images}: the model gives every "
            "image the same features; check its weights and its preprocessing"
        )
