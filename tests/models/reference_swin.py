"""A Swin transformer written out from its paper and official code, by which files in iBOT's layout are checked.

Shapes: B images, H × W tokens of a map, D width, N tokens of a window (w × w), h heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class SourceSwin:
    """A network by its tensors, under its authors' names; windows are those of the size that it was made for."""

    t: State
    side: int
    window: int
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    patch: int = 4
    eps: float = 1e-6

    def mean(self, images_B3SS: Tensor) -> Tensor:
        """Returns the mean of the last map after the norm: `forward`, and `get_intermediate_layers(…)[0][:, 0]`."""
        x = functional.conv2d(
            images_B3SS, self.t["patch_embed.proj.weight"], self.t["patch_embed.proj.bias"], self.patch
        )
        x_BHWD = self._norm(x.permute(0, 2, 3, 1), "patch_embed.norm")
        for stage, depth in enumerate(self.depths):
            made_for = self.side // self.patch // 2**stage
            for block in range(depth):
                window = min(self.window, made_for)
                shift = self.window // 2 if block % 2 and made_for > self.window else 0
                x_BHWD = self._block(x_BHWD, f"layers.{stage}.blocks.{block}.", self.heads[stage], window, shift)
            if stage < len(self.depths) - 1:
                parts = [x_BHWD[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
                merged = self._norm(torch.cat(parts, -1), f"layers.{stage}.downsample.norm")
                x_BHWD = merged @ self.t[f"layers.{stage}.downsample.reduction.weight"].T
        return self._norm(x_BHWD, "norm").mean((1, 2))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.t[f"{name}.weight"]
        return functional.layer_norm(x, weight.shape, weight, self.t[f"{name}.bias"], self.eps)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def _block(self, x_BHWD: Tensor, at: str, heads: int, window: int, shift: int) -> Tensor:
        batch, side, _, width = x_BHWD.shape
        turned = torch.roll(self._norm(x_BHWD, f"{at}norm1"), (-shift, -shift), (1, 2))
        across = side // window
        windows = turned.reshape(batch, across, window, across, window, width).transpose(2, 3)
        tokens_XND = windows.reshape(-1, window * window, width)
        mask = _mask(side, window, shift) if shift else None
        tokens_XND = self._attention(tokens_XND, f"{at}attn.", heads, window, mask)
        back = tokens_XND.reshape(batch, across, across, window, window, width).transpose(2, 3)
        x_BHWD = x_BHWD + torch.roll(back.reshape(batch, side, side, width), (shift, shift), (1, 2))
        hidden = functional.gelu(self._linear(self._norm(x_BHWD, f"{at}norm2"), f"{at}mlp.fc1"))
        return x_BHWD + self._linear(hidden, f"{at}mlp.fc2")

    def _attention(self, x_XND: Tensor, at: str, heads: int, window: int, mask_GNN: Tensor | None) -> Tensor:
        count, tokens, width = x_XND.shape
        q, k, v = self._linear(x_XND, f"{at}qkv").reshape(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores_XhNN = q @ k.transpose(-1, -2) / (width // heads) ** 0.5
        table = self.t[f"{at}relative_position_bias_table"]
        scores_XhNN = scores_XhNN + table[relative_positions(window)].permute(2, 0, 1)
        if mask_GNN is not None:
            scores_XhNN = scores_XhNN + mask_GNN.repeat(count // len(mask_GNN), 1, 1)[:, None]
        mixed = (scores_XhNN.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, width)
        return self._linear(mixed, f"{at}proj")


def relative_positions(window: int) -> Tensor:
    """Returns the row of the table of biases for each pair of tokens of a window: [N, N]."""
    coordinates = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = coordinates[:, None] - coordinates[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def _mask(side: int, window: int, shift: int) -> Tensor:
    """Returns -100 for pairs of a shifted window whose tokens come from two ends of the image: [windows, N, N]."""
    band = torch.zeros(side, dtype=torch.long)
    band[-window:] += 1
    band[-shift:] += 1
    region = band[:, None] * 3 + band
    across = side // window
    windows = region.reshape(across, window, across, window).transpose(1, 2).reshape(-1, window * window)
    return torch.where(windows[:, None] == windows[:, :, None], 0.0, -100.0)


def make_swin(
    *, side: int, window: int, depths: tuple[int, ...], width: int, heads: tuple[int, ...], device: str = "cpu"
) -> SourceSwin:
    """Returns a network with values from a fixed seed; without values on the device `meta`."""
    generator = torch.Generator().manual_seed(0)
    t: State = {}

    def drawn(name: str, *shape: int, scale: float = 0.15, around: float = 0.0) -> None:
        values = torch.empty(shape, device="meta") if device == "meta" else None
        t[name] = values if values is not None else around + scale * torch.randn(shape, generator=generator)

    def norm(name: str, size: int) -> None:
        drawn(f"{name}.weight", size, around=1.0)
        drawn(f"{name}.bias", size)

    def linear(name: str, inputs: int, outputs: int) -> None:
        drawn(f"{name}.weight", outputs, inputs)
        drawn(f"{name}.bias", outputs)

    drawn("patch_embed.proj.weight", width, 3, 4, 4)
    drawn("patch_embed.proj.bias", width)
    norm("patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        size, here = width * 2**stage, min(window, side // 4 // 2**stage)
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}."
            norm(f"{at}norm1", size)
            drawn(f"{at}attn.relative_position_bias_table", (2 * here - 1) ** 2, heads[stage], scale=0.5)
            t[f"{at}attn.relative_position_index"] = relative_positions(here).to(device)
            linear(f"{at}attn.qkv", size, 3 * size)
            linear(f"{at}attn.proj", size, size)
            norm(f"{at}norm2", size)
            linear(f"{at}mlp.fc1", size, 4 * size)
            linear(f"{at}mlp.fc2", 4 * size, size)
        if stage < len(depths) - 1:
            drawn(f"layers.{stage}.downsample.reduction.weight", 2 * size, 4 * size)
            norm(f"layers.{stage}.downsample.norm", 4 * size)
    norm("norm", width * 2 ** (len(depths) - 1))
    return SourceSwin(t=t, side=side, window=window, heads=heads, depths=depths)
