"""Pretraining from Python."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from massl_bench.bench.places import data_options
from massl_bench.bench.pretraining import PretrainRequest, weights_name
from massl_bench.bench.pretraining import pretrain as train
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.wording import asked
from massl_bench.models import ModelOptions, open_model
from massl_bench.models.encoder import Encoder
from massl_bench.specs.registry import Registry


def pretrain(
    dataset: str,
    preset: str,
    *,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    resume: bool = False,
    force: bool = False,
    licence: str = "none stated",
    device: str = "auto",
    data_root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    weights_dir: str | Path = "weights",
    include_path: Sequence[str | Path] = (),
    offline: bool = False,
) -> Encoder:
    """Trains a backbone, writes its weights and their manifest, and returns its encoder (`massl-bench pretrain`).

    ```python
    encoder = mb.pretrain("digits", "tiny-digits", settings={"epochs": 5, "optimiser.lr": 0.002})
    ```

    Args:
        dataset: a registry name, `folder:DIR`, `hf:REPO[@REV]` or `wds:PATTERN`.
        preset: the configuration to start from (`massl-bench list presets`), or a TOML file.
        settings: what replaces its values, by `section.key`.
        name: of the weights; None for `PRESET-DATASET`.
        resume: go on from the last checkpoint, where there is one.
        force: resume under another configuration; start with too little memory.
        licence: of the weights, for their manifest.
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        data_root: directory with one folder for each dataset of the registry.
        cache_dir: None for the user's cache directory.
        weights_dir: where weights, manifest and checkpoints are written.
        include_path: directories with more datasets.
        offline: never download.

    Raises:
        RequestError: The configuration, the data or an earlier run do not fit; before any work.
        CellError: The training stopped, or something could not be written.
    """
    from massl_bench.pretrain.configure import load_config

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError("pretrain: is for one process; under torchrun: massl-bench pretrain")
    folders = [Path(each) for each in include_path]
    registry = Registry(include=folders, weights_dir=Path(weights_dir))
    request = PretrainRequest(
        dataset=dataset,
        config=load_config(preset, [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]),
        name=weights_name(name, preset, dataset),
        resume=resume,
        force=force,
        with_untrained=False,
        weights_dir=Path(weights_dir),
        licence=licence,
        data=data_options(cache_dir=cache_dir, data_root=data_root, offline=offline),
    )
    device = resolve_device(device)
    trained = train(request, registry, rank=0, device=device)
    if not trained.finished:
        raise CellError(f"stopped by SIGTERM after step {trained.step}", remedy=f"go on with {asked('resume')}")
    registry = Registry(include=folders, weights_dir=Path(weights_dir))  # anew: it now holds the manifest
    return open_model(request.name, registry, ModelOptions(cache_dir=request.data.cache_dir)).encoder(device)
