"""Which banks are made in one pass over their images."""

from __future__ import annotations

from collections.abc import Iterable

from massl_bench.bench.planned import ImageCell
from massl_bench.features import FeatureCache


def made_along(cell: ImageCell, role: str, others: Iterable[ImageCell], cache: FeatureCache) -> list[ImageCell]:
    """Returns the cells whose banks of a split are made along with that of a cell: one cell for each bank.

    These are other features, by the same model, of the same images: another pooling, crop or scales.

    Args:
        cell: whose bank is about to be made.
        role: the split.
        others: cells that are to be measured, too.
        cache: banks that it holds are not made.
    """
    key = cell.key(role)
    found, known = [], {key.digest}
    for other in others:
        if other.model is cell.model and role in other.bank_roles:
            of_other = other.key(role)
            if of_other.images == key.images and of_other.digest not in known and of_other not in cache:
                known.add(of_other.digest)
                found.append(other)
    return found
