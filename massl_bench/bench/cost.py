"""What the extraction of a request will take, for `--dry-run`: told by a few of its own images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from massl_bench.bench.passes import made_along
from massl_bench.bench.planned import ImageCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.processes import devices_of
from massl_bench.core.errors import MasslBenchError
from massl_bench.features.extraction import Target, extract
from massl_bench.features.loading import images_at_a_time

_IMAGES = 16
"""That are timed on the CPU; on a GPU a whole batch."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What must be extracted before the cells of a request can be measured; each bank counts once.

    Attributes:
        banks: that are not there.
        images: that are decoded for them, once for all banks of the same images.
        seconds: about; None where the images or the network could not be timed.
        problem: why not.
    """

    banks: int
    images: int
    seconds: float | None
    problem: str | None = None

    def __str__(self) -> str:
        """Returns it in one line."""
        what = f"to extract: {self.images:,} images, {self.banks} banks"
        if self.seconds is None:
            return f"{what}; how long it takes is not known: {self.problem}"
        shown = f"{self.seconds / 3600:,.1f} h" if self.seconds > 5400 else f"{self.seconds:,.0f} s"
        return f"{what}, about {shown}, told by a few of them"


_Pass = tuple[str, list[ImageCell]]
"""A split, and the cells whose banks of it are made together."""


def extraction_cost(planner: Planner, cells: Sequence[ImageCell]) -> Cost:
    """Times a few images of each model, in the ways that are made together; nothing is written but memos of hashes.

    The cores of a machine are taken to be shared by its processes, and its GPUs to divide the images.

    Args:
        planner: of the request.
        cells: those that are to be measured.
    """
    passes = _passes(planner, cells)
    banks = sum(len(together) for _, together in passes)
    images = sum(together[0].count(role) for role, together in passes)
    gpus = {device for device in devices_of(planner.request) if device != "cpu"}
    rates: dict[tuple[object, ...], float] = {}
    seconds = 0.0
    try:
        for role, together in passes:
            first = together[0]
            ways = [
                cell.model.card.pooled(cell.task.spec.pooling).pooling + str(cell.preprocessing) for cell in together
            ]
            place = first.model.card.name, first.dataset_reference, *ways
            if place not in rates:
                rates[place] = _seconds_an_image(planner, role, together)
            seconds += rates[place] * first.count(role)
    except (MasslBenchError, OSError, RuntimeError) as error:  # a run would say it of its cell
        return Cost(banks=banks, images=images, seconds=None, problem=str(error))
    return Cost(banks=banks, images=images, seconds=seconds / max(1, len(gpus)))


def _passes(planner: Planner, cells: Sequence[ImageCell]) -> list[_Pass]:
    passes, known = list[_Pass](), set[str]()
    for number, cell in enumerate(cells):
        for role in cell.to_extract(planner.cache):
            if cell.key(role).digest not in known:
                others = made_along(cell, role, cells[number + 1 :], planner.cache)
                together = [cell, *(other for other in others if other.key(role).digest not in known)]
                passes.append((role, together))
                known.update(each.key(role).digest for each in together)
    return passes


def _seconds_an_image(planner: Planner, role: str, together: Sequence[ImageCell]) -> float:
    """Returns the time of the second of two passes over a few images, decoding included."""
    first, options = together[0], planner.request.extraction
    encoder = first.model.encoder("cpu").to(planner.device)
    targets = [
        Target(
            encoder=encoder.pooled(cell.task.spec.pooling, cell.preprocessing.crop),
            preprocessing=cell.key(role).preprocessing,
            deliver=lambda _: None,
        )
        for cell in together
    ]
    on_cpu = encoder.device.type == "cpu"
    number = min(first.count(role), _IMAGES if on_cpu else images_at_a_time(options, encoder.device))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        extract(targets, first.dataset.holding(role).split(role), options, pieces=[range(number)])
        seconds = time.perf_counter() - start
    return seconds / number
