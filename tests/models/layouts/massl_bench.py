"""A checkpoint of this package's trainer: its configuration says heads, size, mean and std."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from massl_bench.pretrain.loop.checkpoint import write_whole
from tests.models.layouts import Layout, Made, at_any_size, dino_positions, prefixed, tiny_vit


def make(folder: Path) -> Made:
    teacher, student = (tiny_vit(seed=seed, width=128, heads=2) for seed in (7, 8))
    head = {"head.mlp.0.weight": torch.randn(8, 128)}
    content: dict[str, Any] = {
        "format": 2,
        "step": 5,
        "teacher": {**prefixed("backbone.", teacher.state_dict()), **head},
        "student": {**prefixed("backbone.", student.state_dict()), **head},
        "optimiser": {"state": {0: {"exp_avg": torch.randn(3)}}},
        "scaler": {},
        "method": {"memory": torch.randn(4, 8), "pointer": 0},
        "config": {
            "method": "massl",
            "batch_size": 2,
            "backbone": {"arch": "vit", "embed_dim": 128, "depth": 2, "patch_size": 8},
            "views": {"global_1": {"size": 32}, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]},
        },
        "data": {"reference": "x", "fingerprint": "0" * 64, "images": 10},
    }
    write_whole(folder / "checkpoint-00000005.pth", content)
    return Made(
        path=folder / "checkpoint-00000005.pth",
        source=at_any_size(teacher, dino_positions),
        side=32,
        other_side=48,
        crop=32,
        heads=2,
        patch=8,
        mean=(0.4, 0.4, 0.4),
        std=(0.2, 0.2, 0.2),
        twins={"student": at_any_size(student, dino_positions)},
        left_out=frozenset({"projector", "the student", "optimizer", "state of the method"}),
    )


LAYOUT = Layout(adapter="massl_bench", read_in="this package: pretrain/loop/checkpoint.py", make=make)
