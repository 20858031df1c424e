"""stable-pretraining's DINO: a backbone and a projector of student and teacher each, and a callback's probe."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.layouts import prefixed
from tests.models.reference_vit import SourceVit, make_vit
from tests.models.vit_layouts import fused, layout, twin


def _write(source: SourceVit) -> Any:
    """galilai-group/stable-pretraining 6bd8214 methods/dino.py, 993ef50 backbone/utils.py (TeacherStudentWrapper)."""
    state = {
        **prefixed("backbone.student.", fused(twin(source))),
        **prefixed("backbone.teacher.", fused(source)),
        **{f"projector.{whose}.0.weight": torch.randn(4, 4) for whose in ("student", "teacher")},
        "dino_loss.center": torch.randn(1, 4),
        "callbacks_modules.linear_probe.weight": torch.randn(10, 4),
    }
    for part in ("backbone", "projector"):
        names = ("base_ema_coefficient", "final_ema_coefficient", "ema_coefficient")
        state |= {f"{part}.{name}": torch.tensor(0.5) for name in names}
    return {"pytorch-lightning_version": "2.5.0", "epoch": 3, "state_dict": state, "optimizer_states": []}


LAYOUT = layout(
    "stable_pretraining",
    _write,
    make_vit,
    twins=("student",),
    left_out=frozenset({"the student", "projector", "loss", "schedule", "probes and metrics of callbacks"}),
)
