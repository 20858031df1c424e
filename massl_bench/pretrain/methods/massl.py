"""MaSSL: cross-entropy between assignments to stochastic blocks of a memory of teacher outputs.

Shapes: B images, G = 2·B teacher rows, D dimensions, K memory rows, S of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from massl_bench.core.strict import StrictModel
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.indicators import assignment_entropies
from massl_bench.pretrain.losses.attention import SMALLEST_TEMPERATURE
from massl_bench.pretrain.losses.koleo import koleo_loss
from massl_bench.pretrain.losses.massl import massl_objective
from massl_bench.pretrain.losses.rows import check_division
from massl_bench.pretrain.memory import MemoryBank, MemoryState, check_memory_size, official_memory
from massl_bench.pretrain.methods import Method, Outputs, Step
from massl_bench.pretrain.network import Projector
from massl_bench.pretrain.schedules import linear_then_constant
from massl_bench.pretrain.seeds import seeded_generator


class MasslParameters(StrictModel):
    """The numbers of MaSSL's objective."""

    memory_size: int = Field(ge=1)
    block_size: int = Field(ge=1)
    student_temp: float = Field(gt=0)
    teacher_temp_start: float = Field(gt=0)
    teacher_temp: float = Field(gt=0)
    teacher_temp_warmup_epochs: int = Field(ge=0)
    koleo_weight: float = Field(ge=0)
    """Of the KoLeo term on the student's global outputs; 0 leaves it out."""


class Massl(Method[MasslParameters]):
    """The method; its state is the memory."""

    Parameters = MasslParameters
    paper = (
        "Silva, Pedrini and Ramírez Rivera, Learning from Memory: Non-Parametric Memory Augmented Self-Supervised "
        "Learning of Visual Features, ICML 2024, arXiv 2407.17486"
    )

    memory: MemoryBank
    _drawn_K: Tensor | None

    @classmethod
    @override
    def check(cls, config: PretrainConfig) -> None:
        massl = cast(MasslParameters, config.parameters)
        check_memory_size(massl.memory_size, config.batch_size)
        check_division("massl", "memory_size", massl.memory_size, massl.block_size)
        num_views, warmup = len(config.views.crops), massl.teacher_temp_warmup_epochs
        if num_views > massl.memory_size:
            raise ValueError(f"massl.memory_size: {massl.memory_size}, fewer than the {num_views} views")
        if warmup > config.epochs:
            raise ValueError(f"massl.teacher_temp_warmup_epochs: {warmup}, more than epochs = {config.epochs}")

    @classmethod
    @override
    def attention_problem(cls, config: PretrainConfig) -> str:
        massl = cast(MasslParameters, config.parameters)
        smallest = min(massl.student_temp, massl.teacher_temp_start, massl.teacher_temp)
        if smallest < SMALLEST_TEMPERATURE:
            return f"massl has a temperature of {smallest}; from {SMALLEST_TEMPERATURE} on float16 is exact enough"
        return ""

    @override
    def check_piece(self, num_images: int) -> None:
        if self.parameters.koleo_weight and num_images < 2:
            raise ValueError("in which KoLeo finds no neighbours; massl.koleo_weight=0 leaves it out")

    @override
    def head(self, in_dim: int) -> Projector:
        return Projector.of(self.config.head, in_dim, unit_norm=True)

    @override
    def start(self, device: torch.device) -> None:
        generator = seeded_generator(self.config.seed, "memory")
        size, dim = self.parameters.memory_size, self.config.head.out_dim
        self.memory = MemoryBank(size, dim, generator=generator, device=device)

    @override
    def numbers(self, step: int, steps_per_epoch: int) -> dict[str, float]:
        temperature = linear_then_constant(
            step,
            start=self.parameters.teacher_temp_start,
            end=self.parameters.teacher_temp,
            warmup_steps=self.parameters.teacher_temp_warmup_epochs * steps_per_epoch,
        )
        return {"teacher_temp": temperature}

    @override
    def begin(self, step: Step) -> None:
        self._generator, self._drawn_K = step.generator("permutation"), None
        self._teacher_temp = step.numbers["teacher_temp"]

    @property
    def _permutation_K(self) -> Tensor:
        """The order of the memory in this step; drawn when it is first asked for, while a GPU is at the networks."""
        if self._drawn_K is None:
            self._drawn_K = self.memory.permutation(self._generator)
        return self._drawn_K

    @override
    def loss(self, outputs: Outputs, step: Step) -> dict[str, Tensor]:
        terms = {
            "cross_entropy": massl_objective(
                outputs.student_NX,
                outputs.teacher_GX,
                self.memory.memory,
                self._permutation_K,
                block_size=self.parameters.block_size,
                student_temp=self.parameters.student_temp,
                teacher_temp=step.numbers["teacher_temp"],
                by_attention=self.config.compute.objective == "attention",
            )
        }
        if self.parameters.koleo_weight:
            num_global = len(outputs.teacher_GX)
            terms["koleo"] = self.parameters.koleo_weight * koleo_loss(outputs.student_NX[:num_global])
        return terms

    @override
    def keep(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"second_view": outputs.second_teacher_view}

    @override
    def after_step(self, kept: Mapping[str, Tensor]) -> None:
        self.memory.store(kept["second_view"])

    @override
    def indicators(self, outputs: Outputs) -> dict[str, float]:
        block_SD = self.memory.memory[self._permutation_K[: self.parameters.block_size]]
        logits_BS = outputs.first_teacher_view.float() @ block_SD.T / self._teacher_temp
        return assignment_entropies(logits_BS)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**self.memory.state_dict()}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(cast(MemoryState, state))

    @classmethod
    @override
    def official_state(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        return {"memory_bank": official_memory(cast(MemoryState, state))}


METHOD = Massl
