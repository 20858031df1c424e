"""Which records enter a table: the latest complete one of a task's current version, for each weights and dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from massl_bench.core.errors import RequestError
from massl_bench.records.record import Metric, ResultRecord, find_records, read_record, results_dirs
from massl_bench.specs.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record, with where it lies.

    Attributes:
        path: below the results directory; `packaged/…` for one that came with the package.
        metric: what is shown of it: its headline, or the metric that a suite names for its column.
    """

    path: Path
    record: ResultRecord
    metric: str

    @cached_property
    def cell(self) -> tuple[str, str]:
        """(task, dataset)."""
        return self.record.identity.task.name, self.record.identity.dataset.name

    @property
    def shown(self) -> Metric:
        """The metric that is shown."""
        return self.record.metrics[self.metric]

    @cached_property
    def model(self) -> str:
        """What tells models apart: the sha256 of their weights; of features that were handed in, the name.

        The hash of such features is that of one file, and a model has one for each dataset.
        """
        model = self.record.identity.model
        return f"features {model.name}" if model.weights_hash_of == "features" else model.weights_sha256


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


def collect(results_dir: Path, registry: Registry, suite: str | None = None) -> Leaderboard:
    """Reads every record of the user's and the packaged results.

    Args:
        results_dir: the user's results.
        registry: says each task's current version and numbers.
        suite: restricts the columns to a suite's cells, in its order.

    Raises:
        RequestError: The suite is unknown, or a file of the registry is broken.
    """
    tasks = _Tasks(registry)
    spec = registry.suite(suite) if suite is not None else None
    wanted, headlines = (spec.pairs, spec.headlines) if spec is not None else (None, {})
    candidates: dict[tuple[str, tuple[str, str]], Row] = {}
    apart: list[tuple[Path, str]] = []
    for directory in results_dirs(results_dir):
        for file in find_records(directory):
            # A table says the same wherever the results lie.
            path = (Path() if directory == results_dir else Path("packaged")) / file.relative_to(directory)
            try:
                record = read_record(file)
            except RequestError as error:
                apart.append((path, f"unreadable: {str(error).removeprefix(f'{file}: ')}"))
                continue
            row = _row(path, record, headlines)
            if wanted is not None and row.cell not in wanted:
                continue
            reason = _why_apart(row.record, tasks)
            if reason is None and row.metric not in row.record.metrics:
                reason = f"without the metric {row.metric} that suite {suite} shows of {' on '.join(row.cell)}"
            if reason is not None:
                apart.append((path, reason))
                continue
            # One row for each model: the same weights under two names are one.
            key = (row.model, row.cell)
            if key not in candidates or row.record.created_at > candidates[key].record.created_at:
                candidates[key] = row
    rows = sorted(candidates.values(), key=lambda row: (row.record.identity.model.name, row.cell))
    cells = wanted if wanted is not None else sorted({row.cell for row in rows})
    return Leaderboard(cells=cells, rows=rows, apart=apart, suite=suite)


def _row(path: Path, record: ResultRecord, headlines: Mapping[tuple[str, str], str]) -> Row:
    """Returns the row of a record; `headlines` take the place of the records' own."""
    identity = record.identity
    metric = headlines.get((identity.task.name, identity.dataset.name), identity.task.headline)
    return Row(path=path, record=record, metric=metric)


class _Tasks(dict[str, tuple[int, str] | str]):
    """(version, hash) of the current task of each name, or why there is none; each file is read once."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    def __missing__(self, name: str) -> tuple[int, str] | str:
        try:
            current = self._registry.task(name)
            self[name] = current.version, current.spec_hash
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
    version, spec_hash = current
    if task.version != version:
        return f"stale: version {task.version} of {task.name}, the current one is {version}"
    if task.spec_sha256 != spec_hash:
        return f"stale: measured with other numbers than {task.name} version {task.version} has here"
    return None
