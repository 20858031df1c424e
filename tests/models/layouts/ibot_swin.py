"""iBOT's Swin transformers: backbone files, with the tables of window positions that old versions stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.models.layouts import Layout, Made, Published
from tests.models.reference_swin import SourceSwin, make_swin


def write(source: SourceSwin) -> Any:
    return {"state_dict": {**source.t, "masked_embed": torch.randn(1, source.t["patch_embed.proj.bias"].numel())}}


def make(folder: Path) -> Made:
    source = make_swin(side=64, window=4, depths=(2, 1, 2, 1), width=12, heads=(1, 2, 3, 4))
    torch.save(write(source), folder / "checkpoint_teacher.pth")
    return Made(
        path=folder / "checkpoint_teacher.pth",
        source=source.mean,
        side=64,
        other_side=128,
        crop=64,
        heads=1,
        patch=4,
        left_out=frozenset({"table of window positions", "mask token"}),
    )


def _published(window: int) -> Published:
    sizes: dict[str, Any] = {"depths": (2, 2, 6, 2), "width": 96, "heads": (3, 6, 12, 24)}
    return Published(
        content=lambda: write(make_swin(side=224, window=window, device="meta", **sizes)),
        heads=None,
        crop=224,
        arch=f"swin_tiny_patch4_window{window}_224",
    )


LAYOUT = Layout(
    adapter="ibot_swin",
    read_in="bytedance/ibot c24f870 models/swin_transformer.py, evaluation/eval_knn.py",
    make=make,
    published={f"swint{window}": _published(window) for window in (7, 14)},
)
