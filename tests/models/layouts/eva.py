"""EVA-02's base and large: sub-layer norms, gate and value apart, rotated queries and keys, absolute positions beside.

The forward pass is written out from EVA-02/asuka/modeling_finetune.py and rope.py of baaivision/EVA, revision 006ca79.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from tests.models.layouts import Layout, Made, Published
from tests.models.reference_vit import to_size

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(kw_only=True)
class Eva:
    """A network by its official tensors: images of 32 pixels, patches of 8, two blocks; rotations count in `grid`."""

    t: dict[str, Tensor]
    heads: int
    grid: int = 4
    patch: int = 8

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the mean of the patch tokens, normed after."""
        t, batch = self.t, len(images)
        patches = functional.conv2d(images, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=self.patch)
        side, width = patches.shape[-1], patches.shape[1]
        learnt = t["pos_embed"][0, 1:]
        positions = learnt if side * side == len(learnt) else to_size(learnt, side, side)
        x = torch.cat(
            [
                (t["cls_token"] + t["pos_embed"][:, :1]).expand(batch, 1, width),
                patches.flatten(2).transpose(1, 2) + positions,
            ],
            dim=1,
        )
        table = rotary_table(side, self.grid, width // self.heads) if "rope.freqs_cos" in t else None
        for block in range(2):
            at = f"blocks.{block}."
            x = x + self._attention(self._norm(x, f"{at}norm1"), f"{at}attn.", table)
            x = x + self._mlp(self._norm(x, f"{at}norm2"), f"{at}mlp.")
        return self._norm(x[:, 1:].mean(1), "norm" if "norm.weight" in t else "fc_norm")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.t[f"{name}.weight"]
        return functional.layer_norm(x, weight.shape, weight, self.t[f"{name}.bias"], 1e-6)

    def _attention(self, x: Tensor, at: str, table: tuple[Tensor, Tensor] | None) -> Tensor:
        t, (batch, count, width) = self.t, x.shape
        if f"{at}qkv.weight" in t:
            parts = t[f"{at}qkv.weight"].chunk(3)
        else:
            parts = tuple(t[f"{at}{part}_proj.weight"] for part in "qkv")
        biases = t[f"{at}q_bias"], None, t[f"{at}v_bias"]
        q, k, v = (
            functional.linear(x, weight, bias).reshape(batch, count, self.heads, -1).transpose(1, 2)
            for weight, bias in zip(parts, biases, strict=True)
        )
        if table is not None:
            q, k = (torch.cat([each[:, :, :1], turned(each[:, :, 1:], *table)], dim=2) for each in (q, k))
        shares = (q @ k.transpose(-1, -2) / math.sqrt(width / self.heads)).softmax(-1)
        return functional.linear(
            (shares @ v).transpose(1, 2).reshape(batch, count, width), t[f"{at}proj.weight"], t[f"{at}proj.bias"]
        )

    def _mlp(self, x: Tensor, at: str) -> Tensor:
        if f"{at}fc1.weight" in self.t:
            return self._linear(functional.gelu(self._linear(x, f"{at}fc1")), f"{at}fc2")
        if f"{at}w12.weight" in self.t:
            gate, value = self._linear(x, f"{at}w12").chunk(2, dim=-1)
        else:
            gate, value = self._linear(x, f"{at}w1"), self._linear(x, f"{at}w2")
        hidden = functional.silu(gate) * value
        if f"{at}ffn_ln.weight" in self.t:
            hidden = self._norm(hidden, f"{at}ffn_ln")
        return self._linear(hidden, f"{at}w3")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"])


def rotary_table(side: int, grid: int, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [side², dim]: neighbouring dimensions turn together, rows in the first half of them."""
    frequencies = 1 / 10000 ** (torch.arange(0, dim // 2, 2).float() / (dim // 2))
    angles = torch.outer(torch.arange(side) / side * grid, frequencies).repeat_interleave(2, dim=1)
    both = torch.cat([angles[:, None].expand(side, side, -1), angles[None].expand(side, side, -1)], dim=-1)
    return both.reshape(side * side, dim).cos(), both.reshape(side * side, dim).sin()


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cosines + torch.stack([-second, first], dim=-1).flatten(-2) * sines


def make_eva(
    *, width: int = 64, heads: int = 2, hidden: int = 96, mlp: str = "apart", fused: bool = False, rotary: bool = True,
    norm: str = "norm", patch: int = 8, grid: int = 4, depth: int = 2, device: str = "cpu",
) -> Eva:  # fmt: skip
    """Returns a network with values of its own: without sub-layer norms where its projections are fused."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta") if device == "meta" else 0.2 * torch.randn(shape, generator=generator)

    t: dict[str, Tensor] = {
        "cls_token": drawn(1, 1, width),
        "pos_embed": drawn(1, 1 + grid**2, width),
        "patch_embed.proj.weight": drawn(width, 3, patch, patch),
        "patch_embed.proj.bias": drawn(width),
    }

    def layer(name: str, out: int, into: int | None = None) -> None:
        t[f"{name}.weight"] = drawn(out, into) if into is not None else 1 + drawn(out)
        t[f"{name}.bias"] = drawn(out)

    for block in range(depth):
        at = f"blocks.{block}."
        layer(f"{at}norm1", width)
        for part in ("q", "v"):
            t[f"{at}attn.{part}_bias"] = drawn(width)
        for name in ("qkv",) if fused else ("q_proj", "k_proj", "v_proj"):
            t[f"{at}attn.{name}.weight"] = drawn(3 * width if fused else width, width)
        layer(f"{at}attn.proj", width, width)
        layer(f"{at}norm2", width)
        if mlp == "plain":
            layer(f"{at}mlp.fc1", hidden, width)
            layer(f"{at}mlp.fc2", width, hidden)
        elif mlp == "packed":
            layer(f"{at}mlp.w12", 2 * hidden, width)
            layer(f"{at}mlp.w3", width, hidden)
        else:
            layer(f"{at}mlp.w1", hidden, width)
            layer(f"{at}mlp.w2", hidden, width)
            layer(f"{at}mlp.ffn_ln", hidden)
            layer(f"{at}mlp.w3", width, hidden)
    layer(norm, width)
    if rotary:
        cosines, sines = rotary_table(grid, grid, width // heads)
        for place in ("rope", *(f"blocks.{block}.attn.rope" for block in range(depth))):  # one module, many names
            t |= {f"{place}.freqs_cos": cosines, f"{place}.freqs_sin": sines}
    return Eva(t=t, heads=heads, grid=grid, patch=patch)


def pretrained(network: Eva) -> Any:
    """Returns a published file: the network that was trained to predict masked features."""
    like = network.t["patch_embed.proj.bias"]
    more = {"mask_token": torch.ones_like(like)[None, None], "lm_head.bias": torch.ones_like(like)}
    more["lm_head.weight"] = network.t["blocks.0.attn.proj.weight"] * 2
    return {"model": {**network.t, **more}}


def eva_layout(
    left_out: frozenset[str],
    *,
    known_heads: bool = True,
    write: Callable[[Eva], Any] = pretrained,
    published: dict[str, Published] | None = None,
    **options: Any,
) -> Layout:
    def make(folder: Path) -> Made:
        network = make_eva(**options)
        torch.save(write(network), folder / "eva.pt")
        return Made(
            path=folder / "eva.pt",
            source=network,
            side=32,
            other_side=48,
            crop=32,
            heads=network.heads,
            patch=8,
            mean=CLIP_MEAN,
            std=CLIP_STD,
            settings=NO_SETTINGS if known_heads else ModelSettings(num_heads=network.heads),
            left_out=left_out,
        )

    return Layout(adapter="eva", read_in="baaivision/EVA 006ca79 EVA-02/asuka", make=make, published=published or {})


def published_eva(width: int, depth: int, heads: int, hidden: int, crop: int = 224, **options: Any) -> Published:
    """Returns a published file's shapes: patches of 14, at 224 pixels."""
    sizes: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "hidden": hidden,
        "patch": 14,
        "grid": crop // 14,
    }
    return Published(
        content=lambda: pretrained(make_eva(device="meta", **sizes, **options)),
        heads=heads,
        crop=crop,
        arch=f"eva_width{width}_depth{depth}_heads{heads}_patch14",
    )


PREDICTION = frozenset({"mask token", "head of the masked prediction"})

LAYOUT = eva_layout(
    PREDICTION | {"rotary table, which is computed"},
    published={"base": published_eva(768, 12, 12, 2048), "large": published_eva(1024, 24, 16, 2730)},
)
