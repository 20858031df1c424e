"""How far features in a lower precision agree with those in fp32, on some images of a split.

Shapes: n images of the sample, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from massl_bench.core.files import read_memo, sha256_of, write_memo
from massl_bench.core.settings import PrecisionAgreement
from massl_bench.core.values import FeatureBank
from massl_bench.datasets import Dataset
from massl_bench.datasets.splits import SubsetSplit
from massl_bench.features.banks import Reporting
from massl_bench.features.cache import BankKey, FeatureCache, read_meta
from massl_bench.features.options import ExtractionOptions

if TYPE_CHECKING:
    from massl_bench.features.extraction import Extracted
    from massl_bench.models.encoder import Encoder

_MEMOS = "precision"


def agreement_with_fp32(  # noqa: PLR0913  # which features, and where their images are
    cache: FeatureCache,
    key: BankKey,
    bank: FeatureBank,
    *,
    encoder: Callable[[], Encoder],
    dataset: Dataset,
    options: ExtractionOptions,
    reporting: Reporting,
    num_images: int,
) -> tuple[PrecisionAgreement, int]:
    """Returns how far a bank of the cache agrees with fp32, remembered or measured, and on how many images just now.

    Args:
        cache: where the bank is.
        key: of the bank.
        bank: what is in it.
        encoder: called only where images have to go through it; returns the encoder on its device.
        dataset: where the images are.
        options: of the extraction.
        reporting: where the progress goes.
        num_images: of the sample, evenly spread over the split; all where there are fewer.

    Raises:
        CellError: An image or a feature is broken.
    """
    name = sha256_of([1, key.digest, read_meta(cache.path(key)).sha256["features.npy"], num_images])
    memo = read_memo(cache.root / _MEMOS, name)
    if memo is not None:
        try:
            return PrecisionAgreement.model_validate(memo), 0
        except ValidationError:
            pass  # of another version of this package
    # Only here: a run whose features are all cached imports no torch.
    from massl_bench.features.extraction import Target, extract

    rows_n = np.linspace(0, len(bank) - 1, min(num_images, len(bank))).round().astype(np.int64)
    split = dataset.split(key.split)
    sample = SubsetSplit(split, _items(bank, rows_n, split.ids, key.limit or len(split)), labelled=True)
    found: list[Extracted] = []
    label = f"{encoder().card.name} on {dataset.name}/{key.split}, in fp32"
    with reporting.progress(label, len(sample)) as progress:
        extract(
            [Target(encoder=encoder(), preprocessing=key.preprocessing, deliver=found.append)],
            sample,
            replace(options, precision="fp32", skip_corrupt=False),
            pieces=[range(len(sample))],
            progress=progress,
        )
    agreement = agreement_of(bank.features[rows_n], found[0].features)
    write_memo(cache.root / _MEMOS, name, agreement.model_dump(mode="json"))
    return agreement, len(sample)


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
