"""The Python interface: what there is, an encoder, its features (`evaluate` has a module of its own)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from massl_bench.bench.places import cache_path, data_options, registry_with
from massl_bench.bench.progress import reporting as show_progress
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.model_settings import parse_settings
from massl_bench.core.values import FeatureBank, Part
from massl_bench.datasets import Columns, open_dataset
from massl_bench.datasets.handed import HandedSplit
from massl_bench.features import ExtractionOptions, FeatureCache, Reporting, Wanted, bank_key, load_or_extract
from massl_bench.features.banks import help_to_extract
from massl_bench.features.memory import extract_handed
from massl_bench.models import ModelOptions, open_model
from massl_bench.models.encoder import Encoder
from massl_bench.specs.dataset import DatasetSpec
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.suite import SuiteSpec
from massl_bench.specs.task import TaskSpec


def list_tasks(*, include_path: Sequence[str | Path] = ()) -> list[str]:
    """Returns the names of all tasks; `info(name)` shows one."""
    return list(registry_with(include_path).tasks)


def list_datasets(*, include_path: Sequence[str | Path] = ()) -> list[str]:
    """Returns the names of all datasets of the registry."""
    return list(registry_with(include_path).datasets)


def list_suites(*, include_path: Sequence[str | Path] = ()) -> list[str]:
    """Returns the names of all suites."""
    return list(registry_with(include_path).suites)


def list_models(*, include_path: Sequence[str | Path] = ()) -> list[str]:
    """Returns the names of all manifests in `./weights` and in the package, and `pixels`."""
    return ["pixels", *registry_with(include_path).manifests]


def info(name: str, *, include_path: Sequence[str | Path] = ()) -> TaskSpec | DatasetSpec | SuiteSpec | ManifestSpec:
    """Returns all that the registry says of a task, dataset, suite or manifest.

    Raises:
        RequestError: There is nothing of that name.
    """
    registry = registry_with(include_path)
    kinds: list[tuple[dict[str, Path], Any]] = [
        (registry.tasks, registry.task),
        (registry.datasets, registry.dataset),
        (registry.suites, registry.suite),
        (registry.manifests, registry.manifest),
    ]
    for files, load in kinds:
        if name in files:
            found: TaskSpec | DatasetSpec | SuiteSpec | ManifestSpec = load(name)
            return found
    raise unknown_name("name", name, [known for files, _ in kinds for known in files])


def load_encoder(  # the settings of a model, by name
    model: str,
    *,
    device: str = "cpu",
    arch: str | None = None,
    num_heads: int | None = None,
    checkpoint_key: str | None = None,
    img_size: int | None = None,
    pooling: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> Encoder:
    """Returns an encoder: a callable from normalised images, float32 [B, 3, H, W], to features, float32 [B, D].

    Args:
        model: what the command line's `--model` takes: a checkpoint, a manifest's name, `timm:NAME`, `pixels`, …
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        arch: a timm architecture, for a checkpoint whose shapes leave it open.
        num_heads: attention heads, of a checkpoint that does not tell them.
        checkpoint_key: which of a checkpoint's sets of weights, where not the one that its authors evaluate.
        img_size: side of the images that it is fed, in pixels.
        pooling: what becomes the feature: `token`, `avg`, `token+avg`, `token-before-norm` or `last4`.
        preprocessing: what replaces parts of its own: `resize`, `resize_mode`, `crop`, `interpolation`, `mean`, `std`.
        cache_dir: where hashes are remembered; None for the user's cache directory.
        offline: never download.

    Raises:
        RequestError: The name is unknown, or the checkpoint is not safe or does not fit; nothing is guessed.
    """
    settings = parse_settings(
        arch=arch,
        num_heads=num_heads,
        checkpoint_key=checkpoint_key,
        img_size=img_size,
        pooling=pooling,
        preprocessing=preprocessing,
    )
    options = ModelOptions(cache_dir=cache_path(cache_dir), settings=settings, download=not offline)
    return open_model(model, registry_with(()), options).encoder(resolve_device(device))


def extract(
    encoder: Encoder,
    dataset: Any,
    *,
    task: str | None = None,
    data_root: str | Path | None = None,
    include_path: Sequence[str | Path] = (),
    limit: int | None = None,
    offline: bool = False,
    progress: bool = True,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    options: ExtractionOptions | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    splits: Mapping[str, str] | None = None,
    config: str | None = None,
    split_share: float | None = None,
    sample: Mapping[str, int] | None = None,
    sample_seed: int = 0,
    max_pixels: int | None = None,
) -> dict[str, FeatureBank]:
    """Returns the banks of all splits of a dataset by role; of one sequence of images, its bank under `all`.

    ```python
    mb.extract(encoder, "cifar10", data_root="data")          # {"train": FeatureBank, "test": FeatureBank}
    mb.extract(encoder, "folder:my-images")
    mb.extract(encoder, torchvision.datasets.FakeData())      # {"all": FeatureBank}
    mb.extract(encoder, {"train": hf["train"], "test": hf["test"]})
    ```

    Args:
        encoder: from `load_encoder` or `Encoder.from_module`; features are computed on its device.
        dataset: a registry name, `folder:DIR`, `hf:REPO[@REV]` or `wds:PATTERN`; or a map-style dataset of torch, a
            split of the datasets library, or a sequence of images or (image, label); or a mapping of such, by role.
            Images are PIL images or uint8 [H, W, 3], without a transform: the encoder has its own.
        task: whose features are meant, where it asks for others than the encoder's own: `layers`, `copy-detection`.
        data_root: directory with one folder for each dataset of the registry.
        include_path: directories with more tasks and datasets.
        limit: only the first items of each split.
        offline: never download.
        progress: whether stderr is told how far it is.
        cache: whether banks of named datasets are kept and found again. Images held in Python have no name that would
            still mean the same tomorrow: their features are never cached.
        cache_dir: None for the user's cache directory.
        options: batch size, workers, precision.
        image_column: of a split of the datasets library, where none is called `image` or `img`.
        label_column: likewise, where it is not `label`.
        splits: names of the splits by role, of `folder:` and `hf:` data: `{"train": "learn", "test": "held"}`.
        config: which of several configurations of `hf:` data.
        split_share: for `folder:` of class folders without train/ and test/: the part of each class to test on.
        sample: how many items are drawn of a split, by role, of every class as many.
        sample_seed: of that draw.
        max_pixels: images of more pixels are refused; None for the limit of which Pillow warns.

    Raises:
        RequestError: The dataset is not there, or not what it must be.
        CellError: An image or a feature is broken, or the cache cannot be written.
    """
    chosen = options if options is not None else ExtractionOptions()
    reporting = show_progress() if progress else Reporting()
    places = data_options(
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
    )
    registry = registry_with(include_path)
    parts: tuple[Part, ...] = ()
    if task is not None:
        encoder, parts = encoder.for_task(registry.task(task))
    if not isinstance(dataset, str):
        why = "held in Python, where you choose the items"
        places.check_used("the dataset", used=("image_column", "label_column"), why=why)
        if sample:
            raise RequestError(f"is for datasets by name; the dataset is {why}: leave it out", field="sample")
        handed = _extract_handed(encoder, dataset, chosen, reporting, places.columns, limit)
        return {role: replace(bank, parts=parts) for role, bank in handed.items()}
    found = open_dataset(dataset, registry, places, fetch=not offline)
    with _bank_places(cache, cache_path(cache_dir)) as place:
        kept, preprocessing, banks = FeatureCache(place), encoder.card.preprocessing, {}
        key_of = partial(bank_key, encoder.card, preprocessing, found, limit=limit, options=chosen)
        wanted = {role: Wanted(key_of(role), lambda: encoder, found) for role in found.sources}
        for each in wanted.values() if chosen.shard.count > 1 else ():  # before the end of the first is waited for
            help_to_extract(kept, each, chosen, reporting)
        for role, each in wanted.items():
            bank = load_or_extract(kept, each, chosen, reporting)
            # What is not kept must not be read from a file that is about to go.
            banks[role] = replace(bank, parts=parts, features=bank.features if cache else np.array(bank.features))
        return banks


def _extract_handed(
    encoder: Encoder,
    dataset: Any,
    options: ExtractionOptions,
    reporting: Reporting,
    columns: Columns,
    limit: int | None,
) -> dict[str, FeatureBank]:
    def one(items: Any, role: str) -> FeatureBank:
        split = HandedSplit(items, image_column=columns.image, label_column=columns.label)
        label = f"{encoder.card.name} on {role}"
        preprocessing = encoder.card.preprocessing
        return extract_handed(encoder, split, preprocessing, options, reporting, label=label, limit=limit)

    if isinstance(dataset, Mapping):
        return {role: one(items, role) for role, items in dataset.items()}
    return {"all": one(dataset, type(dataset).__name__)}


@contextmanager
def _bank_places(cache: bool, cache_dir: Path) -> Iterator[Path]:
    if cache:
        yield cache_dir
        return
    with TemporaryDirectory() as place:
        yield Path(place)
