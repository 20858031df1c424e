"""Pretraining with MaSSL and CARP: objectives, memory, schedules, networks and optimizers."""

from massl_bench.pretrain.memory import MemoryBank
from massl_bench.pretrain.network import MultiCropNetwork, Projector, Prototypes
from massl_bench.pretrain.objectives import carp_objective, koleo_loss, massl_objective

__all__ = [
    "MemoryBank",
    "MultiCropNetwork",
    "Projector",
    "Prototypes",
    "carp_objective",
    "koleo_loss",
    "massl_objective",
]
