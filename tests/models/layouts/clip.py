"""OpenAI's CLIP: both towers and three numbers."""

from __future__ import annotations

from typing import Any

from tests.models.layouts import Published
from tests.models.reference_vit import CLIP_MEAN, CLIP_STD, SourceVit, make_vit, quick_gelu
from tests.models.vit_layouts import layout, openai_clip, published

OPTIONS: dict[str, Any] = {"pre_norm": True, "patch_bias": False, "project": 24, "eps": 1e-5}


def _published(width: int, depth: int, arch: str, **sizes: Any) -> Published:
    return published(openai_clip, width, depth, width // 64, arch, **{**OPTIONS, **sizes})


LAYOUT = layout(
    "clip",
    openai_clip,
    lambda: make_vit(**OPTIONS, width=128, act=quick_gelu),
    feature=SourceVit.projection,
    any_size=False,
    known_heads=True,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    left_out=frozenset({"text tower", "scale of the loss", "sizes"}),
    published={
        "vitb32": _published(768, 12, "vit_base_patch32", patch=32, grid=7),
        "vitb16": _published(768, 12, "vit_base_patch16"),
        "vitl14": _published(1024, 24, "vit_large_patch14", patch=14, grid=16),
        "vitl14-336": _published(1024, 24, "vit_large_patch14", patch=14, grid=24, crop=336),
    },
)
