"""What is made in one pass over the same images."""

from __future__ import annotations

from collections.abc import Iterable

from massl_bench.bench.planned import ImageCell
from massl_bench.features import FeatureCache


def of_same_images(cell: ImageCell, role: str, others: Iterable[ImageCell]) -> list[ImageCell]:
    """Returns the cells that read other features of a split than a cell does, of the same images by the same model.

    Args:
        cell: which it is about.
        role: the split.
        others: among which they are looked for; of those that read the same features, the first is returned.
    """
    key = cell.key(role)
    found = {key.digest: cell}
    for other in others:
        if other.model is cell.model and role in other.bank_roles and other.key(role).images == key.images:
            found.setdefault(other.key(role).digest, other)
    return list(found.values())[1:]


def made_along(cell: ImageCell, role: str, others: Iterable[ImageCell], cache: FeatureCache) -> list[ImageCell]:
    """Returns the cells whose banks of a split are made along with that of a cell: `of_same_images`, and not there."""
    return [other for other in of_same_images(cell, role, others) if other.key(role) not in cache]
