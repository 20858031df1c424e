"""Images as patches, with the classes of their pixels: the masks go through what the images go through.

Shapes: B images of a batch, L patches, D dimensions, S side of the image that the network sees, in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from massl_bench.core.errors import CellError, one_line
from massl_bench.core.values import DenseBatch, ViewPlan
from massl_bench.datasets.images.preprocess import apply_preprocessing, cut_view
from massl_bench.features.views import EncodedViews, view_of


class EncodedDense(EncodedViews):
    """A split of a segmentation dataset, seen through an encoder whose features are patch tokens."""

    @override
    def _labels_of(self, label: str, limit: int | None) -> NDArray[Any]:
        return np.zeros(len(self._split) if limit is None else min(limit, len(self._split)), dtype=np.int64)

    def dense(self, plan: ViewPlan | None) -> Iterator[DenseBatch]:
        """Yields the images as they are, in their order; under a plan, its views of all epochs, one after the other.

        Raises:
            CellError: An image or a mask cannot be decoded, their sizes differ, or a feature is not finite.
        """
        if plan is None:
            for batch in self.plain(np.arange(len(self))):
                yield DenseBatch(features=batch.features, masks=self._masks(batch.rows, None, 0))
            return
        for epoch, batches in enumerate(self.epochs(plan)):
            for batch in batches:
                yield DenseBatch(features=batch.features, masks=self._masks(batch.rows, plan, epoch))

    def _masks(self, rows_B: NDArray[np.int64], plan: ViewPlan | None, epoch: int) -> NDArray[np.uint8]:
        return np.stack([self._mask(int(row), plan, epoch) for row in rows_B])

    def _mask(self, row: int, plan: ViewPlan | None, epoch: int) -> NDArray[np.uint8]:
        """Returns the classes of the pixels that the network sees of an item, uint8 [S, S]: resized to the nearest."""
        try:
            mask = self._split.mask(row)
        except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
            raise CellError(f"the mask cannot be read: {one_line(error)}", where=self._split.locate(row)) from None
        # In three channels: what is done to images can be done to it.
        image = Image.merge("RGB", (mask, mask, mask))
        nearest = self._preprocessing.model_copy(update={"interpolation": "nearest"})
        if plan is None:
            seen_3SS = apply_preprocessing(image, nearest)
        else:
            assert nearest.crop is not None
            box, mirrored = view_of(plan, (epoch, row), image.width, image.height)
            seen_3SS = cut_view(image, box, nearest.crop, "nearest", mirrored=mirrored)
        mask_SS: NDArray[np.uint8] = seen_3SS[0]
        return mask_SS
