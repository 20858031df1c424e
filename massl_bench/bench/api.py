"""The Python interface: load an encoder, extract features, evaluate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from massl_bench import protocols
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import RequestError
from massl_bench.core.files import default_cache_dir
from massl_bench.core.values import (
    LABELLED_KINDS,
    CopyTruth,
    DatasetKind,
    EvaluationData,
    FeatureBank,
    QueryTruth,
    Score,
)
from massl_bench.datasets import DataOptions, open_dataset
from massl_bench.features import ExtractionOptions, FeatureCache, Reporting, bank_key, load_or_extract
from massl_bench.learners.faiss_backend import resolve_backend
from massl_bench.models import ModelOptions, open_model
from massl_bench.models.encoder import Encoder
from massl_bench.specs.registry import Registry


def load_encoder(
    model: str,
    *,
    device: str = "cpu",
    arch: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> Encoder:
    """Returns an encoder: a callable from normalised images, float32 [B, 3, H, W], to features, float32 [B, D].

    Args:
        model: what the command line's `--model` takes: a checkpoint, a manifest's name, `timm:NAME`, `pixels`, …
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        arch: a timm architecture, for a checkpoint whose shapes leave it open.
        cache_dir: where hashes are remembered; None for the user's cache directory.
        offline: never download.

    Raises:
        RequestError: The name is unknown, or the checkpoint is not safe or does not fit; nothing is guessed.
    """
    options = ModelOptions(cache_dir=_cache_dir(cache_dir), arch=arch, download=not offline)
    return open_model(model, Registry(weights_dir=Path("weights")), options).encoder(resolve_device(device))


def extract(
    encoder: Encoder,
    dataset: str,
    *,
    data_root: str | Path | None = None,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
    options: ExtractionOptions | None = None,
) -> dict[str, FeatureBank]:
    """Returns the banks of all splits of a dataset by role, from the cache where they are there.

    Args:
        encoder: from `load_encoder`; features are computed on its device.
        dataset: a registry name, `folder:DIR` or `hf:REPO[@REV]`.
        data_root: directory with one folder for each dataset.
        limit: only the first items of each split.
        cache_dir: None for the user's cache directory.
        options: batch size, workers, precision.

    Raises:
        RequestError: The dataset is not there, or not what it must be.
        CellError: An image or a feature is broken, or the cache cannot be written.
    """
    cache_path = _cache_dir(cache_dir)
    places = DataOptions(cache_dir=cache_path, data_root=Path(data_root) if data_root is not None else None)
    found = open_dataset(dataset, Registry(), places, fetch=True)
    chosen = options if options is not None else ExtractionOptions()
    cache = FeatureCache(cache_path)
    banks = {}
    for role in found.sources:
        key = bank_key(encoder.card, encoder.card.preprocessing, found, role, limit, chosen)
        banks[role] = load_or_extract(cache, key, lambda: encoder, found, chosen, Reporting())
    return banks


def evaluate(
    task: str,
    banks: Mapping[str, FeatureBank],
    *,
    ground_truth: Sequence[QueryTruth] | CopyTruth | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> dict[str, Score]:
    """Returns the scores of a task on banks that were extracted, or made with `FeatureBank.from_arrays`.

    Args:
        task: a name of the registry, as in `knn`.
        banks: by role, as in `{"train": …, "test": …}`.
        ground_truth: what the queries of retrieval and copy detection should find.
        params: parameters that replace the task's own.
        seed: in place of the task's own.
        device: where neighbours are searched and heads are trained: `auto`, `cpu`, `cuda` or `cuda:i`.

    Raises:
        RequestError: The task is unknown, a bank is missing, the task or its parameters do not fit the banks, or the
            device is not there.
    """
    registry = Registry()
    spec = registry.task(task)
    if params:
        spec = spec.model_copy(update={"params": {**spec.params, **params}})
    if protocols.view_roles(spec.protocol):
        raise RequestError(
            f"{task}: trains on augmented views of the images, which banks do not hold: massl-bench run --task {task}, "
            "or take the task linear"
        )
    kind: DatasetKind = "unlabelled" if set(banks) == {"all"} else spec.kinds[0]
    needed = protocols.roles(spec.protocol, kind, banks)
    missing = [role for role in needed if role not in banks]
    if missing:
        raise RequestError(f"{task}: needs the banks {', '.join(needed)}; missing: {', '.join(missing)}")
    labelled: set[DatasetKind] = {
        "single-label" if labels.ndim == 1 else "multi-label"
        for labels in (banks[role].labels for role in needed)
        if labels is not None
    }
    if LABELLED_KINDS & set(spec.kinds) and not labelled <= set(spec.kinds):
        found = min(labelled - set(spec.kinds))
        raise RequestError(
            f"{task}: needs {' or '.join(spec.kinds)} banks, and these are {found}; "
            f"tasks that apply: {', '.join(protocols.tasks_on_features(found, registry))}"
        )
    counts = [bank.num_classes for bank in banks.values() if bank.num_classes is not None]
    data = EvaluationData(
        banks={role: banks[role] for role in needed},
        num_classes=max(counts, default=None),
        backend=resolve_backend(resolve_device(device))[0],
        ground_truth=ground_truth,
    )
    rng = np.random.default_rng(spec.seed if seed is None else seed)
    return protocols.run(spec, protocols.parameters(spec, f"task {task}", check_headline=False), data, rng)


def _cache_dir(cache_dir: str | Path | None) -> Path:
    return Path(cache_dir) if cache_dir is not None else default_cache_dir()
