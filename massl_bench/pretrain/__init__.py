"""Pretraining: methods, objectives, memory, schedules, networks and optimizers.

The names load when they are first used, so that the command line can know of pretraining without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from massl_bench.pretrain.losses.carp import carp_objective
    from massl_bench.pretrain.losses.koleo import koleo_loss
    from massl_bench.pretrain.losses.massl import massl_objective
    from massl_bench.pretrain.memory import MemoryBank
    from massl_bench.pretrain.network import MultiCropNetwork, Projector, Prototypes

_HOMES = {
    "MemoryBank": "memory",
    "MultiCropNetwork": "network",
    "Projector": "network",
    "Prototypes": "network",
    "carp_objective": "losses.carp",
    "koleo_loss": "losses.koleo",
    "massl_objective": "losses.massl",
}

__all__ = [
    "MemoryBank",
    "MultiCropNetwork",
    "Projector",
    "Prototypes",
    "carp_objective",
    "koleo_loss",
    "massl_objective",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
