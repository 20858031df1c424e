"""What the extraction of a request will take, for `--dry-run`: told by a few of its own images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from massl_bench.bench.planned import ImageCell, PlannedCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.processes import devices_of
from massl_bench.core.errors import MasslBenchError
from massl_bench.features.extraction import extract, images_at_a_time

_IMAGES = 16
"""That are timed on the CPU; on a GPU a whole batch."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What must be extracted before the cells of a request can be measured; each bank counts once.

    Attributes:
        banks: that are not there.
        images: of them.
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


def extraction_cost(planner: Planner, cells: Sequence[PlannedCell]) -> Cost:
    """Times a few images of each model under each preprocessing; nothing is written but memos of hashes.

    The cores of a machine are taken to be shared by its processes, and its GPUs to divide the images.
    """
    wanted = {
        cell.key(role).digest: (cell, role)
        for cell in cells
        if isinstance(cell, ImageCell)
        for role in cell.to_extract(planner.cache)
    }
    images = sum(cell.count(role) for cell, role in wanted.values())
    gpus = {device for device in devices_of(planner.request) if device != "cpu"}
    rates: dict[tuple[str, str, str], float] = {}
    seconds = 0.0
    try:
        for cell, role in wanted.values():
            place = cell.model.card.name, cell.preprocessing.model_dump_json(), cell.dataset_reference
            if place not in rates:
                rates[place] = _seconds_an_image(planner, cell, role)
            seconds += rates[place] * cell.count(role)
    except (MasslBenchError, OSError, RuntimeError) as error:  # a run would say it of its cell
        return Cost(banks=len(wanted), images=images, seconds=None, problem=str(error))
    return Cost(banks=len(wanted), images=images, seconds=seconds / max(1, len(gpus)))


def _seconds_an_image(planner: Planner, cell: ImageCell, role: str) -> float:
    """Returns the time of the second of two passes over a few images, decoding included."""
    encoder = cell.model.encoder("cpu").to(planner.device).pooled(cell.task.spec.pooling, cell.preprocessing.crop)
    options, split = planner.request.extraction, cell.dataset.split(role)
    on_cpu = encoder.device.type == "cpu"
    number = min(cell.count(role), _IMAGES if on_cpu else images_at_a_time(options, encoder.device))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        extract(encoder, split, cell.preprocessing, options, pieces=[range(number)], deliver=lambda _: None)
        seconds = time.perf_counter() - start
    return seconds / number
