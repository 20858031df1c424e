"""From a method's names of tensors to timm's: the steps that layouts share.

A renaming is a function of (tensors, network) as `Network.rename` is. Given tensors without values, and no network, it
tells the shapes under timm's names, from which the network is then made: so a renaming stands once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from massl_bench.core.errors import RequestError, one_line
from massl_bench.models.adapter import Found, Rename, Tensors
from massl_bench.models.shapes import arch_heads, vit_shape


def renamed_shapes(found: Found, rename: Rename) -> Found:
    """Returns a file as its network has it: shapes under the network's names, without values.

    Args:
        found: the file.
        rename: of its tensors.

    Raises:
        RequestError: The tensors do not fit the renaming.
    """
    shapes = {
        name: torch.empty(tuple(stored.shape), dtype=stored.dtype, device="meta")
        for name, stored in found.tensors.items()
    }
    try:
        return replace(found, tensors=rename(shapes, None))
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError) as error:
        raise RequestError(
            f"{found.where}: its tensors are not those of the layout {found.weights.name}: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from None


def in_timm_names(found: Found, rename: Rename | None = None) -> Found:
    """Returns a file of a ViT as its network has it: shapes under timm's names, without values.

    The layout says what its network is; an `--arch` can add the number of heads, and must have the file's dimensions.

    Args:
        found: the file.
        rename: of its tensors; None where the names are timm's.

    Raises:
        RequestError: The tensors do not fit the renaming, or not the architecture that the user says.
    """
    found = found if rename is None else renamed_shapes(found, rename)
    arch = found.settings.arch
    if arch is None:
        return found
    of_arch = arch_heads(arch, vit_shape(found), found.where)
    told = {"arch": None, "num_heads": found.settings.num_heads or of_arch}
    return replace(found, settings=found.settings.model_copy(update=told))


def substituted(tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> Tensors:
    """Returns tensors under other names.

    Args:
        tensors: by name.
        rules: (regular expression, replacement); a name follows the first one that matches the whole of it, and keeps
            its own where none does.

    Raises:
        ValueError: Two tensors would have one name.
    """
    compiled = [(re.compile(pattern), to) for pattern, to in rules]
    named: Tensors = {}
    for name, tensor in tensors.items():
        new = next((match.expand(to) for pattern, to in compiled if (match := pattern.fullmatch(name))), name)
        put(named, new, tensor)
    return named


def put(tensors: Tensors, name: str, tensor: Tensor) -> None:
    """Adds a tensor under another name than its file's; raises `ValueError` where one has it, and would be lost."""
    if name in tensors:
        raise ValueError(f"two tensors are {name}")
    tensors[name] = tensor


def fused_qkv(tensors: Tensors, parts: Sequence[str] = ("query", "key", "value")) -> Tensors:
    """Returns tensors with the three projections of each attention as one, `qkv`: queries first, then keys, values.

    Args:
        tensors: among them `….attn.PART.weight` and `….attn.PART.bias`.
        parts: what the three are called.

    Raises:
        KeyError: Of three that belong together, one is missing.
        ValueError: One is there already.
    """
    first = [name for name in tensors if re.fullmatch(rf".*\.attn\.{parts[0]}\.(weight|bias)", name)]
    fused = dict(tensors)
    for name in first:
        before, kind = name.rsplit(f".{parts[0]}.", 1)
        put(fused, f"{before}.qkv.{kind}", torch.cat([fused.pop(f"{before}.{part}.{kind}") for part in parts]))
    return fused


def numbered_to_timm(tensors: Tensors, _network: Any = None) -> Tensors:
    """Returns the tensors of a ResNet whose children are numbered, as a sequence of them is, in timm's names.

    Children 2 and 3 are the activation and the pooling.
    """
    stages = [(rf"{stage + 3}\.(.*)", rf"layer{stage}.\1") for stage in range(1, 5)]
    return substituted(tensors, [(r"0\.(.*)", r"conv1.\1"), (r"1\.(.*)", r"bn1.\1"), *stages])


def torchvision_vit_to_timm(tensors: Tensors, _network: Any = None) -> Tensors:
    """Returns the tensors of torchvision's ViT in timm's names."""
    block = r"encoder\.layers\.encoder_layer_(\d+)"
    rules = [
        ("class_token", "cls_token"),
        (r"encoder\.pos_embedding", "pos_embed"),
        (r"conv_proj\.(.*)", r"patch_embed.proj.\1"),
        (rf"{block}\.ln_([12])\.(.*)", r"blocks.\1.norm\2.\3"),
        (rf"{block}\.self_attention\.in_proj_(.*)", r"blocks.\1.attn.qkv.\2"),
        (rf"{block}\.self_attention\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
        (rf"{block}\.mlp\.(?:0|linear_1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
        (rf"{block}\.mlp\.(?:3|linear_2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
        (r"encoder\.ln\.(.*)", r"norm.\1"),
    ]
    return substituted(tensors, rules)


def unchunked(tensors: Mapping[str, Tensor]) -> Tensors:
    """Returns tensors with blocks `blocks.CHUNK.N.…` as `blocks.N.…`: N counts through all chunks."""
    return substituted(tensors, [(r"blocks\.\d+\.(\d+)\.(.*)", r"blocks.\1.\2")])


def dinov2_to_timm(tensors: Tensors, _network: Any = None) -> Tensors:
    """Returns tensors in DINOv2's names in timm's: blocks, fused SwiGLU, registers.

    Registers have no position embeddings; timm's networks with registers have none for the class token either: it is
    added to the token.
    """
    rules = [(r"(.*\.mlp)\.w12\.(.*)", r"\1.fc1.\2"), (r"(.*\.mlp)\.w3\.(.*)", r"\1.fc2.\2")]
    renamed = substituted(unchunked(tensors), [*rules, ("register_tokens", "reg_token")])
    return folded_class_position(renamed) if "reg_token" in renamed else renamed


def folded_class_position(tensors: Tensors) -> Tensors:
    """Returns tensors with the class token's position embedding added to the token, and taken from `pos_embed`."""
    positions = tensors["pos_embed"]
    return {**tensors, "cls_token": tensors["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}


def swiglu_arguments(found: Found) -> dict[str, Any]:
    """Returns the arguments of timm's ViT for MLPs whose first layer holds gate and value; none for plain ones.

    Args:
        found: in timm's names.
    """
    from timm.layers.mlp import SwiGLUPacked
    from torch import nn

    first, second = found.shape("blocks.0.mlp.fc1.weight"), found.shape("blocks.0.mlp.fc2.weight")
    gated = bool(first) and bool(second) and first[0] == 2 * second[-1]
    return {"mlp_layer": SwiGLUPacked, "act": nn.SiLU} if gated else {}
