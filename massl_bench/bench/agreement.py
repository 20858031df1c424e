"""Banks in a lower precision than fp32 are held against it, before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from massl_bench.bench.cells import Cells, precision_bar
from massl_bench.bench.passes import of_same_images
from massl_bench.bench.planned import FeatureCell, ImageCell
from massl_bench.core.errors import CellError
from massl_bench.core.settings import PrecisionAgreement
from massl_bench.core.values import FeatureBank
from massl_bench.core.wording import asked
from massl_bench.features import Wanted
from massl_bench.features.agreement import agreement_with_fp32


def held_against_fp32(
    cell: ImageCell | FeatureCell,
    banks: Mapping[str, FeatureBank],
    cells: Cells,
    wanted: Callable[[ImageCell, str], Wanted],
    to_come: Callable[[], Iterable[ImageCell]],
) -> tuple[dict[str, PrecisionAgreement], int]:
    """Returns how far a cell's banks agree with fp32, by role, and how many images went through the model for that.

    Nothing for a cell in fp32, or one that departs from its task by its precision.

    Args:
        cell: as planned.
        banks: its own, by role.
        cells: of the request.
        wanted: returns what the bank of a cell's split is made of.
        to_come: returns the cells that will be measured after it.

    Raises:
        CellError: Too little for the task; the banks are removed from the cache.
    """
    bar = precision_bar(cell)
    if bar is None or isinstance(cell, FeatureCell):
        return {}, 0
    found, num_images = {}, 0

    def others(role: str) -> list[Wanted]:
        same = of_same_images(cell, role, to_come())
        return [wanted(other, role) for other in same if (its := precision_bar(other)) and its.sample == bar.sample]

    for role, bank in banks.items():
        found[role], now = agreement_with_fp32(
            cells.cache,
            wanted(cell, role),
            bank,
            options=cells.request.extraction,
            reporting=cells.reporting,
            num_images=bar.sample,
            also=partial(others, role),
        )
        num_images += now
        if (shortfall := found[role].shortfall(bar)) is not None:
            for each in banks:
                cells.cache.discard(cell.key(each))
            raise CellError(
                f"{cell.dataset_reference}/{role}: features in {cell.precision} are too far from those in fp32 for "
                f"{cell.task.spec.name}: {shortfall}; nothing is kept: {asked('precision', 'fp32')}"
            )
    return found, num_images
