"""From Python: cells are run and recorded as `massl-bench run` does, records become tables, and are verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massl_bench.bench.duplicates import Overlap, overlap_as_json
from massl_bench.bench.launch import find_launcher
from massl_bench.bench.overlap import OverlapRequest, find_overlap
from massl_bench.bench.places import data_options, registry_with
from massl_bench.bench.planner import Planner
from massl_bench.bench.progress import reporting as show_progress
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome, Runner
from massl_bench.bench.verification import Verdict
from massl_bench.bench.verification import verify as verify_record
from massl_bench.core.errors import RequestError
from massl_bench.core.files import canonical_json, write_output
from massl_bench.features import ExtractionOptions, Reporting
from massl_bench.models import Model
from massl_bench.models.encoder import Encoder
from massl_bench.records.comparison import compare_rows
from massl_bench.records.pairing import pairs_of, plain_comparison
from massl_bench.records.reading import read_record
from massl_bench.records.record import ResultRecord
from massl_bench.records.rows import Selection, collect
from massl_bench.records.tables import to_json
from massl_bench.specs.manifest import DEFAULT_MODEL
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    import pandas as pd


class BenchmarkResult(Sequence[Outcome]):
    """The outcomes of the cells of a request, in order; shows itself as a table."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = list(outcomes)

    def __getitem__(self, index: Any) -> Any:
        """Returns an outcome: its `record` holds the numbers, its `path` the file."""
        return self._outcomes[index]

    def __len__(self) -> int:
        """Returns the number of cells."""
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        """Yields the outcomes."""
        return iter(self._outcomes)

    @property
    def records(self) -> list[ResultRecord]:
        """The records of the cells that did not fail."""
        return [outcome.record for outcome in self._outcomes if outcome.record is not None]

    def to_frame(self) -> pd.DataFrame:
        """Returns a row for each cell: its headline with the 95 % interval, as fractions, or its error."""
        import pandas as pd

        rows = []
        for outcome in self._outcomes:
            record = outcome.record
            shown = record.headline if record is not None else None
            low, high = shown.ci95 if shown is not None and shown.ci95 is not None else (None, None)
            rows.append(
                {
                    "model": outcome.model,
                    "task": outcome.task,
                    "dataset": outcome.dataset,
                    "metric": record.identity.task.headline if record is not None else None,
                    "value": shown.value if shown is not None else None,
                    "low": low,
                    "high": high,
                    "error": outcome.error,
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """Returns the table as text."""
        return self.to_frame().to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep="")

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False, float_format=lambda value: f"{value:.4f}", na_rep=""))


def benchmark(
    model: Encoder | str | Sequence[Encoder | str],
    suite: str | None = None,
    *,
    tasks: str | Sequence[str] = (),
    datasets: str | Sequence[str] = (),
    params: Mapping[str, Mapping[str, Any]] | None = None,
    limit: int | Mapping[str, int] | None = None,
    data_root: str | Path | None = None,
    results_dir: str | Path = "results",
    include_path: Sequence[str | Path] = (),
    cache_dir: str | Path | None = None,
    device: str = "auto",
    devices: Sequence[str] = (),
    processes: int | None = None,
    offline: bool = False,
    force: bool = False,
    progress: bool = True,
    options: ExtractionOptions | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    splits: Mapping[str, str] | None = None,
    config: str | None = None,
    split_share: float | None = None,
    sample: Mapping[str, int] | None = None,
    sample_seed: int = 0,
    max_pixels: int | None = None,
    without_duplicates: str | Path | None = None,
) -> BenchmarkResult:
    """Runs cells and writes their records, as `massl-bench run` does; finished cells are read.

    ```python
    mb.benchmark(encoder, "quick")
    mb.benchmark(["pixels", "checkpoint.pth"], tasks=["knn", "linear"], datasets="cifar10", data_root="data")
    ```

    A cell that fails leaves nothing behind, and the others go on: its outcome has the error.

    Args:
        model: an encoder, or what `--model` takes; or several of them.
        suite: the cells of a suite, in place of tasks and datasets.
        tasks: names of tasks.
        datasets: registry names, `folder:DIR`, `hf:REPO[@REV]`, `wds:PATTERN`.
        params: parameters by task that replace the task's own: such records stay out of tables.
        limit: the first items only, of every split or by split: such records are partial.
        data_root: directory with one folder for each dataset of the registry.
        results_dir: where records are written.
        include_path: directories with more tasks, datasets and suites.
        cache_dir: None for the user's cache directory.
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        devices: of processes that share the work of models that are named (`cuda:0`, …); none: all GPUs of the
            machine, where `device` is `auto`. An encoder stays in this process.
        processes: how many of them; None: one for each device.
        offline: never download.
        force: run finished cells again.
        progress: whether stderr is told how far it is.
        options: batch size, workers, precision.
        image_column: as of `extract`, and so are the following.
        label_column: of `hf:` data.
        splits: of `folder:` and `hf:` data.
        config: of `hf:` data.
        split_share: of `folder:` data without splits.
        sample: such records are partial.
        sample_seed: of the draw.
        max_pixels: images of more pixels are refused.
        without_duplicates: what `overlap` saved: cells are measured again without the test images that it names.

    Raises:
        RequestError: The request cannot be carried out; nothing was written.
    """
    registry = registry_with(include_path)
    request = RunRequest(
        cells=_cells(registry, suite, _listed(tasks), _listed(datasets)),
        models=_models([model] if isinstance(model, str | Encoder) else model),
        suite=suite,
        overrides=params or {},
        limit={"": limit} if isinstance(limit, int) else dict(limit or {}),
        device=device,
        devices=devices,
        processes=processes,
        data=data_options(
            cache_dir=cache_dir,
            data_root=data_root,
            offline=offline,
            image_column=image_column,
            label_column=label_column,
            splits=splits,
            config=config,
            split_share=split_share,
            sample=sample,
            sample_seed=sample_seed,
            max_pixels=max_pixels,
        ),
        extraction=options or ExtractionOptions(),
        results_dir=Path(results_dir),
        without_duplicates=Path(without_duplicates) if without_duplicates is not None else None,
        force=force,
    )
    return BenchmarkResult(_outcomes(request, registry, show_progress() if progress else Reporting()))


def _cells(
    registry: Registry, suite: str | None, tasks: Sequence[str], datasets: Sequence[str]
) -> Sequence[tuple[str, str]]:
    if (suite is None) == (not tasks and not datasets):
        raise RequestError("benchmark: give a suite, or tasks and datasets")
    if suite is not None:
        return registry.suite(suite).pairs
    if not (tasks and datasets):
        raise RequestError(f"benchmark: {'datasets' if tasks else 'tasks'} missing")
    return [(task, dataset) for dataset in datasets for task in tasks]


def _outcomes(request: RunRequest, registry: Registry, reporting: Reporting) -> list[Outcome]:
    """Runs cells in the order of the request: in this process where models are given, else wherever `run` would."""
    if not all(isinstance(each, str) for each in request.models):
        planner = Planner(request, registry, reporting)
        return list(Runner(planner, reporting).run(planner.plan()))
    outcomes = list(find_launcher("local").run(request, registry, reporting))
    order = [(each, *cell) for each in dict.fromkeys(outcome.model for outcome in outcomes) for cell in request.cells]
    return sorted(outcomes, key=lambda each: order.index((each.model, each.task, each.dataset)))


def _models(given: Sequence[Encoder | str]) -> list[Model | str]:
    return [_of_encoder(each) if isinstance(each, Encoder) else each for each in given]


def _of_encoder(encoder: Encoder) -> Model:
    return Model(card=encoder.card, build=lambda: encoder)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def leaderboard(
    suite: str | None = None,
    *,
    results_dir: str | Path = "results",
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
    metric: str | None = None,
    bundled: bool = True,
    include_path: Sequence[str | Path] = (),
) -> pd.DataFrame:
    """Returns the records of current tasks, one row for each model, task and dataset (`massl-bench leaderboard`).

    Args:
        suite: only its cells.
        results_dir: where records are.
        models: only these, by name or pattern.
        tasks: likewise.
        metric: in place of each task's headline, where it was measured.
        bundled: with the records that came with the package.
        include_path: directories with more tasks.

    Raises:
        RequestError: There is nothing of that name.
    """
    import pandas as pd

    selection = Selection(models=list(models), tasks=list(tasks), metric=metric, packaged=bundled)
    return pd.DataFrame(to_json(collect(Path(results_dir), registry_with(include_path), suite, selection))["rows"])


def compare(
    *models: str,
    suite: str | None = None,
    task: str | None = None,
    dataset: str | None = None,
    results_dir: str | Path = "results",
    include_path: Sequence[str | Path] = (),
) -> pd.DataFrame:
    """Returns models against the first one, cell by cell, on the items that both were given (`massl-bench compare`).

    A row has the names, both `values`, their difference (second minus first, a fraction) with its interval, the exact
    test and whether it is significant at 5 %, corrected over all rows; of two that cannot be compared, the `reason`.

    Args:
        models: two or more, as a leaderboard names them, or files of records.
        suite: only its cells.
        task: only its cells.
        dataset: likewise.
        results_dir: where records are.
        include_path: directories with more tasks.

    Raises:
        RequestError: There is nothing of that name, or no cell is measured of two of them.
    """
    import pandas as pd

    board = collect(Path(results_dir), registry_with(include_path), suite)
    found, refused = compare_rows(pairs_of(models, board, task=task, dataset=dataset))
    return pd.DataFrame([*map(plain_comparison, found), *map(plain_comparison, refused)])


def verify(
    record: ResultRecord | str | Path,
    *,
    data_root: str | Path | None = None,
    include_path: Sequence[str | Path] = (),
    cache_dir: str | Path | None = None,
    device: str = "auto",
    devices: Sequence[str] = (),
    processes: int | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Verdict:
    """Computes a record again, from the images, and compares identity and every metric.

    Args:
        record: or its file.
        data_root: directory with one folder for each dataset of the registry.
        include_path: directories with more tasks and datasets.
        cache_dir: None for the user's cache directory.
        device: where the encoder runs.
        devices: as of `benchmark`.
        processes: likewise.
        offline: never download.
        progress: whether stderr is told how far it is.

    Raises:
        RequestError: The model, the dataset or the task is not there, or has changed its meaning.
        CellError: The cell failed.
    """
    recorded = record if isinstance(record, ResultRecord) else read_record(Path(record))
    data = data_options(cache_dir=cache_dir, data_root=data_root, offline=offline)
    reporting = show_progress() if progress else Reporting()
    return verify_record(
        recorded,
        registry_with(include_path),
        data,
        device=device,
        devices=devices,
        processes=processes,
        reporting=reporting,
    )


def overlap(
    a: str,
    b: str,
    *,
    model: str = DEFAULT_MODEL,
    splits: tuple[Sequence[str], Sequence[str]] = ((), ()),
    calibrate_on: str | None = None,
    data_root: str | Path | None = None,
    include_path: Sequence[str | Path] = (),
    cache_dir: str | Path | None = None,
    device: str = "auto",
    offline: bool = False,
    save: str | Path | None = None,
    progress: bool = True,
) -> Overlap:
    """Returns which images of one dataset are in another one, as `massl-bench datasets overlap` does.

    ```python
    found = mb.overlap("cifar10", "cifar10", data_root="data", save="overlap.json")
    found.rows()  # {"test": [17, ...]}: test images that are in the training set
    mb.benchmark("pixels", tasks="knn", datasets="cifar10", data_root="data", without_duplicates="overlap.json")
    ```

    Args:
        a: whose images are looked for: a registry name, `folder:DIR`, `hf:REPO[@REV]` or `wds:PATTERN`.
        b: where; the same dataset for its test split against its others.
        model: whose features choose what is compared.
        splits: of A and of B; none: all.
        calibrate_on: the dataset whose images the copies for the threshold are made of; None: B.
        data_root: directory with one folder for each dataset of the registry.
        include_path: directories with more datasets.
        cache_dir: None for the user's cache directory.
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        offline: never download a model.
        save: where `without_duplicates` reads it from.
        progress: whether stderr is told how far it is.

    Raises:
        RequestError: A dataset is not there, or the two are the same images.
        CellError: An image is broken.
    """
    request = OverlapRequest(
        a=a,
        b=b,
        model=model,
        splits=splits,
        calibrate_on=calibrate_on,
        device=device,
        data=data_options(cache_dir=cache_dir, data_root=data_root, offline=offline),
    )
    found = find_overlap(request, registry_with(include_path), show_progress() if progress else Reporting())
    if save is not None:
        write_output(Path(save), canonical_json(overlap_as_json(found)) + "\n")
    return found
