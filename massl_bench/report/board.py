"""What the page of a leaderboard shows, as plain values: a section for each suite, its columns, rows and ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from massl_bench.metrics.direction import less_is_better
from massl_bench.records.columns import column_ranks, copies, shown_names
from massl_bench.records.outcomes import OutcomesOf
from massl_bench.records.published import Claim
from massl_bench.records.ranking import ColumnRanks, SuiteRank, rank_suite
from massl_bench.records.record import Metric, ModelFacts
from massl_bench.records.rows import Leaderboard, Row
from massl_bench.specs.registry import Registry
from massl_bench.specs.suite import SuiteSpec

Cell = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes:
        task: the task's name.
        dataset: the dataset's.
        metric: what is shown.
        scale: what a value is multiplied by for people.
        averaged: whether it enters means: ranks, exponents and errors have no place among fractions that should grow.
        counted: whether it enters ranks over a suite: what has a better end.
        mixed: whether its records were measured on different copies of the data; nothing is ranked then.
        ranks: its rank groups; None where nothing is ranked.
    """

    task: str
    dataset: str
    metric: str
    scale: int
    averaged: bool
    counted: bool
    mixed: bool
    ranks: ColumnRanks | None


@dataclass(frozen=True, kw_only=True)
class ModelLine:
    """One row of a table.

    Attributes:
        model: what tells models apart, as in `Row.model`.
        name: the name of its latest record, with its hash where two models share it.
        facts: method, epochs, size.
        architecture: of the latest record.
        precision: every precision of its records.
        rows: its records by column.
        mean: of the columns that are averaged, as a fraction; None where a counted one is missing.
        present: how many of the counted columns there are.
        standing: its place in the suite; None where a column is missing.
    """

    model: str
    name: str
    facts: ModelFacts
    architecture: str
    precision: str
    rows: Mapping[Cell, Row]
    mean: float | None
    present: int
    standing: SuiteRank | None


@dataclass(frozen=True, kw_only=True)
class PublishedLine:
    """One row of published values: of one set of weights, from one source."""

    claim: Claim
    values: Mapping[Cell, Claim]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of the page.

    Attributes:
        name: the suite's; empty for the table of everything.
        summary: what it is.
        groups: (task, number of its columns), in the columns' order.
        columns: those for which there is a record or a published value.
        empty: the suite's cells for which there is neither.
        lines: our models, by standing, then mean, then name.
        published: the rows of published values.
        num_counted: how many columns the ranks are of, N of n/N.
    """

    name: str
    summary: str
    groups: Sequence[tuple[str, int]]
    columns: Sequence[Column]
    empty: Sequence[Cell]
    lines: Sequence[ModelLine]
    published: Sequence[PublishedLine]
    num_counted: int = 0
    notes: Sequence[str] = field(default=())


def sections(board: Leaderboard, registry: Registry, known: Sequence[Claim], outcomes: OutcomesOf) -> list[Section]:
    """Returns a section for the board's own suite, or one for everything and one for each suite that has a record.

    Args:
        board: the records.
        registry: where the suites are.
        known: published values.
        outcomes: what the items of the records got; filled while it is asked.

    Raises:
        RequestError: A file of a suite is broken.
    """
    ranks = _Ranks(outcomes)
    if board.suite is not None:
        return [_section(board, registry.suite(board.suite), known, ranks)]
    cells = {row.cell for row in board.rows}
    suites = [spec for spec in map(registry.suite, registry.suites) if cells & set(spec.pairs)]
    return [_section(board, None, known, ranks), *(_section(board, spec, known, ranks) for spec in suites)]


class _Ranks:
    """The rank groups of columns; one that several sections show is ranked once."""

    def __init__(self, outcomes: OutcomesOf) -> None:
        self._outcomes = outcomes
        self._known: dict[tuple[Cell, str], ColumnRanks | None] = {}

    def of(self, rows: Sequence[Row]) -> ColumnRanks | None:
        """Returns those of all records of one cell, which show one metric; None where nothing is ranked."""
        key = rows[0].cell, rows[0].metric
        if key not in self._known:
            self._known[key] = column_ranks(rows, self._outcomes)
        return self._known[key]


def _section(board: Leaderboard, suite: SuiteSpec | None, known: Sequence[Claim], ranks: _Ranks) -> Section:
    wanted = list(dict.fromkeys(suite.pairs if suite is not None else [row.cell for row in board.rows]))
    headlines = suite.headlines if suite is not None else {}
    by_cell: dict[Cell, list[Row]] = {cell: [] for cell in wanted}
    notes = []
    for row in board.rows:
        if row.cell not in by_cell:
            continue
        own = row.metric == row.record.identity.task.headline  # otherwise the user asked for it
        metric = headlines.get(row.cell, row.metric) if own else row.metric
        shown = row if metric == row.metric else replace(row, metric=metric)
        if shown.metric in row.record.metrics:
            by_cell[row.cell].append(shown)
        else:
            notes.append(f"{row.path.as_posix()} is without the metric {shown.metric} that is shown here")
    values: dict[Cell, list[Claim]] = {}
    if suite is not None or known:
        for claim in known:
            cell = (claim.value.task, claim.value.dataset)
            here = headlines.get(cell) or next((row.metric for row in by_cell.get(cell, ())), None)
            if cell in by_cell and here in (None, claim.value.metric):
                values.setdefault(cell, []).append(claim)
    full = [cell for cell in wanted if by_cell[cell] or values.get(cell)]
    columns = _grouped([_column(cell, by_cell[cell], values.get(cell, ()), ranks) for cell in full], by_cell)
    lines = _lines(columns, by_cell)
    return Section(
        name=suite.name if suite is not None else "",
        summary=suite.summary if suite is not None else "Every cell that was measured",
        groups=list(Counter(column.task for column in columns).items()),
        columns=columns,
        empty=[cell for cell in wanted if cell not in full],
        lines=lines if suite is not None else [replace(line, mean=None, standing=None) for line in lines],
        published=_published(values),
        num_counted=sum(column.counted for column in columns) + (len(wanted) - len(full)) if suite is not None else 0,
        notes=notes,
    )


def _column(cell: Cell, rows: Sequence[Row], claims: Sequence[Claim], ranks: _Ranks) -> Column:
    task, dataset = cell
    metric = rows[0].metric if rows else claims[0].value.metric
    scale = rows[0].record.headline_scale if rows else 100
    return Column(
        task=task,
        dataset=dataset,
        metric=metric,
        scale=scale,
        averaged=scale == 100 and not less_is_better(metric),
        counted=scale == 100,
        mixed=len(copies(rows)) > 1,
        ranks=ranks.of(rows) if rows else None,
    )


def _grouped(columns: Sequence[Column], rows: Mapping[Cell, Sequence[Row]]) -> list[Column]:
    """Returns the columns with those of one protocol beside each other, and of one task beside each other in it."""
    protocol = {
        column.task: rows[column.task, column.dataset][0].record.identity.task.protocol
        for column in columns
        if rows[column.task, column.dataset]
    }
    protocols = list(dict.fromkeys(protocol.get(column.task, column.task) for column in columns))
    tasks = list(dict.fromkeys(column.task for column in columns))
    return sorted(columns, key=lambda c: (protocols.index(protocol.get(c.task, c.task)), tasks.index(c.task)))


def _lines(columns: Sequence[Column], rows: Mapping[Cell, Sequence[Row]]) -> list[ModelLine]:
    by_model: dict[str, dict[Cell, Row]] = {}
    for cell, found in rows.items():
        for row in found:
            by_model.setdefault(row.model, {})[cell] = row
    latest = {model: max(own.values(), key=lambda r: (r.record.created_at, r.cell)) for model, own in by_model.items()}
    names = shown_names(latest)
    counted = [(column.task, column.dataset) for column in columns if column.counted]
    averaged = [(column.task, column.dataset) for column in columns if column.averaged]
    total = len(counted) + sum(not found for cell, found in rows.items() if cell not in counted)
    complete = [model for model, own in by_model.items() if total and sum(cell in own for cell in counted) == total]
    ranked = [column.ranks for column in columns if column.counted and column.ranks is not None]
    standings = rank_suite(ranked, sorted(complete)) if len(ranked) == total else {}
    lines = []
    for model, own in by_model.items():
        record = latest[model].record
        facts = (row.record.model_facts for row in own.values())
        values = [own[cell].shown.value for cell in averaged if cell in own]
        lines.append(
            ModelLine(
                model=model,
                name=names[model],
                facts=next((known for known in facts if known != ModelFacts()), ModelFacts()),
                architecture=record.identity.model.architecture,
                precision=", ".join(sorted({row.record.identity.precision for row in own.values()})),
                rows=own,
                mean=sum(values) / len(values) if values and model in complete else None,
                present=sum(cell in own for cell in counted),
                standing=standings.get(model),
            )
        )
    return sorted(lines, key=lambda line: (_place(line), line.name, line.model))


def _place(line: ModelLine) -> tuple[float, float, int]:
    position = line.standing.position if line.standing is not None else float("inf")
    return position, -line.mean if line.mean is not None else float("inf"), -line.present


def _published(values: Mapping[Cell, Sequence[Claim]]) -> list[PublishedLine]:
    lines: dict[tuple[str, int], dict[Cell, Claim]] = {}
    first: dict[tuple[str, int], Claim] = {}
    for cell, claims in values.items():
        for claim in claims:
            key = (claim.source.name, claim.source.rows.index(claim.row))
            lines.setdefault(key, {})[cell] = claim
            first.setdefault(key, claim)
    return [PublishedLine(claim=first[key], values=own) for key, own in sorted(lines.items())]


def interval_text(metric: Metric, scale: int) -> str:
    """Returns a 95 % interval as people see it, or an empty text."""
    return f"{scale * metric.ci95[0]:.2f}–{scale * metric.ci95[1]:.2f}" if metric.ci95 is not None else ""
