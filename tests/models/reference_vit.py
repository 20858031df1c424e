"""A ViT written out from the papers and the official code, by which files in published layouts are checked.

Shapes: B images, N patches, T tokens, D width, H heads, E dimensions of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

Positions = Callable[[Tensor, int, int], Tensor]
"""From position embeddings [N, D] of a square grid to those of another grid (rows, columns)."""


def offset(learnt_ND: Tensor, rows: int, columns: int) -> Tensor:
    """DINO's and DINOv2's `interpolate_pos_encoding`: scale factors with 0.1 added to the number of patches."""
    return _map(learnt_ND, lambda grid, side: {"scale_factor": ((rows + 0.1) / side, (columns + 0.1) / side)})


def one_scale(learnt_ND: Tensor, rows: int, columns: int) -> Tensor:
    """MSN's: one scale factor, the square root of the ratio of the numbers of patches."""
    scale = math.sqrt(rows * columns / len(learnt_ND))
    return _map(learnt_ND, lambda grid, side: {"scale_factor": scale})


def to_size(learnt_ND: Tensor, rows: int, columns: int) -> Tensor:
    """MAE's and transformers': bicubic to the size."""
    return _map(learnt_ND, lambda grid, side: {"size": (rows, columns)})


def antialiased(learnt_ND: Tensor, rows: int, columns: int) -> Tensor:
    """DINOv2's with registers, open_clip's."""
    return _map(learnt_ND, lambda grid, side: {"size": (rows, columns), "antialias": True})


def _map(learnt_ND: Tensor, options: Callable[[Tensor, int], dict[str, object]]) -> Tensor:
    side = math.isqrt(len(learnt_ND))
    grid = learnt_ND.T.reshape(1, -1, side, side)
    resized: Tensor = functional.interpolate(grid, mode="bicubic", align_corners=False, **options(grid, side))  # type: ignore[arg-type]
    return resized.flatten(2)[0].T


@dataclass(kw_only=True)
class SourceVit:
    """A network by its tensors, under neutral names.

    `patch.w/b`, `cls`, `reg` [R, D], `pos` [N (+ 1), D], `pre.w/b`, `norm.w/b`, `proj` [D, F], `periods`, and of
    block i `i.n1.w/b`, `i.q/k/v/o.w/b`, `i.ls1`, `i.n2.w/b`, `i.fc1.w/b` (or `i.gate.w/b`, `i.up.w/b`), `i.fc2.w/b`,
    `i.ls2`.
    """

    t: dict[str, Tensor]
    heads: int
    depth: int
    patch: int
    eps: float = 1e-6
    act: Callable[[Tensor], Tensor] = field(default=functional.gelu)
    positions: Positions = offset

    @property
    def width(self) -> int:
        return len(self.t["norm.w"])

    def before_norm(self, images_B3HW: Tensor) -> Tensor:
        """Returns the last block's tokens [B, T, D]: class token, registers, patches."""
        t, patch = self.t, self.patch
        patches = functional.conv2d(images_B3HW, t["patch.w"], t.get("patch.b"), stride=patch)
        rows, columns = patches.shape[-2:]
        x_BTD = patches.flatten(2).transpose(1, 2)
        x_BTD = self._prefixed(x_BTD, rows, columns)
        if "pre.w" in t:
            x_BTD = self._norm(x_BTD, "pre")
        turn = self._turns(rows, columns) if "periods" in t else None
        for block in range(self.depth):
            x_BTD = x_BTD + self._attention(self._norm(x_BTD, f"{block}.n1"), block, turn) * t.get(f"{block}.ls1", 1)
            x_BTD = x_BTD + self._mlp(self._norm(x_BTD, f"{block}.n2"), block) * t.get(f"{block}.ls2", 1)
        return x_BTD

    def tokens(self, images_B3HW: Tensor) -> Tensor:
        """Returns the tokens [B, T, D] after the final norm."""
        return self._norm(self.before_norm(images_B3HW), "norm")

    @property
    def num_prefix(self) -> int:
        return ("cls" in self.t) + len(self.t.get("reg", ()))

    def token(self, images: Tensor) -> Tensor:
        return self.tokens(images)[:, 0]

    def mean(self, images: Tensor) -> Tensor:
        return self.tokens(images)[:, self.num_prefix :].mean(1)

    def token_before_norm(self, images: Tensor) -> Tensor:
        return self.before_norm(images)[:, 0]

    def projection(self, images: Tensor) -> Tensor:
        return self.token(images) @ self.t["proj"]

    def normed_mean(self, images: Tensor) -> Tensor:
        """Of a network that was fine-tuned on the mean: that, and then the norm."""
        return self._norm(self.before_norm(images)[:, self.num_prefix :].mean(1), "norm")

    def _prefixed(self, x_BND: Tensor, rows: int, columns: int) -> Tensor:
        t, batch = self.t, len(x_BND)
        first = t.get("pos", torch.zeros(0, self.width))
        cls = [t["cls"]] if "cls" in t else []
        if "pos" in t:
            learnt = first[len(cls) :]
            grid = math.isqrt(len(learnt))
            x_BND = x_BND + (learnt if (rows, columns) == (grid, grid) else self.positions(learnt, rows, columns))
            cls = [token + first[0] for token in cls]
        prefix = [token[None, None].expand(batch, 1, -1) for token in [*cls, *t.get("reg", ())]]
        return torch.cat([*prefix, x_BND], dim=1)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (self.width,), self.t[f"{name}.w"], self.t[f"{name}.b"], self.eps)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.t[f"{name}.w"], self.t.get(f"{name}.b"))

    def _attention(self, x_BTD: Tensor, block: int, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, count, width = x_BTD.shape
        q, k, v = (
            self._linear(x_BTD, f"{block}.{part}").reshape(batch, count, self.heads, -1).transpose(1, 2)
            for part in "qkv"
        )
        if turn is not None:
            q, k = (self._turned(each, turn) for each in (q, k))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(width / self.heads)).softmax(-1)
        return self._linear((weights @ v).transpose(1, 2).reshape(batch, count, width), f"{block}.o")

    def _mlp(self, x: Tensor, block: int) -> Tensor:
        if f"{block}.gate.w" in self.t:
            hidden = functional.silu(self._linear(x, f"{block}.gate")) * self._linear(x, f"{block}.up")
        else:
            hidden = self.act(self._linear(x, f"{block}.fc1"))
        return self._linear(hidden, f"{block}.fc2")

    def _turns(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Returns (sine, cosine) [N, E] of DINOv3's rotary positions: coordinates of patch centres in [-1, 1]."""
        y, x = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in (rows, columns))
        coords_N2 = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
        angles = (2 * math.pi * coords_N2[:, :, None] / self.t["periods"]).flatten(1).tile(2)
        return angles.sin(), angles.cos()

    def _turned(self, x_BHTE: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        prefix, patches = x_BHTE[:, :, : self.num_prefix], x_BHTE[:, :, self.num_prefix :]
        first, second = patches.chunk(2, dim=-1)
        return torch.cat([prefix, patches * turn[1] + torch.cat([-second, first], dim=-1) * turn[0]], dim=2)


def make_vit(
    *,
    width: int = 64,
    depth: int = 2,
    heads: int = 2,
    patch: int = 8,
    grid: int | None = 4,
    hidden: int = 96,
    gated: bool = False,
    registers: int = 0,
    scales: bool = False,
    cls: bool = True,
    key_bias: bool = True,
    qkv_bias: bool = True,
    patch_bias: bool = True,
    pre_norm: bool = False,
    periods: bool = False,
    project: int = 0,
    device: str = "cpu",
    eps: float = 1e-6,
    act: Callable[[Tensor], Tensor] = functional.gelu,
    positions: Positions = offset,
) -> SourceVit:
    """Returns a network with values from a fixed seed; without values on the device `meta`."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int, scale: float = 0.1, around: float = 0.0) -> Tensor:
        if device == "meta":
            return torch.empty(shape, device="meta")
        return around + scale * torch.randn(shape, generator=generator)

    t: dict[str, Tensor] = {"patch.w": drawn(width, 3, patch, patch)}
    t |= {"patch.b": drawn(width)} if patch_bias else {}
    t |= {"cls": drawn(width)} if cls else {}
    t |= {"reg": drawn(registers, width)} if registers else {}
    t |= {"pos": drawn(grid * grid + cls, width, scale=0.5)} if grid else {}
    norms = ["norm"] + (["pre"] if pre_norm else [])
    layers: dict[str, tuple[int, int]] = {}
    for block in range(depth):
        norms += [f"{block}.n1", f"{block}.n2"]
        layers |= {f"{block}.{part}": (width, width) for part in "qkvo"}
        layers |= {f"{block}.{part}": (hidden, width) for part in (("gate", "up") if gated else ("fc1",))}
        layers[f"{block}.fc2"] = (width, hidden)
        t |= {f"{block}.ls{n}": drawn(width, around=1.0) for n in (1, 2)} if scales else {}
    for name in norms:
        t |= {f"{name}.w": drawn(width, around=1.0), f"{name}.b": drawn(width)}
    for name, shape in layers.items():
        t[f"{name}.w"] = drawn(*shape, scale=0.15)
        if name[-1] not in "qkv" or (qkv_bias and (key_bias or name[-1] != "k")):
            t[f"{name}.b"] = drawn(shape[0])
    t |= {"proj": drawn(width, project)} if project else {}
    if periods:
        size = width // heads // 4
        # As published: rounded to bfloat16, which differs from what timm computes.
        t["periods"] = (100.0 ** (torch.arange(size) * 2 / (size * 2))).bfloat16().float()
    return SourceVit(t=t, heads=heads, depth=depth, patch=patch, eps=eps, act=act, positions=positions)


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def with_computed_periods(source: SourceVit) -> SourceVit:
    """Gives a network its rotary periods as they are computed, not rounded: transformers stores none."""
    count = len(source.t["periods"])
    source.t["periods"] = 100.0 ** (torch.arange(count) * 2 / (count * 2))
    return source


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def with_fixed_positions(source: SourceVit) -> SourceVit:
    """Gives a network the position embeddings of MAE and MoCo v3: sines and cosines of columns, then of rows."""
    quarter, grid = source.width // 4, math.isqrt(len(source.t["pos"]))
    rates = 10000.0 ** -(torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    by_column, by_row = line.repeat(grid, 1), line.repeat_interleave(grid, 0)
    source.t["pos"] = torch.cat([torch.zeros(1, source.width), torch.cat([by_column, by_row], dim=1)])
    return source
