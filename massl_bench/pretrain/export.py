"""Trained weights as a model that every command takes: one safetensors file and its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from massl_bench.core.errors import CellError, RequestError, one_line
from massl_bench.core.files import sha256_file, write_atomic
from massl_bench.core.settings import Preprocessing, own_size
from massl_bench.core.wording import asked
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.identity import telling_numbers, tensors_sha256
from massl_bench.models.weights.manifests import check_name
from massl_bench.models.weights.metadata import WeightsMetadata, save_weights
from massl_bench.pretrain import methods
from massl_bench.pretrain.backbones import manifest_arch
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder, official_checkpoint, training_checkpoint
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.toml import sealed_toml


def export_model(
    backbone: nn.Module,
    config: PretrainConfig,
    *,
    name: str,
    folder: Path,
    licence: str,
    training: Mapping[str, Any],
) -> Path:
    """Writes `NAME.safetensors` and `NAME.toml` and proves that they load exactly.

    Args:
        backbone: under timm's tensor names.
        config: of its training.
        name: of the model.
        folder: where manifests are looked for.
        licence: of the weights.
        training: what the manifest tells of the training beside configuration and versions.

    Returns:
        The manifest's path.

    Raises:
        CellError: The files could not be written.
    """
    file = folder / f"{name}.safetensors"
    tensors = backbone.state_dict()
    arch = manifest_arch(config.backbone)
    heads = telling_numbers(backbone).get("heads")
    metadata = WeightsMetadata(
        name=name,
        architecture=config.backbone.arch,
        arch=arch,
        num_heads=int(heads) if heads is not None and arch is None else None,
        preprocessing=evaluation_preprocessing(config),
        licence=licence,
        citation=f"{methods.load(config.method).paper}; trained with massl-bench",
    )
    try:
        save_weights(file, tensors, metadata)
        if tensors_sha256(build_checkpoint(file, name).backbone) != tensors_sha256(backbone):
            raise CellError(f"{file}: read again, it is another network; this is a defect: the checkpoints are whole")
        manifest = ManifestSpec(
            name=name,
            file=file.name,
            sha256=sha256_file(file),
            arch=arch,
            preprocessing=metadata.preprocessing,
            summary=f"{config.method}, {training['steps']} steps on {training['dataset']}: {config.summary}",
            licence=metadata.licence,
            citation=metadata.citation,
            training={
                **training,
                "versions": {
                    **{package: version(package) for package in ("massl-bench", "torch", "timm")},
                    **methods.package_of(config.method),
                },
                "config": config.model_dump(mode="json", exclude_none=True),
            },
        )
        write_atomic(folder / f"{name}.toml", sealed_toml(manifest.model_dump(mode="json", exclude_none=True)))
    except OSError as error:
        raise CellError(f"{file}: could not be written: {one_line(error)}; the checkpoints are as they were") from None
    return folder / f"{name}.toml"


def official_content(file: Path, network: nn.Module) -> dict[str, Any] | None:
    """Returns what a checkpoint of this trainer holds in the layout of the authors' trainer.

    Args:
        file: of weights.
        network: what was made of it.

    Returns:
        None where the file is another, or the network not the teacher's backbone in it.
    """
    checkpoint = training_checkpoint(file)
    if checkpoint is None:
        return None
    teacher = checkpoint["teacher"]
    is_teacher = all(torch.equal(tensor, teacher[f"backbone.{name}"]) for name, tensor in network.state_dict().items())
    return official_checkpoint(checkpoint) if is_teacher else None


def check_names(names: Sequence[str], folder: Path) -> None:
    """Raises `RequestError` where a model cannot have one of the names, or another model of the folder has it.

    Args:
        names: of what a training writes: its own, then the others.
        folder: where manifests are looked for, and where each training has its checkpoints.
    """
    earlier = {name for name in names if CheckpointFolder(folder / name, 1).steps()}
    for name in names:
        check_name(name)
        # What an earlier part of this training wrote is written anew; another one's result is not.
        ours = names[0] in earlier and (name == names[0] or name not in earlier)
        manifest = folder / f"{name}.toml"
        if manifest.exists() and not ours:
            remedy = f"choose another {asked('name')}, or remove it"
            raise RequestError(f"{manifest} is there already, of another model", remedy=remedy)


def evaluation_preprocessing(config: PretrainConfig) -> Preprocessing:
    """Returns how images are fed to a trained backbone: at the size of its global views, an eighth cut off photos."""
    size = config.views.global_1.size
    return own_size(size, mean=config.views.mean, std=config.views.std)
