"""lightly-train's DINO with a ResNet: the teacher is what `export` writes; modules are pickled beside, and not read."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, some

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)


def own_part(**more: Any) -> dict[str, Any]:
    """lightly-ai/lightly-train dc4cab5 _checkpoint.py: under `lightly_train`, with the models themselves."""
    models = {name: nn.Sequential(nn.Linear(2, 2)) for name in ("model", "wrapped_model", "embedding_model")}
    return {"version": "0.8.0", "date": "2025-01-01", "models": models, "license_info": None, **more}


def _write(backbone: State, twin: State) -> Any:
    state = {
        **prefixed("teacher_embedding_model.wrapped_model._features.", backbone),
        **prefixed("student_embedding_model.wrapped_model._features.", twin),
        **some("teacher_projection_head.layers.0.weight", "student_projection_head.layers.0.weight"),
        **some("criterion.center.center", "teacher_embedding_model.embed_head.weight"),
    }
    own = own_part(normalize_args={"mean": MEAN, "std": STD})
    return {"pytorch-lightning_version": "2.4.0", "state_dict": state, "lightly_train": own}


LAYOUT = layout(
    "lightly_train",
    "lightly-ai/lightly-train dc4cab5 _checkpoint.py, 0520258 _methods/dino/dino.py, 69150818 torchvision/resnet.py",
    _write,
    left_out=frozenset({"projector", "loss", "embedding layer", "the student"}),
    twin="student",
    mean=MEAN,
    std=STD,
)
