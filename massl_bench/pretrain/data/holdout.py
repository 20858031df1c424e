"""Features for the online evaluation: a part of the training images asks, another answers; test data stay untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.settings import Preprocessing
from massl_bench.core.values import FeatureBank
from massl_bench.core.wording import asked
from massl_bench.datasets import ImageSplit, Unreadable
from massl_bench.datasets.images.preprocess import apply_preprocessing
from massl_bench.pretrain.seeds import seeded_generator

_BATCH = 256
_PARTS = 5


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Fixed rows of a labelled training split.

    Attributes:
        split: the training images.
        preprocessing: as the exported weights will be evaluated.
        bank: row numbers of the items that answer.
        queries: row numbers of the items that ask; none of the bank's.
    """

    split: ImageSplit
    preprocessing: Preprocessing
    bank: NDArray[np.int64]
    queries: NDArray[np.int64]

    @classmethod
    def draw(
        cls, split: ImageSplit, preprocessing: Preprocessing, *, seed: int, max_bank: int, max_queries: int
    ) -> Holdout:
        """Draws a fifth of the images, at most `max_queries`, as queries, and at most `max_bank` others.

        Raises:
            RequestError: Fewer than five images.
        """
        if len(split) < _PARTS:
            raise RequestError(
                f"run.knn_every: the online k-NN holds out a fifth of the images, and there are {len(split)}",
                remedy=f"give {asked('settings', 'run.knn_every=0')}",
            )
        order = torch.randperm(len(split), generator=seeded_generator(seed, "holdout")).numpy()
        num_queries = min(max_queries, len(split) // _PARTS)
        queries, bank = order[:num_queries], order[num_queries:][:max_bank]
        return cls(split=split, preprocessing=preprocessing, bank=np.sort(bank), queries=np.sort(queries))

    def banks(self, backbone: nn.Module) -> dict[str, FeatureBank]:
        """Returns the features of both parts as `train` and `test`, with the backbone as it is now."""
        assert self.split.labels is not None
        return {
            role: FeatureBank.from_arrays(self._features(backbone, rows), self.split.labels[rows])
            for role, rows in (("train", self.bank), ("test", self.queries))
        }

    @torch.no_grad()
    def _features(self, backbone: nn.Module, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        device = next(backbone.parameters()).device
        mean, std = (
            torch.tensor(values, device=device).view(3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        features: list[Tensor] = []
        for start in range(0, len(rows), _BATCH):
            pixels = self._pixels(rows[start : start + _BATCH].tolist())
            images = torch.from_numpy(pixels).to(device).float().div_(255).sub_(mean).div_(std)
            features.append(backbone(images).float().cpu())
        return torch.cat(features).numpy()

    def _pixels(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Returns images as the backbone is to see them, [n, 3, H, W]; raises `CellError` for a damaged one."""
        pixels: list[NDArray[np.uint8]] = []
        try:
            for encoded in self.split.encoded(rows):
                pixels.append(apply_preprocessing(self.split.decode(encoded), self.preprocessing))
        except Exception as error:  # PIL's plugins raise errors of every kind for damaged files
            raise CellError(f"{self.split.locate(rows[len(pixels)])}: {Unreadable.of(error).what}") from None
        return np.stack(pixels)
