"""How far features in a lower precision agree with those in fp32, on some images of a split.

Shapes: n images of the sample, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from massl_bench.core.files import read_memo, sha256_of, write_memo
from massl_bench.core.settings import PrecisionAgreement
from massl_bench.core.values import FeatureBank
from massl_bench.datasets.splits import SubsetSplit
from massl_bench.features.banks import Reporting
from massl_bench.features.cache import FeatureCache, read_meta
from massl_bench.features.making import Wanted
from massl_bench.features.options import ExtractionOptions

if TYPE_CHECKING:
    from massl_bench.features.extraction import Extracted, Target

_MEMOS = "precision"


def agreement_with_fp32(  # which features, and where their images are
    cache: FeatureCache,
    wanted: Wanted,
    bank: FeatureBank,
    *,
    options: ExtractionOptions,
    reporting: Reporting,
    num_images: int,
    also: Callable[[], Iterable[Wanted]] = list,
) -> tuple[PrecisionAgreement, int]:
    """Returns how far a bank of the cache agrees with fp32, remembered or measured, and on how many images just now.

    Args:
        cache: where the bank is.
        wanted: what it is, and what it is made of.
        bank: what is in it.
        options: of the extraction.
        reporting: where the progress goes.
        num_images: of the sample, evenly spread over the split; all where there are fewer.
        also: asked only where images have to go through the model: returns other banks of the same images. Of those
            that the cache holds, the same sample is measured along with it, and remembered.

    Raises:
        CellError: An image or a feature is broken.
    """
    held = _Held(cache, wanted, bank, num_images)
    if held.agreement is not None:
        return held.agreement, 0
    # Only here: a run whose features are all cached imports no torch.
    from massl_bench.features.extraction import extract

    read = [(other, cache.read(other.key)[0]) for other in also()]
    others = [
        _Held(cache, other, its, num_images) for other, its in read if its is not None and its.skipped == bank.skipped
    ]
    key, split = wanted.key, wanted.dataset.split(wanted.key.split)
    sample = SubsetSplit(split, _items(bank, held.rows_n, split.ids, key.limit or len(split)), labelled=True)
    targets = [held.target(required=True)]
    targets += [other.target(required=False) for other in others if other.agreement is None]
    label = f"{wanted.encoder().card.name} on {wanted.dataset.name}/{key.split}, in fp32"
    with reporting.progress(label, len(sample)) as progress:
        extract(
            targets,
            sample,
            replace(options, precision="fp32", skip_corrupt=False),
            pieces=[range(len(sample))],
            progress=progress,
        )
    assert held.agreement is not None
    return held.agreement, len(sample)


class _Held:
    """A bank that is held against fp32; `agreement` is None where that is not known yet."""

    def __init__(self, cache: FeatureCache, wanted: Wanted, bank: FeatureBank, num_images: int) -> None:
        self._wanted, self._bank, self._memos = wanted, bank, cache.root / _MEMOS
        self._name = sha256_of(
            [1, wanted.key.digest, read_meta(cache.path(wanted.key)).sha256["features.npy"], num_images]
        )
        self.rows_n = np.linspace(0, len(bank) - 1, min(num_images, len(bank))).round().astype(np.int64)
        self.agreement: PrecisionAgreement | None = None
        memo = read_memo(self._memos, self._name)
        if memo is not None:
            with suppress(ValidationError):  # of another version of this package
                self.agreement = PrecisionAgreement.model_validate(memo)

    def target(self, *, required: bool) -> Target:
        """Returns what is made of the sample; where it is not required, whoever wants it alone is told why it fails."""
        from massl_bench.features.extraction import Target

        return Target(
            encoder=self._wanted.encoder(),
            preprocessing=self._wanted.key.preprocessing,
            deliver=self._measure,
            give_up=None if required else lambda: None,
        )

    def _measure(self, piece: Extracted) -> None:
        self.agreement = agreement_of(self._bank.features[self.rows_n], piece.features)
        write_memo(self._memos, self._name, self.agreement.model_dump(mode="json"))


def agreement_of(lower_nD: NDArray[np.float32], full_nD: NDArray[np.float32]) -> PrecisionAgreement:
    """Returns how far two features of each image agree: by their cosines, and by who is nearest to whom."""
    one_nD, other_nD = _unit(lower_nD), _unit(full_nD)
    # Two features of zeros are the same.
    cosine_n = np.where((one_nD == other_nD).all(axis=1), 1.0, (one_nD * other_nD).sum(axis=1))
    return PrecisionAgreement(
        num_images=len(full_nD),
        min_cosine=float(np.clip(cosine_n.min(), -1, 1)),
        equal_neighbours=_equal_neighbours(one_nD, other_nD),
    )


def _equal_neighbours(lower_nD: NDArray[np.float64], full_nD: NDArray[np.float64]) -> float:
    """Returns the share of images whose nearest other one is the same in both, or as near in fp32 (a second copy)."""
    if len(full_nD) == 1:
        return 1.0
    lower_nn, full_nn = lower_nD @ lower_nD.T, full_nD @ full_nD.T
    np.fill_diagonal(lower_nn, -np.inf)
    np.fill_diagonal(full_nn, -np.inf)
    chosen_n = np.take_along_axis(full_nn, lower_nn.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((chosen_n >= full_nn.max(axis=1) - np.finfo(np.float32).eps).mean())


def _unit(rows_nD: NDArray[np.float32]) -> NDArray[np.float64]:
    wide_nD = rows_nD.astype(np.float64)
    length_n1 = np.linalg.norm(wide_nD, axis=1, keepdims=True)
    unit_nD: NDArray[np.float64] = wide_nD / np.where(length_n1 > 0, length_n1, 1)
    return unit_nD


def _items(
    bank: FeatureBank, rows_n: NDArray[np.int64], ids: Callable[[int], NDArray[np.bytes_]], count: int
) -> list[int]:
    """Returns which items of the split some rows of its bank are: others, where corrupt images were left out."""
    if not bank.skipped:
        return [int(row) for row in rows_n]
    items, item = [], 0
    names = ids(count)
    for name in bank.ids:
        while names[item] != name:
            item += 1
        items.append(item)
        item += 1
    return [items[row] for row in rows_n.tolist()]
