"""iBOT's trainer with a Swin: student and teacher, each a backbone and a head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.models.layouts import Layout, Made, prefixed
from tests.models.published import trained, write_zip
from tests.models.reference_swin import make_swin
from tests.models.vit_layouts import dino_head


def make(folder: Path) -> Made:
    teacher = make_swin(side=32, window=2, depths=(1, 2, 1), width=8, heads=(1, 2, 2))
    values = {name: tensor * 0.9 if tensor.is_floating_point() else tensor for name, tensor in teacher.t.items()}
    student = replace(teacher, t=values)
    content = {
        "teacher": {**prefixed("backbone.", teacher.t), **dino_head("head.")},
        "student": prefixed(
            "module.", {**prefixed("backbone.", {**student.t, "masked_embed": torch.randn(1, 8)}), **dino_head("head.")}
        ),
        "ibot_loss": {"center": torch.randn(1, 4)},
        "epoch": 3,
    }
    return Made(
        path=write_zip(trained(content), folder / "checkpoint.pth"),
        source=teacher.mean,
        side=32,
        other_side=64,
        crop=32,
        heads=1,
        patch=4,
        twins={"student": student.mean},
        left_out=frozenset({"projector", "the student", "loss", "table of window positions"}),
    )


LAYOUT = Layout(
    adapter="massl",
    read_in="bytedance/ibot da316d8 main_ibot.py, c24f870 models/swin_transformer.py",
    make=make,
)
