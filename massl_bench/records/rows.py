"""Which records enter a table: the latest complete one of a task's current version, for each weights and dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from massl_bench.core.collector import paused_collector
from massl_bench.core.errors import RequestError, unforeseen, unknown_name
from massl_bench.core.files import distinct_file_name, file_safe
from massl_bench.core.settings import PrecisionBar
from massl_bench.records.reading import read_record, record_names, results_dirs
from massl_bench.records.record import Metric, ResultRecord
from massl_bench.specs.registry import Registry

UNREADABLE = "unreadable"
"""With which the reason begins why a damaged record stays apart."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record, with where it lies.

    Attributes:
        path: below the results directory; `packaged/…` for one that came with the package.
        file: where it lies; None for a record that lies nowhere.
        metric: what is shown of it: its headline, or the metric that a suite names for its column.
        by_name: whether the name is a part of `model`: the same weights were measured in more than one way.
    """

    path: Path
    record: ResultRecord
    metric: str
    file: Path | None = None
    by_name: bool = False

    @cached_property
    def cell(self) -> tuple[str, str]:
        """(task, dataset)."""
        return self.record.identity.task.name, self.record.identity.dataset.name

    @cached_property
    def shown(self) -> Metric:
        """The metric that is shown."""
        return self.record.metrics[self.metric]

    @cached_property
    def name(self) -> str:
        """What the model is called, with the precision where that is not fp32."""
        identity = self.record.identity
        return f"{identity.model.name} ({identity.precision})" if identity.in_lower_precision else identity.model.name

    @cached_property
    def model(self) -> str:
        """What tells models apart: the sha256 of their weights; of features that were handed in, the name.

        The hash of such features is that of one file, and a model has one for each dataset. In a lower precision than
        fp32 the same weights are a model of their own.
        """
        model = self.record.identity.model
        if model.weights_hash_of == "features":
            return f"features {model.name}"
        told = f"{model.weights_sha256} {model.name}" if self.by_name else model.weights_sha256
        return f"{told} {self.record.identity.precision}" if self.record.identity.in_lower_precision else told

    def is_as(self, other: Row) -> bool:
        """Tells whether images became features in the same way, under whatever name."""
        one, two = self.record.identity, other.record.identity
        networks = {one.model.network_sha256, two.model.network_sha256} - {None}  # which older records do not have
        return (one.preprocessing, one.model.pooling) == (two.preprocessing, two.model.pooling) and len(networks) < 2


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """What a table shows.

    Attributes:
        cells: the columns, (task, dataset), in order.
        rows: the records that enter, one for each model and cell.
        apart: the files of the records that do not enter, as in `Row.path`, each with the reason.
        suite: the suite's name where the columns are a suite's.
    """

    cells: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    apart: Sequence[tuple[Path, str]]
    suite: str | None = None

    @property
    def unreadable(self) -> list[tuple[Path, str]]:
        """Those apart that nobody can read: damaged, or no records."""
        return [(path, reason) for path, reason in self.apart if reason.startswith(UNREADABLE)]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which records a table is asked to show; what is not selected is not counted as apart either."""

    models: Sequence[str] = ()
    """Names, or patterns with `*` and `?`; none: all. As for tasks."""
    tasks: Sequence[str] = ()
    metric: str | None = None
    """Shown in place of each headline; cells that did not measure it are left out."""
    packaged: bool = True
    """Whether the records that came with the package are among them."""

    def takes(self, row: Row) -> bool:
        """Tells whether a row is asked for."""
        identity = row.record.identity
        wanted = ((self.models, identity.model.name), (self.tasks, identity.task.name))
        named = all(not names or any(fnmatchcase(name, each) for each in names) for names, name in wanted)
        return named and (self.metric is None or self.metric in row.record.metrics)


_EVERYTHING = Selection()


def collect(
    results_dir: Path, registry: Registry, suite: str | None = None, selection: Selection = _EVERYTHING
) -> Leaderboard:
    """Reads every record of the user's and the packaged results.

    Args:
        results_dir: the user's results.
        registry: says each task's current version and numbers.
        suite: restricts the columns to a suite's cells, in its order.
        selection: which of the records.

    Raises:
        RequestError: The suite is unknown, a file of the registry is broken, or no record is selected.
    """
    with paused_collector():
        return _collect(results_dir, registry, suite, selection)


def _collect(results_dir: Path, registry: Registry, suite: str | None, selection: Selection) -> Leaderboard:
    tasks = _Tasks(registry)
    spec = registry.suite(suite) if suite is not None else None
    wanted, headlines = (spec.pairs, spec.headlines) if spec is not None else (None, {})
    candidates: list[Row] = []
    apart: list[tuple[Path, str]] = []
    seen: list[Row] = []
    for path, file, read in _records(results_dir, packaged=selection.packaged):
        if isinstance(read, str):
            apart.append((path, f"{UNREADABLE}: {read}"))
            continue
        task = read.identity.task
        metric = selection.metric or headlines.get((task.name, read.identity.dataset.name), task.headline)
        row = Row(path=path, file=file, record=read, metric=metric)
        seen.append(row)
        if (wanted is not None and row.cell not in wanted) or not selection.takes(row):
            continue
        reason = _why_apart(row.record, tasks)
        if reason is None and row.metric not in row.record.metrics:
            reason = f"without the metric {row.metric} that suite {suite} shows of {' on '.join(row.cell)}"
        if reason is not None:
            apart.append((path, reason))
            continue
        candidates.append(row)
    _check_selects(selection, seen)
    rows = sorted(_latest(candidates, apart), key=lambda row: (row.record.identity.model.name, row.cell))
    there = {row.cell for row in rows}
    cells = sorted(there) if wanted is None else [cell for cell in wanted if cell in there or not _narrows(selection)]
    return Leaderboard(cells=cells, rows=rows, apart=apart, suite=suite)


def _latest(candidates: Sequence[Row], apart: list[tuple[Path, str]]) -> list[Row]:
    """Returns the latest row of each model and cell; adds to `apart` what is older and was measured in another way.

    The same weights under two names are one model, unless a cell has them with two preprocessings, features or
    networks: then they are as many models as they have names.
    """
    several = {cells[0].model for cells in _by_cell(candidates) if not all(cells[0].is_as(row) for row in cells)}
    latest: list[Row] = []
    for found in _by_cell([replace(row, by_name=True) if row.model in several else row for row in candidates]):
        newest = max(found, key=lambda row: row.record.created_at)
        latest.append(newest)
        why = f"of other preprocessing, feature or network than the newer record {newest.path.as_posix()}"
        apart += [(row.path, why) for row in found if not newest.is_as(row)]
    return latest


def _by_cell(rows: Sequence[Row]) -> Iterable[list[Row]]:
    """Returns the rows of each model and cell."""
    found: dict[tuple[str, tuple[str, str]], list[Row]] = {}
    for row in rows:
        found.setdefault((row.model, row.cell), []).append(row)
    return found.values()


def current_records(results_dir: Path, registry: Registry) -> Iterator[ResultRecord]:
    """Yields every record of the user's and the packaged results that could enter a table, the same weights' too."""
    tasks = _Tasks(registry)
    for _, _, read in _records(results_dir, packaged=True):
        if not isinstance(read, str) and _why_apart(read, tasks) is None:
            yield read


def apart_of(board: Leaderboard, models: Sequence[str]) -> list[str]:
    """Returns what is kept apart of the records in the folders of models, each with the reason.

    Whose a damaged record is, its folder alone says.
    """
    folders = {name for model in models for name in (distinct_file_name(model), file_safe(model))}
    return [f"{path.as_posix()}: {reason}" for path, reason in board.apart if path.parts[-3] in folders]


def _records(results_dir: Path, *, packaged: bool) -> Iterator[tuple[Path, Path, ResultRecord | str]]:
    """Yields every record, or why it cannot be read, with the path that a table shows of it and its file."""
    for directory in results_dirs(results_dir) if packaged else [results_dir]:
        shown = "" if directory == results_dir else "packaged/"
        for name in record_names(directory):
            file = directory / name
            path = Path(shown + name)  # a table says the same wherever the results lie
            try:
                yield path, file, read_record(file)
            except RequestError as error:
                if not os.path.lexists(file):  # it was removed after its folder was listed
                    continue
                yield path, file, str(error).removeprefix(f"{file}: ")
            except Exception as error:  # one file, whatever is in it, takes no table down
                yield path, file, unforeseen(error).removeprefix(f"{file}: ")


def _narrows(selection: Selection) -> bool:
    """Tells whether columns of a suite may be left out because nothing of them is selected."""
    return bool(selection.tasks) or selection.metric is not None


def _check_selects(selection: Selection, seen: Sequence[Row]) -> None:
    """Raises `RequestError` where a name or a metric that was asked is in no record."""
    models = {row.record.identity.model.name for row in seen}
    tasks = {row.record.identity.task.name for row in seen}
    for kind, asked, known in (("model", selection.models, models), ("task", selection.tasks, tasks)):
        for name in asked:
            if not any(fnmatchcase(each, name) for each in known):
                raise unknown_name(f"{kind} of a record", name, known)
    metrics = {metric for row in seen for metric in row.record.metrics}
    if selection.metric is not None and selection.metric not in metrics:
        raise unknown_name("metric of a record", selection.metric, metrics)


class _Tasks(dict[str, tuple[int, str, PrecisionBar | None] | str]):
    """(version, hash, bar of lower precisions) of each name's current task, or why there is none; each is read once."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    def __missing__(self, name: str) -> tuple[int, str, PrecisionBar | None] | str:
        try:
            current = self._registry.task(name)
            self[name] = current.version, current.spec_hash, current.lower_precision
        except RequestError as error:
            if name in self._registry.tasks:
                raise  # a broken task file is never passed over
            self[name] = str(error)
        return self[name]


def _why_apart(record: ResultRecord, tasks: _Tasks) -> str | None:
    """Returns why a record does not enter a table, or None where it does."""
    if record.departures:
        return f"departs from its task: {', '.join(record.departures)}"
    if not record.complete:
        return "partial"
    task = record.identity.task
    current = tasks[task.name]
    if isinstance(current, str):
        return f"stale: {current}"
    version, spec_hash, bar = current
    if task.version != version:
        return f"stale: version {task.version} of {task.name}, the current one is {version}"
    if task.spec_sha256 != spec_hash:
        return f"stale: measured with other numbers than {task.name} version {task.version} has here"
    return _why_too_far(record, bar) if record.identity.in_lower_precision else None


def _why_too_far(record: ResultRecord, bar: PrecisionBar | None) -> str | None:
    """Returns why a record in a lower precision does not stand beside those in fp32, or None where it does."""
    where = f"in {record.identity.precision}"
    if bar is None:
        return f"{where}, and {record.identity.task.name} says no agreement with fp32 that would do"
    if set(record.precision_agreement) != set(record.identity.feature_keys):
        return f"{where}, and not every split was held against fp32"
    found = ((role, each.shortfall(bar)) for role, each in sorted(record.precision_agreement.items()))
    return next((f"{where}, too far from fp32: {role}: {short}" for role, short in found if short is not None), None)
