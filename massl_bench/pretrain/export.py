"""Trained weights as a model that every command takes: one safetensors file and its manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from massl_bench.errors import CellError, one_line
from massl_bench.models.checkpoints import build_network, load_exactly
from massl_bench.pretrain.backbones import manifest_arch
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.specs import ManifestSpec
from massl_bench.storage import sha256_file, write_atomic
from massl_bench.types import Preprocessing

_SMALL = 64
"""Images up to this side are evaluated whole: cutting an eighth off their borders would take what they show."""


def export_weights(
    backbone: nn.Module,
    config: PretrainConfig,
    *,
    name: str,
    folder: Path,
    training: Mapping[str, Any],
) -> Path:
    """Writes `NAME.safetensors` and `NAME.toml` and proves that they load exactly.

    Args:
        backbone: under timm's tensor names.
        config: of its training.
        name: of the model.
        folder: where manifests are looked for.
        training: what the manifest tells of the training beside configuration and versions.

    Returns:
        The manifest's path.

    Raises:
        CellError: The files could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in backbone.state_dict().items()}
    arch = manifest_arch(config.backbone)
    load_exactly(build_network(tensors, arch, name)[0], tensors, name)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        save_file(tensors, temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
        manifest = ManifestSpec(
            name=name,
            file=file.name,
            sha256=sha256_file(file),
            arch=arch,
            preprocessing=evaluation_preprocessing(config),
            summary=f"{config.method}, {training['steps']} steps on {training['dataset']}: {config.summary}",
            licence="none stated: weights trained here",
            citation="trained with massl-bench",
            training={
                **training,
                "versions": {package: metadata.version(package) for package in ("massl-bench", "torch", "timm")},
                "config": config.model_dump(mode="json", exclude_none=True),
            },
        )
        write_atomic(folder / f"{name}.toml", to_toml(manifest.model_dump(mode="json", exclude_none=True)))
    except OSError as error:
        raise CellError(f"{file}: could not be written: {one_line(error)}; the checkpoints are as they were") from None
    finally:
        temporary.unlink(missing_ok=True)
    return folder / f"{name}.toml"


def evaluation_preprocessing(config: PretrainConfig) -> Preprocessing:
    """Returns how images are fed to a trained backbone: at the size of its global views, an eighth cut off photos."""
    size = config.views.global_1.size
    return Preprocessing(
        resize=size if size <= _SMALL else round(size * 8 / 7),
        resize_mode="shortest",
        crop=size,
        interpolation="bicubic",
        mean=config.views.mean,
        std=config.views.std,
    )


def to_toml(content: Mapping[str, Any], section: str = "") -> str:
    """Returns nested tables of plain values as TOML: values first, then one section for each table."""
    lines = [f"{key} = {_value(value)}\n" for key, value in content.items() if not isinstance(value, Mapping)]
    for key, value in content.items():
        if isinstance(value, Mapping):
            name = f"{section}.{key}" if section else key
            lines.append(f"\n[{name}]\n{to_toml(value, name)}")
    return "".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    # Strings, whole numbers, fractions and truth values are written alike in JSON and TOML.
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
