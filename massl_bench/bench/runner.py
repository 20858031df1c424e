"""The only orchestration: planned cells become records.

One cell after the other; a cell that fails leaves nothing behind, and the others go on.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from filelock import FileLock

from massl_bench import protocols
from massl_bench.bench.cell_features import CellFeatures
from massl_bench.bench.clock import Clock, timed
from massl_bench.bench.heads import Heads
from massl_bench.bench.planned import FeatureCell, ImageCell, MissingCell, PlannedCell, ReadyCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.bench.room import Room, room_said
from massl_bench.bench.without import left_aside
from massl_bench.core.devices import free_memory, memory_kept, memory_limited
from massl_bench.core.errors import CellError, MasslBenchError, MissingDataError, unforeseen
from massl_bench.core.values import DenseViews, EvaluationData, FeatureBank, Score, Scores
from massl_bench.core.wording import asked
from massl_bench.datasets import Dataset
from massl_bench.datasets.heads import head_test
from massl_bench.features import Reporting
from massl_bench.features.options import Shard
from massl_bench.records.items import remove_other_items, write_items
from massl_bench.records.making import Measured, make_record
from massl_bench.records.record import (
    ResultRecord,
    record_path,
    write_record,
)
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.features.views import EncodedViews


Status = Literal["done", "finished", "failed", "elsewhere"]
"""`finished`: the record was there; `elsewhere`: another process measures the cell."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a cell."""

    task: str
    dataset: str
    model: str
    status: Status
    path: Path | None = None
    record: ResultRecord | None = None
    error: str | None = None
    """Why it failed, or who measures it."""


_PEAK = 2  # memory that a protocol takes at most that has not counted it, as a multiple of its features


def run_request(request: RunRequest, registry: Registry, reporting: Reporting) -> Iterator[Outcome]:
    """Plans a request, and returns the outcomes of its cells as they are done, in order.

    A request of one cell is the unit of work that a launcher can ship to another machine: `RunRequest`, `Registry` and
    `Reporting` can be pickled, and so can an `Outcome`.

    Raises:
        RequestError: The request cannot be carried out; before any work.
    """
    planner = Planner(request, registry, reporting)
    return Runner(planner, reporting).run(planner.plan())


class Runner:
    """Runs the cells of one request."""

    def __init__(self, planner: Planner, reporting: Reporting) -> None:
        self._planner = planner
        self._reporting = reporting
        self._features = CellFeatures(planner, reporting, self._to_come)
        self._heads = Heads(())
        self._open: dict[int, PlannedCell] = {}

    def run(self, cells: Sequence[PlannedCell]) -> Iterator[Outcome]:
        """Runs the cells in order; yields an outcome for each as it is done."""
        if any(self._needs_torch(cell) for cell in cells):
            import torch  # noqa: F401  # before faiss: the other order has been seen to crash
        self._heads = Heads(cells)
        left = []
        self._open = {number: cells[number] for number in self._shard.first(range(len(cells)))}
        for number in [*self._open]:
            cell = self._open.pop(number)
            outcome = self._outcome(cell, number)
            if outcome.status == "elsewhere":
                left.append((cell, number))
            else:
                yield outcome
        for cell, number in left:  # again: whoever had it may have died
            yield self._outcome(cell, number)

    def _to_come(self) -> Iterator[ImageCell]:
        """Yields the cells that this process has not come to, whose data is there, and of which there is no record."""
        for number, cell in self._open.items():
            with suppress(MasslBenchError):  # said when it is its turn
                if self._is_fetched(cell):
                    ready = self._open[number] = self._fetched(cell)
                    if isinstance(ready, ImageCell) and self._planner.finished(ready)[1] is None:
                        yield ready

    def _is_fetched(self, cell: PlannedCell) -> bool:
        """Tells whether a cell's dataset is there, maybe since another cell."""
        return not isinstance(cell, MissingCell) or isinstance(
            self._planner.open_dataset(cell.dataset_reference), Dataset
        )

    @property
    def _shard(self) -> Shard:
        return self._planner.request.extraction.shard

    def _outcome(self, cell: PlannedCell, number: int) -> Outcome:
        self._reporting.started(cell.model_name, cell.task.spec.name, cell.dataset_reference)

        def outcome(status: Status, path: Path | None, record: ResultRecord | None, error: str | None) -> Outcome:
            return Outcome(
                task=cell.task.spec.name,
                dataset=cell.dataset_reference,
                model=cell.model_name,
                status=status,
                path=path,
                record=record,
                error=error,
            )

        try:
            ready = self._fetched(cell)
            with self._claimed(ready, number) as holder:
                path, record = self._planner.finished(ready)
                if record is not None:
                    return outcome("finished", path, record, None)
                if holder is not None:
                    self._features.help(ready, Clock())
                    return outcome("elsewhere", path, None, f"left to {holder}")
                with memory_kept(self._planner.device):
                    path, record = self._run_cell(ready)
        except MasslBenchError as error:
            return outcome("failed", None, None, str(error))
        except Exception as error:  # a defect of ours or of a library ends its cell, not the others
            if os.environ.get("MASSL_BENCH_TRACEBACK"):
                raise
            return outcome("failed", None, None, unforeseen(error))
        return outcome("done", path, record, None)

    @contextmanager
    def _claimed(self, cell: ImageCell | FeatureCell, number: int) -> Iterator[str | None]:
        """Yields who else measures the cell, or None where this process is to."""
        if self._shard.count == 1:
            yield None
        elif self._planner.request.force:  # no record tells what the others have done
            mine = number % self._shard.count == self._shard.index
            yield None if mine else f"shard {number % self._shard.count} of {self._shard.count}"
        else:
            with self._planner.cache.claimed(f"cell-{self._planner.identity(cell, {}).digest}") as holder:
                yield holder

    def _needs_torch(self, cell: PlannedCell) -> bool:
        if protocols.needs_torch(cell.task.spec.protocol) or isinstance(cell, MissingCell):
            return True
        return isinstance(cell, ImageCell) and bool(cell.to_extract(self._planner.cache))

    def _fetched(self, cell: PlannedCell) -> ImageCell | FeatureCell:
        """Returns the cell with its dataset, downloaded where need be; raises where it stays missing."""
        if not isinstance(cell, MissingCell):
            return cell
        if not isinstance(cell.problem, MissingDataError) or self._planner.request.data.offline:
            raise cell.problem
        if not self._is_fetched(cell):
            self._reporting.say(f"downloading {cell.dataset_reference}")
        seconds, found = timed(lambda: self._planner.open_dataset(cell.dataset_reference, fetch=True))
        if isinstance(found, MasslBenchError):
            raise found
        ready = cell.with_dataset(self._planner.as_task_reads(cell.task, found), seconds)
        self._planner.check_kind(cell.task, cell.dataset_reference)
        ready = self._planner.fitted(ready)
        self._planner.check_cell(ready)
        return ready

    def _run_cell(self, cell: ImageCell | FeatureCell) -> tuple[Path, ResultRecord]:
        clock = Clock(setup=cell.setup_seconds, data=cell.data_seconds)
        room = room_said(cell, self._planner.device, self._reporting.say)
        to_extract = cell.to_extract(self._planner.cache) if isinstance(cell, ImageCell) else []
        banks, num_classes, along = self._features.banks(cell, clock)
        agreement, compared = self._features.agreement(cell, banks, clock)
        spec = cell.task.spec
        banks = left_aside(banks, cell.aside if isinstance(cell, ImageCell) else None)
        _check_nothing_skipped(cell, banks)
        views = self._features.views(cell, clock)
        with clock.measure("setup"):
            data = self._data(cell, banks, num_classes, views)
        sizes = {role: len(bank) for role, bank in banks.items()} | {role: len(each) for role, each in views.items()}
        protocols.check_sizes(spec, cell.task.params, sizes)  # again: corrupt images may have been left out
        with clock.measure("protocol"):
            metrics = self._scores(cell, data, room)
        clock.move("protocol", "extract", sum(each.seconds for each in views.values()))
        identity = self._planner.identity(cell, {role: bank.skipped for role, bank in banks.items()})
        _check_measured(cell, identity.task.headline, metrics)
        departures = self._planner.departures(cell, identity)
        measured = Measured(
            identity=identity,
            departures=departures,
            complete=not (identity.dataset.limit or identity.dataset.skipped or cell.sample),
            scores=metrics,
            scale=protocols.scale(spec.protocol),
            num_items=sizes,
            precision_agreement=agreement,
            num_extracted=compared
            + sum(sizes[role] for role in to_extract)
            + sum(each.num_seen for each in views.values()),
            extracted_along=along,
            num_classes=num_classes,
            timings=clock.timings(),
            device=self._planner.device,
            search_backend=self._planner.backend.name,
        )
        request = self._planner.request
        with clock.measure("setup"):
            origin = replace(cell.origin(), fingerprint=self._features.fingerprint(cell))
        record = make_record(
            measured,
            origin,
            request.told(),
            self._planner.model_facts(cell),
            str(request.ground_truth) if request.ground_truth is not None else None,
        )
        path = record_path(request.results_dir, identity, departures)
        return path, _written(path, record, metrics, banks.get("test") or views.get("test"))

    def _data(
        self,
        cell: ImageCell | FeatureCell,
        banks: Mapping[str, FeatureBank],
        num_classes: int | None,
        views: Mapping[str, EncodedViews],
    ) -> EvaluationData:
        return EvaluationData(
            banks=banks,
            num_classes=num_classes,
            backend=self._planner.backend,
            ground_truth=cell.ground_truth(),
            draws=cell.handed.draws if isinstance(cell, FeatureCell) else {},
            views=views.get("train"),
            streams={role: each for role, each in views.items() if role != "train"},
            dense={role: each for role, each in views.items() if isinstance(each, DenseViews)},
            ignored_class=cell.ignored_class,
            head_test=head_test(cell.dataset) if isinstance(cell, ImageCell) else None,
        )

    def _scores(self, cell: ImageCell | FeatureCell, data: EvaluationData, room: Room | None) -> Scores:
        """Returns what the protocol measures, while others see how far it is; says what it notes."""
        where = f"{cell.task.spec.name} on {cell.dataset_reference}"
        with (
            self._room_for(data.banks.values(), room),
            memory_limited(self._memory_each if room is None else room.more_host),
            self._reporting.working(where) as report,
        ):
            metrics = self._heads.scores(cell, replace(data, report=report))
        for note in metrics.notes:
            self._reporting.say(f"{where}: {note}")
        return metrics

    @property
    def _memory_each(self) -> int | None:
        memory = self._planner.request.memory
        return None if memory is None else memory // self._shard.here

    @contextmanager
    def _room_for(self, banks: Iterable[FeatureBank], room: Room | None) -> Iterator[None]:
        """Lets the processes of this machine measure large cells one after the other, and small ones side by side."""
        needed = _PEAK * sum(bank.features.nbytes for bank in banks) if room is None else room.host
        if self._shard.here == 1 or needed < free_memory("cpu") / self._shard.here:
            yield
            return
        lock = FileLock(self._planner.cache.lock_path(f"large-{platform.node()}"))
        with lock.acquire(poll_interval=0.2):
            yield


def _written(
    path: Path, record: ResultRecord, scores: Mapping[str, Score], test: FeatureBank | EncodedViews | None
) -> ResultRecord:
    """Writes a record and, before it, what its items got; returns it as it is in the file."""
    try:
        labels, names = (test.labels, test.class_names) if test is not None else (None, None)
        items = write_items(path, scores, labels, names)
        record = write_record(path, record.model_copy(update={"items": items}))
        remove_other_items(path, items)
    except OSError as error:
        raise CellError(f"{path}: the record could not be written: {error.strerror or error}") from None
    return record


def _check_measured(cell: ReadyCell, headline: str, scores: Mapping[str, Score]) -> None:
    """Raises `CellError` where a score is no number, or the headline is missing."""
    task = cell.task.spec.name
    broken = [name for name, score in scores.items() if not np.isfinite(score.value)]
    if broken:
        raise CellError(f"{task}: {broken[0]} is not a finite number")
    if headline not in scores:
        raise CellError(
            f"{task}: the headline {headline} was not measured on {cell.dataset_reference}; "
            f"found {', '.join(scores)}: {asked('params', f'{task}.headline=…')}"
        )


def _check_nothing_skipped(cell: ReadyCell, banks: Mapping[str, FeatureBank]) -> None:
    """Raises `CellError` where images were left out that a ground truth counts: its rows would mean others."""
    named = protocols.named_by_truth(cell.task.spec.protocol)
    for role in (named, "queries") if named is not None else ():
        if banks[role].skipped:
            raise CellError(
                f"{cell.task.spec.name}: {len(banks[role].skipped)} of the {role} skipped, which the ground truth of "
                f"{cell.dataset_reference} counts by their rows: {banks[role].skipped[0]}; repair or replace the file"
            )
