"""MaSSL's trainer: student under DistributedDataParallel, teacher without; a head each, memory and optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

from tests.models.layouts import Layout, Made, Published, at_any_size, dino_positions, on_meta, prefixed, tiny_vit
from tests.models.published import trained, write_zip


def make(folder: Path) -> Made:
    """One head of 64, as the trainer makes a ViT 64 wide."""
    teacher, student = (tiny_vit(seed=seed, heads=1) for seed in (1, 2))
    head = {"head.mlp.0.weight": torch.randn(8, 64), "head.mlp.0.bias": torch.randn(8)}
    content: dict[str, Any] = {
        "teacher": {**prefixed("backbone.", teacher.state_dict()), **head},
        "student": prefixed("module.", {**prefixed("backbone.", student.state_dict()), **head}),
        "memory_bank": {"queue": torch.randn(8, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)},
        "epoch": 3,
    }
    return Made(
        path=write_zip(trained(content), folder / "checkpoint.pth"),
        source=at_any_size(teacher, dino_positions),
        side=32,
        other_side=48,
        crop=32,
        heads=1,
        patch=8,
        twins={"student": at_any_size(student, dino_positions)},
        left_out=frozenset({"projector", "the student", "memory", "optimizer"}),
    )


def _full(arch: str) -> Any:
    tensors = prefixed("backbone.", on_meta(lambda: timm.create_model(arch, num_classes=0)))
    return {"teacher": tensors, "student": prefixed("module.", tensors), "epoch": 1}


LAYOUT = Layout(
    adapter="massl",
    read_in="facebookresearch/dino 7c446df main_dino.py; MaSSL 0fa1456",
    make=make,
    published={
        "vits16": Published(content=lambda: _full("vit_small_patch16_224"), heads=6, crop=224, arch="vit_small"),
        "vitb16": Published(content=lambda: _full("vit_base_patch16_224"), heads=12, crop=224, arch="vit_base"),
        "vitl16": Published(content=lambda: _full("vit_large_patch16_224"), heads=16, crop=224, arch="vit_large"),
        "carp": Published(content=lambda: _full("resnet50"), heads=None, crop=224, arch="resnet50"),
    },
)
