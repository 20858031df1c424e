"""Swin transformers in their authors' names, from a file's shapes: what adapters call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import own_size
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Found, Network
from massl_bench.models.networks.swin import WholeWindowsSwin
from massl_bench.models.shapes import count_blocks
from massl_bench.models.timm_config import timm_filter

SWIN_MARKS = frozenset({"layers.0.blocks.0.attn.relative_position_bias_table", "layers.0.downsample.reduction.weight"})
"""Tensors of a Swin in its authors' names: timm has the downsampling at the beginning of the next stage."""

SWIN_TABLES: Mapping[str, str] = {"layers.*.blocks.*.attn.relative_position_index": "table of window positions"}
"""What lies among its tensors and is computed anew, as `Adapter.inside` says it."""

_SIZES: Mapping[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}


def swin(found: Found, *, eps: float, evaluation_origin: str, feature_origin: str) -> Network:
    """Returns the Swin that the tensors are; its feature is the mean of the last map after the norm.

    The window of each stage, and the heads, are in the shape of its table of positions. The last stage's window is
    that whole stage: so the tables tell the size of the images that the windows were laid out for.

    Args:
        found: the file in the authors' names.
        eps: of the norms.
        evaluation_origin: where the preprocessing was read.
        feature_origin: who evaluates this feature.

    Raises:
        RequestError: The shapes are no Swin's, or not those of the architecture that the user says.
    """
    projection = found.shape("patch_embed.proj.weight")
    stages = count_blocks(found.tensors, "layers", found.where)
    tables = [found.shape(f"layers.{stage}.blocks.0.attn.relative_position_bias_table") for stage in range(stages)]
    hidden = found.shape("layers.0.blocks.0.mlp.fc1.weight")
    if len(projection) != 4 or not hidden or not all(len(table) == 2 and table[1] for table in tables):
        raise RequestError(f"{found.where}: not a Swin in its authors' names: patch_embed, MLP or a table is missing")
    width, patch = projection[0], projection[-1]
    depths = tuple(count_blocks(found.tensors, rf"layers\.{stage}\.blocks", found.where) for stage in range(stages))
    windows = [(math.isqrt(table[0]) + 1) // 2 for table in tables]
    side, told = windows[-1] * 2 ** (stages - 1) * patch, found.settings.arch
    arch = f"swin_{_SIZES.get((width, depths), f'width{width}')}_patch{patch}_window{windows[0]}_{side}"
    if told is not None and told != arch:
        raise RequestError(f"{found.where}: {asked('arch', told)}: the shapes of its tensors say {arch}")
    options: dict[str, Any] = {
        "img_size": side,
        "patch_size": patch,
        "window_size": windows[0],
        "embed_dim": width,
        "depths": depths,
        "num_heads": tuple(table[1] for table in tables),
        "mlp_ratio": hidden[0] / width,
        "norm_layer": partial(nn.LayerNorm, eps=eps),
    }
    return Network(
        architecture=arch,
        build=partial(WholeWindowsSwin, num_classes=0, strict_img_size=False, **options),
        own_feature="avg",
        preprocessing=own_size(side),
        preprocessing_origin=evaluation_origin,
        rename=partial(timm_filter, "swin_tiny_patch4_window7_224"),
        origins={
            "architecture": "the file's shapes",
            "heads": "the file's tables of window positions",
            "pooling": feature_origin,
            "size": f"its last windows of {windows[-1]} × {windows[-1]} tokens",
        },
    )
