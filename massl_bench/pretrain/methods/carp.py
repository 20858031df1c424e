"""CARP: consistent assignments over random partitions of learned prototypes.

Shapes: B images, K prototypes, S of a block.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from massl_bench.core.strict import StrictModel
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.indicators import assignment_entropies
from massl_bench.pretrain.losses.carp import carp_objective
from massl_bench.pretrain.losses.rows import check_division
from massl_bench.pretrain.methods import Method, Outputs, Step
from massl_bench.pretrain.network import Projector, Prototypes
from massl_bench.pretrain.transfer import to_device


class CarpParameters(StrictModel):
    """The numbers of CARP's objective."""

    num_prototypes: int = Field(ge=1)
    block_size: int = Field(ge=1)


class Carp(Method[CarpParameters]):
    """The method; it has no state beside its networks."""

    Parameters = CarpParameters
    paper = (
        "Silva and Ramírez Rivera, Representation Learning via Consistent Assignment of Views over Random Partitions, "
        "NeurIPS 2023, arXiv 2310.12692"
    )
    teacher_first = True

    _device: torch.device
    _permutation_K: Tensor

    @classmethod
    @override
    def check(cls, config: PretrainConfig) -> None:
        carp = cast(CarpParameters, config.parameters)
        check_division("carp", "num_prototypes", carp.num_prototypes, carp.block_size)

    @override
    def head(self, in_dim: int) -> nn.Module:
        projector = Projector.of(self.config.head, in_dim, unit_norm=False)
        prototypes = Prototypes(self.config.head.out_dim, self.parameters.num_prototypes)
        return nn.Sequential(OrderedDict(projector=projector, prototypes=prototypes))

    @override
    def start(self, device: torch.device) -> None:
        self._device = device

    @override
    def begin(self, step: Step) -> None:
        order_K = torch.randperm(self.parameters.num_prototypes, generator=step.generator("permutation"))
        self._permutation_K = to_device(order_K, self._device)

    @override
    def loss(self, outputs: Outputs, step: Step) -> dict[str, Tensor]:
        del step
        consistency, entropy = carp_objective(
            outputs.student_NX, outputs.teacher_GX, self._permutation_K, block_size=self.parameters.block_size
        )
        return {"consistency": consistency, "entropy": entropy}

    @override
    def indicators(self, outputs: Outputs) -> dict[str, float]:
        return assignment_entropies(outputs.first_teacher_view[:, self._permutation_K[: self.parameters.block_size]])


METHOD = Carp
