"""What the cells of one request read of their images: banks, those of the same images in one pass, and views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from massl_bench.bench.agreement import held_against_fp32
from massl_bench.bench.clock import Clock, timed
from massl_bench.bench.passes import made_along
from massl_bench.bench.planned import FeatureCell, ImageCell
from massl_bench.bench.planner import Planner
from massl_bench.core.errors import CellError
from massl_bench.core.fingerprint import EncoderFingerprint
from massl_bench.core.settings import PrecisionAgreement
from massl_bench.core.values import FeatureBank
from massl_bench.features import Reporting, Wanted, load_or_extract
from massl_bench.features.banks import help_to_extract
from massl_bench.features.fingerprint import known_fingerprint, remember_fingerprint
from massl_bench.models import Model

if TYPE_CHECKING:
    from massl_bench.features.views import EncodedViews
    from massl_bench.models.encoder import Encoder


class CellFeatures:
    """Gets the features of one cell after the other.

    Args:
        planner: of the request.
        reporting: where messages and progress go.
        to_come: returns the cells that will be measured after the present one, as far as that is known.
    """

    def __init__(self, planner: Planner, reporting: Reporting, to_come: Callable[[], Iterable[ImageCell]]) -> None:
        self._planner, self._reporting, self._to_come = planner, reporting, to_come
        self._options = planner.request.extraction
        self._encoder: tuple[Model, Encoder] | None = None

    def help(self, cell: ImageCell | FeatureCell, clock: Clock) -> list[str]:
        """Extracts features of a cell that several processes need, as long as there are any that nobody makes.

        Returns:
            The tasks for which other features were made of the same images meanwhile.
        """
        along = list[str]()
        if isinstance(cell, FeatureCell) or self._options.shard.count == 1:
            return along
        for role in cell.to_extract(self._planner.cache):
            help_to_extract(
                self._planner.cache,
                self._wanted(cell, role, clock),
                self._options,
                self._reporting,
                partial(self._of_same_images, cell, role, clock, along),
            )
        return along

    def banks(
        self, cell: ImageCell | FeatureCell, clock: Clock
    ) -> tuple[Mapping[str, FeatureBank], int | None, list[str]]:
        """Returns what a cell reads.

        Returns:
            The banks of its splits, by role; the number of classes; the tasks for which other features were made of
            the same images meanwhile.
        """
        if isinstance(cell, FeatureCell):
            return {role: cell.handed.banks[role] for role in cell.roles}, cell.handed.num_classes, []
        banks = {}
        with clock.measure("extract"):
            along = self.help(cell, clock)  # with all splits, before the end of the first is waited for
            for role in cell.bank_roles:
                bank = load_or_extract(
                    self._planner.cache,
                    self._wanted(cell, role, clock),
                    self._options,
                    self._reporting,
                    partial(self._of_same_images, cell, role, clock, along),
                )
                banks[role] = cell.with_parts(bank)
        return banks, next((bank.num_classes for bank in banks.values()), cell.dataset.num_classes), along

    def _wanted(self, cell: ImageCell, role: str, clock: Clock) -> Wanted:
        return Wanted(cell.key(role), partial(self._loaded, cell, clock), cell.dataset.holding(role))

    def _of_same_images(self, cell: ImageCell, role: str, clock: Clock, along: list[str]) -> list[Wanted]:
        """Returns what cells to come want of the images of a bank that is about to be made; says and notes for whom."""
        others = made_along(cell, role, self._to_come(), self._planner.cache)
        if others:
            names, own = {other.task.spec.name for other in others}, cell.task.spec.name
            asked = list(dict.fromkeys(task for task, _ in self._planner.request.cells))  # whatever a shard begins with
            along[:] = [task for task in asked if task in names or task in along]
            where = f"{cell.model_name} on {cell.dataset.holding(role).name}/{role}"
            tasks = ", ".join(task for task in asked if task in names or task == own)
            self._reporting.say(f"{where}: each image is decoded once for {tasks}")
        return [self._wanted(other, role, clock) for other in others]

    def agreement(
        self, cell: ImageCell | FeatureCell, banks: Mapping[str, FeatureBank], clock: Clock
    ) -> tuple[dict[str, PrecisionAgreement], int]:
        """Returns how far a cell's banks agree with fp32, and how many images went through the model for that."""
        with clock.measure("extract"):
            wanted = partial(self._wanted, clock=clock)
            return held_against_fp32(cell, banks, self._planner, wanted, self._to_come)

    def views(self, cell: ImageCell | FeatureCell, clock: Clock) -> dict[str, EncodedViews]:
        """Returns the splits whose features are not kept, for a protocol that asks for them."""
        views: dict[str, EncodedViews] = {}
        if isinstance(cell, FeatureCell):
            return views
        for role in cell.view_roles:
            from massl_bench.features.dense import EncodedDense
            from massl_bench.features.views import EncodedViews

            with clock.measure("extract"):
                encoder = self._loaded(cell, clock)
            views[role] = (EncodedDense if cell.kind == "segmentation" else EncodedViews)(
                encoder,
                cell.dataset.split(role).for_any_order(self._planner.request.data.cache_dir),
                cell.preprocessing,
                self._options,
                label=f"{cell.model.card.name} on {cell.dataset.name}/{role}",
                limit=cell.limit(role),
                validation_from=cell.dataset.validation_from(role),
                reporting=self._reporting,
            )
        return views

    def _loaded(self, cell: ImageCell, clock: Clock) -> Encoder:
        """Returns the encoder on its device, under the task's pooling.

        The last one that was loaded is kept, as the next cells mostly want it again.
        """
        if self._encoder is None or self._encoder[0] is not cell.model:
            self._encoder = None  # frees the memory of the one before
            seconds, encoder = timed(lambda: self._fingerprinted(cell.model).to(self._planner.device))
            clock.move("extract", "setup", seconds)
            self._encoder = (cell.model, encoder)
        return self._encoder[1].pooled(cell.task.spec.pooling, cell.preprocessing.crop)

    def _fingerprinted(self, model: Model) -> Encoder:
        """Returns the encoder on the CPU, after its fingerprint was computed there."""
        encoder = model.encoder("cpu")
        try:
            remember_fingerprint(encoder, self._planner.request.data.cache_dir)
        except CellError as error:
            self._reporting.say(str(error))
        return encoder

    def fingerprint(self, cell: ImageCell | FeatureCell) -> EncoderFingerprint | None:
        """Returns the fingerprint of a cell's encoder; None where there is none, or it can have none."""
        if isinstance(cell, FeatureCell):
            return None
        places = cell.model.card, self._planner.request.data.cache_dir
        if known_fingerprint(*places) is None and (self._encoder is None or self._encoder[0] is not cell.model):
            self._fingerprinted(cell.model)  # the features are older than the fingerprint
        return known_fingerprint(*places)
