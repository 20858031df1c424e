"""Checkpoint files: read without executing anything, recognised by their layout, loaded exactly or not at all.

The architecture is inferred from the tensors' shapes. The number of heads is not in them: it is width / 64 (as in
MaSSL, DINO and DeiT) unless `--arch` says otherwise; what the file says of itself (`args`) is not trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from massl_bench.core.errors import RequestError, one_line, unknown_name
from massl_bench.core.files import sha256_file
from massl_bench.core.settings import DEFAULT_PREPROCESSING
from massl_bench.models.encoder import Encoder, num_parameters
from massl_bench.models.metadata import read_metadata
from massl_bench.models.model import ModelCard
from massl_bench.models.reading import LazyTensor, load, load_all, open_checkpoint, shown, state_dict
from massl_bench.models.resnet import SmallImageResNet
from massl_bench.models.timm_models import pooling_of, token_dim
from massl_bench.models.vit import MasslVisionTransformer, is_plain, num_token_blocks, special_vit

Tensors = dict[str, Tensor]
Shaped = Tensor | LazyTensor
"""What has a shape; its values may still lie in its file."""

_HEAD_WIDTH = 64
"""Width of an attention head in every ViT of MaSSL, DINO and DeiT."""

_CONTAINERS = ("teacher", "state_dict", "model", "student")
"""Keys under which trainers keep their weights; evaluation uses the teacher where there is one."""

_DEFAULT_ORIGIN = "the default (a checkpoint has none of its own)"


@dataclass(frozen=True)
class Backbone:
    """The tensors of a backbone, found in a checkpoint."""

    tensors: dict[str, LazyTensor]
    layout: str
    """Where they were found, for people."""


def build_checkpoint(file: Path, reference: str, arch: str | None = None, checkpoint_key: str | None = None) -> Encoder:
    """Returns the encoder of a checkpoint file.

    Args:
        file: a file of torch (`.pth`, `.pt`, …) or safetensors.
        reference: what the user gave, for messages.
        arch: a timm architecture, where the shapes do not tell everything.
        checkpoint_key: which of the file's sets of weights, where the choice is not the teacher's.

    Raises:
        RequestError: The file cannot be read safely, holds no backbone of a known layout, or its tensors are not
            exactly those of the architecture.
    """
    where = f"model {reference}"
    backbone = find_backbone(open_checkpoint(file).content, where, checkpoint_key)
    own = read_metadata(file)
    if arch is None and own is not None:
        arch = own.arch
    network, architecture, pooling = build_network(backbone.tensors, arch, where)
    load_exactly(network, load(backbone.tensors, where), where)
    sha256 = sha256_file(file)
    card = ModelCard(
        name=f"{file.stem}-{sha256[:8]}",
        reference=reference,
        architecture=architecture,
        pooling=pooling,
        embed_dim=int(network.num_features),
        num_blocks=num_token_blocks(network),
        token_dim=token_dim(network),
        num_parameters=num_parameters(network),
        weights_sha256=sha256,
        weights_hash_of="file",
        weights_origin=f"{file.name} ({backbone.layout})",
        preprocessing=own.preprocessing if own is not None else DEFAULT_PREPROCESSING,
        preprocessing_origin="the file's own metadata" if own is not None else _DEFAULT_ORIGIN,
        licence=own.licence if own is not None else "unknown",
    )
    return Encoder(network, card, files=[file])


def read_checkpoint(file: Path) -> Any:
    """Returns the whole content of a checkpoint with the values of its tensors; stand-ins for what is not plain.

    Raises:
        RequestError: As `open_checkpoint`.
    """
    return load_all(open_checkpoint(file).content, str(file))


def read_tensors(file: Path) -> Tensors:
    """Returns a file's state dict: a plain one, or the one under a trainer's usual key."""
    content = open_checkpoint(file).content
    tensors = state_dict(content, str(file))
    if tensors is None and isinstance(content, Mapping):
        found = (state_dict(content.get(key), f"{file}: key {key}") for key in _CONTAINERS)
        tensors = next((each for each in found if each is not None), None)
    if tensors is None:
        raise RequestError(f"{file}: no state dict in it; found {_summary(content)}")
    return {name.removeprefix("module."): tensor for name, tensor in load(tensors, str(file)).items()}


def _summary(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    keys = ", ".join(shown(key) for key in list(content)[:8])
    return f"the keys {keys}" if keys else "nothing"


def find_backbone(content: Any, where: str, checkpoint_key: str | None = None) -> Backbone:
    """Returns the backbone's tensors under timm's names.

    Known layouts: the MaSSL (and DINO) trainer's `{student, teacher, …}` with `backbone.` and `head.`; a plain state
    dict of a backbone, also under `state_dict` or `model`, with or without `module.` and `backbone.`.

    Raises:
        RequestError: No such tensors; the text names what was found.
    """
    plain = state_dict(content, where)
    candidates: dict[str, Any] = {"": plain} if plain is not None else {}
    if isinstance(content, Mapping) and plain is None:
        candidates = {key: content[key] for key in _CONTAINERS if key in content}
        if checkpoint_key is not None:
            if checkpoint_key not in content:
                raise RequestError(f"{where}: no key {checkpoint_key!r}; found {_summary(content)}")
            candidates = {checkpoint_key: content[checkpoint_key]}
    for key, value in candidates.items():
        tensors = state_dict(value, f"{where}: key {key}" if key else where)
        if tensors is None:
            continue
        stripped = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        inside = f"key {key}" if key else "state dict"
        if any(name.startswith("backbone.") for name in stripped):
            # The projector is a part of pretraining, not of the representation: these names and no others are left out.
            rest = sorted(name for name in stripped if not name.startswith(("backbone.", "head.")))
            if rest:
                raise RequestError(f"{where}: unexpected tensors beside backbone and head: {_list(rest)}")
            return Backbone(
                {n.removeprefix("backbone."): t for n, t in stripped.items() if n.startswith("backbone.")},
                f"{inside}, backbone",
            )
        return Backbone(stripped, inside)
    raise RequestError(
        f"{where}: no backbone in this checkpoint: found {_summary(content)}; expected a state dict, or one under "
        f"{', '.join(_CONTAINERS)}"
    )


def build_network(tensors: Mapping[str, Shaped], arch: str | None, where: str) -> tuple[Any, str, str]:
    """Returns (network with random weights, architecture, pooling) for the shapes of a backbone's tensors."""
    if arch is not None:
        import timm

        if not timm.is_model(arch):
            raise unknown_name("timm architecture", arch, timm.list_models())
        with torch.device("meta"):
            model = timm.create_model(arch, num_classes=0)
        if "patch_embed.proj.weight" in tensors and isinstance(model, VisionTransformer):
            if not is_plain(model):
                return _build_special_vit(tensors, arch, model)
            block: Any = model.blocks[0]
            return _build_vit(tensors, block.attn.num_heads, where)
        return timm.create_model(arch, num_classes=0), arch, "pooled map"
    if "patch_embed.proj.weight" in tensors:
        return _build_vit(tensors, None, where)
    if "layer4.0.conv1.weight" in tensors:
        return _build_resnet(tensors, where)
    raise RequestError(
        f"{where}: the architecture cannot be inferred from its tensors ({_list(sorted(tensors))}); known: ViT and "
        "ResNet in timm's names; name another one with --arch"
    )


def _build_vit(
    tensors: Mapping[str, Shaped], num_heads: int | None, where: str
) -> tuple[MasslVisionTransformer, str, str]:
    try:
        width, _, patch, patch_width = tensors["patch_embed.proj.weight"].shape
        num_tokens = tensors["pos_embed"].shape[1] - 1
        depth = _count(tensors, "blocks", where)
        hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
        qkv_bias = any(name.endswith("attn.qkv.bias") for name in tensors)
    except (KeyError, ValueError, IndexError) as error:
        raise RequestError(f"{where}: not a ViT in timm's names: {one_line(error)} is missing") from None
    grid = round(num_tokens**0.5)
    if patch != patch_width or grid * grid != num_tokens:
        raise RequestError(
            f"{where}: contradicting shapes: patches of {patch} × {patch_width}, {num_tokens} position embeddings; "
            "expected square patches on a square grid"
        )
    if num_heads is None:
        if width % _HEAD_WIDTH:
            raise RequestError(
                f"{where}: width {width} is not a multiple of {_HEAD_WIDTH}, so the number of heads is unknown: give "
                "--arch"
            )
        num_heads = width // _HEAD_WIDTH
    network = MasslVisionTransformer(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=hidden / width,
        qkv_bias=qkv_bias,
    )
    size = {192: "tiny", 384: "small", 768: "base", 1024: "large"}.get(width) if depth in (12, 24) else None
    name = f"vit_{size}_patch{patch}" if size else f"vit_width{width}_depth{depth}_heads{num_heads}_patch{patch}"
    return network, name, "class token after the final norm"


def _count(names: Iterable[str], prefix: str, where: str) -> int:
    """Returns how many blocks `prefix.0.…`, `prefix.1.…` there are; a missing one is an error."""
    found = {match[1] for name in names if (match := re.match(rf"{prefix}\.([0-9]+)\.", name))}
    missing = next((number for number in range(len(found)) if str(number) not in found), None)
    if missing is not None or not found:
        raise RequestError(f"{where}: {len(found)} blocks {prefix}, and {prefix}.{missing or 0} is not among them")
    return len(found)


def _build_special_vit(tensors: Mapping[str, Shaped], arch: str, model: VisionTransformer) -> tuple[Any, str, str]:
    """Returns timm's own network for the sizes of the tensors; `model` is the same at timm's sizes, without values."""
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    side = model.patch_embed.img_size[0]
    if "pos_embed" in tensors:
        not_patches = 0 if model.no_embed_class else model.num_prefix_tokens
        side = round(max(1, tensors["pos_embed"].shape[1] - not_patches) ** 0.5) * patch
    return special_vit(arch, img_size=side, patch_size=patch), arch, pooling_of(model)


def _build_resnet(tensors: Mapping[str, Shaped], where: str) -> tuple[Any, str, str]:
    import timm

    bottleneck = "layer1.0.conv3.weight" in tensors
    depths = tuple(_count(tensors, f"layer{stage}", where) for stage in range(1, 5))
    stem = tensors["conv1.weight"].shape if "conv1.weight" in tensors else ()
    if stem[2:] == (3, 3):
        widths = [int(tensors[f"layer{stage}.0.conv1.weight"].shape[0]) for stage in range(1, 5)]
        network = SmallImageResNet(widths=widths, depths=depths, bottleneck=bottleneck)
        blocks = "bottlenecks" if bottleneck else "blocks"
        name = f"resnet_small_images_widths{'-'.join(map(str, widths))}_{blocks}{'-'.join(map(str, depths))}"
        return network, name, "pooled map"
    known: dict[tuple[bool, tuple[int, ...]], str] = {
        (False, (2, 2, 2, 2)): "resnet18",
        (False, (3, 4, 6, 3)): "resnet34",
        (True, (3, 4, 6, 3)): "resnet50",
        (True, (3, 4, 23, 3)): "resnet101",
        (True, (3, 8, 36, 3)): "resnet152",
    }
    if (bottleneck, depths) not in known:
        raise RequestError(f"{where}: a ResNet with {depths} blocks is not a known one; name it with --arch")
    name = known[bottleneck, depths]
    return timm.create_model(name, num_classes=0), name, "pooled map"


def load_exactly(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Loads `tensors` into `network`: every tensor of the network filled, none left over, every shape equal.

    Raises:
        RequestError: The sets of names or shapes differ; the text lists what is missing, unexpected or misshapen.
    """
    wanted = network.state_dict()
    problems = mismatches(wanted, tensors)
    if problems:
        raise RequestError(f"{where}: its tensors are not those of the architecture: {'; '.join(problems)}")
    broken = not_finite(tensors)
    if broken:
        raise RequestError(f"{where}: {broken}")
    counters = {name: value for name, value in wanted.items() if name not in tensors}
    network.load_state_dict({**tensors, **counters}, strict=True)


def mismatches(wanted: Mapping[str, Tensor], tensors: Mapping[str, Shaped]) -> list[str]:
    """Returns in which names and shapes `tensors` differ from the `wanted` ones, in words; nothing where they fit."""
    # Older checkpoints lack batch norm's counter, which no forward pass in evaluation reads.
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in wanted]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    return [
        f"{len(names)} {kind} ({_list(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns which tensors have values that are not finite, in words; None where all are."""
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    return f"tensors with values that are not finite: {_list(broken)}" if broken else None


def _list(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", … {len(names)} in all" if len(names) > 4 else "")
