"""VICReg's trainer: backbone and projector."""

from __future__ import annotations

from functools import partial
from typing import Any

import torchvision

from tests.models.layouts import prefixed
from tests.models.resnet_layouts import State, layout, published_resnet, some, wide_resnet


def _write(backbone: State, twin: State) -> Any:
    state = {**prefixed("backbone.", backbone), **some("projector.0.weight", "projector.1.running_mean")}
    return {"epoch": 1000, "model": prefixed("module.", state), "optimizer": {"state": {}}}


LAYOUT = layout(
    "vicreg",
    "facebookresearch/vicreg 4e12602 main_vicreg.py",
    _write,
    left_out=frozenset({"projector"}),
    published={
        "resnet50": published_resnet(_write, torchvision.models.resnet50, "resnet50"),
        "resnet50x2": published_resnet(_write, partial(wide_resnet, (3, 4, 6, 3), 2), "resnet50x2"),
        "resnet200x2": published_resnet(_write, partial(wide_resnet, (3, 24, 36, 3), 2), "resnet200x2"),
    },
)
