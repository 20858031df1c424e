"""Pretraining as the command line runs it: the trainer is handed images and an online evaluation, and what it made
becomes a model that every task takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import MissingDataError
from massl_bench.core.files import file_safe
from massl_bench.core.terminal import say
from massl_bench.datasets import DataOptions, ImageSplit, open_dataset
from massl_bench.datasets.dataset import Dataset
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.pretrain.config import PretrainConfig
    from massl_bench.pretrain.loop.estimate import Fit
    from massl_bench.pretrain.loop.trainer import OnlineEvaluation, Trained


@dataclass(frozen=True, kw_only=True)
class PretrainRequest:
    """What the user asked for, checked as far as that is possible without data.

    Attributes:
        dataset: its reference.
        config: resolved.
        name: of the weights.
        resume: go on from the last checkpoint, where there is one.
        force: start although the memory will not do, and resume although the configuration differs.
        with_untrained: whether the same network at random initialisation is written too.
        weights_dir: where weights, manifests and checkpoints are written.
        licence: of the weights, for their manifests.
        data: where the dataset is looked for.
    """

    dataset: str
    config: PretrainConfig
    name: str
    resume: bool = False
    force: bool = False
    with_untrained: bool
    weights_dir: Path
    licence: str
    data: DataOptions

    @property
    def models(self) -> tuple[str, ...]:
        """The names of what is written: the trained network, then the untrained one, where that is wanted."""
        return (self.name, f"{self.name}-untrained") if self.with_untrained else (self.name,)


def weights_name(name: str | None, preset: str, dataset: str) -> str:
    """Returns what the weights of a training are called: as the user says, or after the preset and the dataset."""
    from massl_bench.pretrain.presets import preset_name

    return file_safe(name if name is not None else f"{preset_name(preset)}-{dataset}")


def pretrain(
    request: PretrainRequest,
    registry: Registry,
    *,
    rank: int,
    device: str,
    written: Callable[[Path, int], None] | None = None,
) -> Trained:
    """Trains; where the training came to its end, the first rank writes the weights and their manifests.

    Args:
        request: what is trained, and on what.
        registry: knows the datasets.
        rank: of this process.
        device: likewise.
        written: is told, on the first rank, of each checkpoint that is there, and of its step.

    Raises:
        RequestError: The data or an earlier run do not fit the configuration; before any work.
        CellError: The training stopped, or something could not be written.
    """
    import torch

    from massl_bench.pretrain.compute import settled
    from massl_bench.pretrain.distributed import after_first_rank
    from massl_bench.pretrain.export import check_names, export_model
    from massl_bench.pretrain.loop.state import initial_network
    from massl_bench.pretrain.loop.trainer import TrainingJob, train

    config = settled(request.config, torch.device(device))
    request = replace(request, config=config)
    check_names(request.models, request.weights_dir)
    after_first_rank(lambda: _check_machine(request, device) if rank == 0 else None)
    # The first rank downloads, converts and hashes what is not there yet.
    split, fingerprint = after_first_rank(lambda: _training_images(request, registry))
    trained = train(
        TrainingJob(
            config=config,
            split=split,
            data={"reference": request.dataset, "fingerprint": fingerprint, "images": len(split)},
            folder=request.weights_dir / request.name,
            device=device,
            resume=request.resume,
            force=request.force,
            evaluate=_online_evaluation(config, split) if rank == 0 else None,
            written=written,
        )
    )
    if trained.finished and rank == 0:
        networks = [(trained.backbone, trained.step)]
        if request.with_untrained:
            networks.append((initial_network(config).backbone.eval(), 0))
        for name, (network, steps) in zip(request.models, networks, strict=True):
            training = {"dataset": request.dataset, "fingerprint": fingerprint, "images": len(split), "steps": steps}
            export_model(
                network,
                config,
                name=name,
                folder=request.weights_dir,
                licence=request.licence,
                training=training,
            )
    return trained


def _check_machine(request: PretrainRequest, device: str) -> None:
    """Raises `RequestError` where the training does not fit this machine; says what it needs."""
    from massl_bench.pretrain.distributed import world_size
    from massl_bench.pretrain.loop.estimate import check_fit, check_loading, memory_fit

    ranks = {"num_ranks": world_size(), "ranks_here": int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))}
    check_loading(request.config, **ranks)
    fit = memory_fit(request.config, device=device, **ranks)
    say(f"memory: {fit}")
    if request.config.compute.compile:
        say("compile: the first steps write kernels for both sizes of views, which takes a minute or two")
    if not request.force:
        check_fit(fit, request.config, **ranks)


@dataclass(frozen=True, kw_only=True)
class PretrainPlan:
    """What a pretraining would do on this machine, and need.

    Attributes:
        config: with what `auto` means on the device.
        images: that are trained on.
        steps: of the whole training.
        fit: what it needs of the device's memory, and what is there.
        step_s: seconds of a step on the device.
        views_s: seconds of one core to cut the views of a step; None where the images are not on this machine.
        seconds: of the whole training.
    """

    config: PretrainConfig
    images: int
    steps: int
    fit: Fit
    step_s: float
    views_s: float | None
    seconds: float


def plan_pretraining(request: PretrainRequest, registry: Registry, *, device: str) -> PretrainPlan:
    """Returns what `pretrain` would do, in one process; nothing is fetched or written.

    Raises:
        RequestError: As `pretrain`.
    """
    import torch

    from massl_bench.pretrain.compute import settled
    from massl_bench.pretrain.data.loading import divide
    from massl_bench.pretrain.export import check_names
    from massl_bench.pretrain.loop.estimate import (
        check_fit,
        check_loading,
        memory_fit,
        seconds_a_step,
        seconds_of_views,
        seconds_with_views,
    )

    device = resolve_device(device)
    config = settled(request.config, torch.device(device))
    check_names(request.models, request.weights_dir)
    spec = registry.dataset(request.dataset) if request.dataset in registry.datasets else None
    size = spec.splits["train"].size if spec is not None and "train" in spec.splits else None
    split = None
    try:
        split = _training_split(open_dataset(request.dataset, registry, request.data))
    except MissingDataError:
        if size is None:
            raise
    images = len(split) if split is not None else size or 0
    shares = divide(config, images, 1)
    check_loading(config, num_ranks=1, ranks_here=1)
    fit = memory_fit(config, num_ranks=1, ranks_here=1, device=device)
    if not request.force:
        check_fit(fit, config, num_ranks=1, ranks_here=1)
    step_s = seconds_a_step(config, num_ranks=1, device=device)
    views_s = seconds_of_views(config, split) if split is not None else None
    steps = config.epochs * shares.steps_per_epoch
    return PretrainPlan(
        config=config,
        images=images,
        steps=steps,
        fit=fit,
        step_s=step_s,
        views_s=views_s,
        seconds=steps * seconds_with_views(config, step_s, views_s or 0.0, device=device),
    )


def _training_split(dataset: Dataset) -> ImageSplit:
    return dataset.split("train" if "train" in dataset.sources else next(iter(dataset.sources)))


def _training_images(request: PretrainRequest, registry: Registry) -> tuple[ImageSplit, str]:
    """Returns the images that are trained on, checked, and the fingerprint of their dataset."""
    from massl_bench.pretrain.data.loading import check_images

    dataset = open_dataset(request.dataset, registry, request.data, fetch=True)
    split = _training_split(dataset).for_any_order(request.data.cache_dir)
    check_images(split, request.config, request.dataset)
    return split, dataset.fingerprint


def _online_evaluation(config: PretrainConfig, split: ImageSplit) -> OnlineEvaluation | None:
    """Returns the k-NN accuracy on held out training images as a function of the backbone, where there are labels."""
    from massl_bench.bench.evaluation import evaluate
    from massl_bench.pretrain.data.holdout import Holdout
    from massl_bench.pretrain.export import evaluation_preprocessing

    if split.labels is None or split.labels.ndim != 1 or not config.run.knn_every:
        return None
    holdout = Holdout.draw(
        split, evaluation_preprocessing(config), seed=config.seed, max_bank=10_000, max_queries=2_000
    )
    k = min(20, len(holdout.bank))

    def accuracy(backbone: Any) -> float:
        params = {"k": [k], "bootstrap_resamples": 1}
        return evaluate("knn", holdout.banks(backbone), params=params)[f"top1@{k}"].value

    return accuracy
