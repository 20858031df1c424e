"""What the user asked for, and what it becomes: tasks with the user's changes, cells that can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.core.strict import StrictModel
from massl_bench.datasets import MAX_PIXELS, DataOptions
from massl_bench.features import ExtractionOptions
from massl_bench.models import Model
from massl_bench.records.record import RequestedOptions
from massl_bench.specs.task import TaskSpec


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for."""

    cells: Sequence[tuple[str, str]]
    """(task, dataset) in order."""
    models: Sequence[str | Model]
    """References, as `--model` takes them; or models that are there already."""
    suite: str | None = None
    """Where the cells come from, if from a suite: data that is missing then fails its cell, and the others go on."""
    features_file: Path | None = None
    """In place of models and datasets."""
    ground_truth: Path | None = None
    """What the queries of handed-in retrieval features should find."""
    name: str | None = None
    """The model's name in the results, where not its own."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Parameters by task (`--set`)."""
    seed: int | None = None
    without_duplicates: Path | None = None
    """The JSON of an overlap: cells whose test items it names are measured without these, too."""
    limit: Mapping[str, int] = field(default_factory=dict)
    """First items only, by split; the key `""` stands for every split."""
    device: str = "auto"
    devices: Sequence[str] = ()
    """Of the processes that the request is run in, where the user names them."""
    processes: int | None = None
    """How many of them; None: one for each device."""
    memory: int | None = None
    """Bytes that one computation may hold beside its features; None: half of what is free."""
    data: DataOptions
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    results_dir: Path
    features_dir: Path | None = None
    """Where feature banks are kept; None for the cache directory."""
    settings: ModelSettings = NO_SETTINGS
    """What the user says of the models beyond their names."""
    force: bool = False

    def told(self) -> RequestedOptions:
        """Returns what a record keeps of how model and data are read."""
        columns = self.data.columns
        return RequestedOptions(
            model=self.settings,
            image_column=columns.image,
            label_column=columns.label,
            splits=dict(self.data.splits),
            config=self.data.config,
            split_share=self.data.split_share,
            sample=dict(self.data.sample),
            without_duplicates=str(self.without_duplicates) if self.without_duplicates is not None else None,
            sample_seed=self.data.sample_seed,
            max_pixels=self.data.max_pixels if self.data.max_pixels != MAX_PIXELS else None,
        )


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """A task with the user's changes, checked."""

    spec: TaskSpec
    params: StrictModel
    departures: tuple[str, ...]
    seed_given: bool = False
    """Whether `--seed` replaced the task's own: then it replaces that of generated copies too."""
