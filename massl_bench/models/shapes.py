"""What the shapes of a ViT's tensors tell, what they do not (the number of heads), and who knows that."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from massl_bench.core.errors import RequestError, one_line, unknown_name
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Found
from massl_bench.models.content import StateDict, beginnings, listed, load
from massl_bench.models.outline import Outline

_MOST_BLOCKS = 1000
"""The largest published networks have some fifty in a row."""


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """The dimensions of a ViT, as its tensors show them.

    Attributes:
        width: of the tokens, D.
        depth: number of blocks.
        patch: side of a patch, in pixels.
        grid: patches along a side that position embeddings are stored for; None where none are stored.
        hidden: width inside the MLPs.
        qkv_bias: whether queries, keys and values have a bias.
        class_token: whether there is one.
        registers: number of register tokens.
        prefix_positions: whether class and register tokens have position embeddings of their own.
        layer_scale: whether there is one.
        pre_norm: whether a norm stands before the blocks.
        norm_after_pooling: whether the last norm is that of pooled tokens (`fc_norm`).
    """

    width: int
    depth: int
    patch: int
    grid: int | None
    hidden: int
    qkv_bias: bool
    class_token: bool
    registers: int
    prefix_positions: bool
    layer_scale: bool
    pre_norm: bool
    norm_after_pooling: bool

    @property
    def img_size(self) -> int | None:
        """Side of the images that the position embeddings are for, in pixels."""
        return self.grid * self.patch if self.grid is not None else None

    @property
    def words(self) -> str:
        """The dimensions that tell one ViT from another, for messages."""
        return f"{self.width} wide, {self.depth} blocks deep, with patches of {self.patch} pixels"


Heads = Mapping[tuple[int, ...], int] | Callable[[VitShape], int | None]
"""Number of heads by (width, depth), or by (width, depth, patch); or a rule. What is in neither is asked for."""

PUBLISHED_HEADS: Mapping[tuple[int, ...], int] = {
    (192, 12): 3,
    (768, 12): 12,
    (1024, 24): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1536, 40): 24,
}
"""Of ViTs under timm's names whose layout says nothing else. A ViT that is 384 wide has 6 heads (DINO, iBOT, DeiT) or
12 (MoCo v3): a file without a method's own layout does not tell."""


def heads_of_64(shape: VitShape) -> int | None:
    """Returns as many heads as have 64 dimensions each, the rule of many authors' code; None for other widths."""
    return shape.width // 64 if shape.width % 64 == 0 else None


_CANDIDATES: Mapping[int, str] = {384: "6 (DINO, iBOT, MSN, DeiT: vit_small) or 12 (MoCo v3)"}


def vit_shape(found: Found) -> VitShape:
    """Returns the dimensions of a ViT under timm's names.

    Raises:
        RequestError: A tensor that every ViT has is missing, or shapes contradict each other.
    """
    projection = found.shape("patch_embed.proj.weight")
    hidden = next(filter(None, (found.shape(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "w12", "fc1_g"))), ())
    if len(projection) != 4 or not hidden:
        missing = "patch_embed.proj.weight" if len(projection) != 4 else "blocks.0.mlp.fc1.weight"
        raise RequestError(
            f"{found.where}: not a ViT in timm's names: {missing} is missing; "
            f"its tensors begin with {beginnings(found.tensors)}"
        )
    width, _, patch, patch_width = projection
    class_token, registers = "cls_token" in found.tensors, (*found.shape("reg_token"), 0, 0)[1]
    positions = found.shape("pos_embed")
    num_prefix = class_token + registers
    grid, prefix_positions = _grid(positions[1] if len(positions) == 3 else None, num_prefix)
    if patch != patch_width or (positions and grid is None):
        count = positions[1] - num_prefix if len(positions) == 3 else "no"
        raise RequestError(
            f"{found.where}: contradicting shapes: patches of {patch} × {patch_width}, {count} position embeddings; "
            f"expected square patches on a square grid{'' if class_token else '; cls_token is missing'}"
        )
    return VitShape(
        width=width,
        depth=count_blocks(found.tensors, "blocks", found.where),
        patch=patch,
        grid=grid,
        hidden=hidden[0],
        qkv_bias=any(name.endswith(".attn.qkv.bias") for name in found.tensors),
        class_token=class_token,
        registers=registers,
        prefix_positions=prefix_positions,
        layer_scale=any(name.endswith(".ls1.gamma") for name in found.tensors),
        pre_norm="norm_pre.weight" in found.tensors,
        norm_after_pooling="fc_norm.weight" in found.tensors,
    )


def has_fixed_positions(tensors: StateDict, where: str) -> bool:
    """Returns whether the position embeddings are MAE's and MoCo v3's sines and cosines of a grid, and not learnt.

    Zeros stand for the class token, and sines and cosines of 0 for the first patch, whichever axis comes first.
    """
    stored = tensors.get("pos_embed")
    if stored is None or len(stored.shape) != 3 or stored.shape[1] < 2 or stored.shape[2] % 4:
        return False
    positions = load({"pos_embed": stored}, where)["pos_embed"]
    quarter = positions.shape[2] // 4
    first_D = torch.cat([torch.zeros(quarter), torch.ones(quarter)]).repeat(2)
    return bool((positions[0, 0] == 0).all()) and torch.allclose(positions[0, 1].float(), first_D, atol=1e-3)


def count_blocks(names: Iterable[str], prefix: str, where: str) -> int:
    """Returns how many blocks `prefix.0.…`, `prefix.1.…` there are.

    Raises:
        RequestError: One of them is missing, or there are more than any network has.
    """
    found = {match[1] for name in names if (match := re.match(rf"{prefix}\.([0-9]+)\.", name))}
    missing = next((number for number in range(len(found)) if str(number) not in found), None)
    if missing is not None or not found:
        raise RequestError(f"{where}: {len(found)} blocks {prefix}, and {prefix}.{missing or 0} is not among them")
    if len(found) > _MOST_BLOCKS:
        raise RequestError(f"{where}: {len(found):,} blocks {prefix}: no network has more than {_MOST_BLOCKS}")
    return len(found)


def _grid(count: int | None, num_prefix: int) -> tuple[int | None, bool]:
    """Returns (patches along a side, whether prefix tokens have positions) for a number of position embeddings."""
    if count is None:
        return None, False
    for prefix in dict.fromkeys((num_prefix, 0)):
        side = round(max(0, count - prefix) ** 0.5)
        if side and side * side == count - prefix:
            return side, prefix > 0
    return None, False


def heads_of(found: Found, shape: VitShape, heads: Heads, origin: str) -> tuple[int, str]:
    """Returns the number of a ViT's attention heads, and who says so.

    Args:
        found: the file.
        shape: what its tensors show.
        heads: what the layout knows.
        origin: in words, who says it where the layout does.

    Raises:
        RequestError: Nobody does, or what the user says cannot be.
    """
    told, arch = found.settings.num_heads, found.settings.arch
    of_arch = arch_heads(arch, shape, found.where) if arch is not None else None
    if told is not None:
        if shape.width % told:
            text = f"does not divide the width {shape.width}"
            raise RequestError(text, where=found.where, field="num_heads", found=told)
        return told, "as given"
    if of_arch is not None:
        return of_arch, f"of {arch}, as given"
    if callable(heads):
        known = heads(shape)
    else:
        known = heads.get((shape.width, shape.depth, shape.patch), heads.get((shape.width, shape.depth)))
    if known is not None:
        return known, origin
    raise RequestError(
        f"{found.where}: the number of attention heads is not in the tensors, and a ViT {shape.words} has "
        f"{_candidates(shape.width)}: give {asked('num_heads')}, or {asked('arch')} with a name of timm"
    )


def _candidates(width: int) -> str:
    if width in _CANDIDATES:
        return _CANDIDATES[width]
    divisors = [number for number in range(1, width // 16 + 1) if width % number == 0 and width // number % 8 == 0]
    return "one of " + listed(map(str, divisors), 8) if divisors else "an unknown number of them"


def arch_heads(arch: str, shape: VitShape, where: str) -> int:
    """Returns the number of heads of a ViT of timm, which must have the dimensions of the file.

    Raises:
        RequestError: It is unknown, no ViT, or has other dimensions.
    """
    model = named_on_meta(arch, where)
    if not isinstance(model, VisionTransformer | Eva):
        raise RequestError(
            f"{where}: {asked('arch', arch)} is a {type(model).__name__}; the file's tensors are a ViT's"
        )
    block: Any = model.blocks[0]
    patch = model.patch_embed.patch_size[0]
    theirs = int(model.embed_dim), len(model.blocks), int(patch)
    if theirs != (shape.width, shape.depth, shape.patch):
        raise RequestError(
            f"{asked('arch', arch)} is {theirs[0]} wide, {theirs[1]} blocks deep, with patches of {theirs[2]} pixels; "
            f"the file's ViT is {shape.words}",
            where=where,
            remedy=f"{asked('num_heads')} says the number of heads alone",
        )
    return int(block.attn.num_heads)


def named_on_meta(arch: str, where: str) -> torch.nn.Module:
    """Returns a network of timm without values in its tensors.

    Raises:
        RequestError: timm has none of this name, or cannot make it.
    """
    build = partial(timm.create_model, arch, num_classes=0)
    return on_meta(build, arch, f"{where}: {asked('arch', arch)}: timm does not make it")


def on_meta(build: Callable[[], torch.nn.Module], arch: str, problem: str) -> torch.nn.Module:
    """Returns what `build` makes of an architecture of timm, without values in its tensors.

    Args:
        build: has timm make it.
        arch: timm's name.
        problem: what is said where timm cannot; its reason follows.

    Raises:
        RequestError: timm has none of this name, or cannot make it so.
    """
    if not timm.is_model(arch):
        raise unknown_name("timm architecture", arch, timm.list_models())
    try:
        with torch.device("meta"), Outline():
            return build()
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise RequestError(f"{problem}: {one_line(error)}") from None
