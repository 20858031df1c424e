"""A whole training step of MaSSL, against the published formulation of everything but the networks."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.massl_objective import Inputs, plain_loss, published_loss
from benchmarks.measure import Bar, Comparison, take_turns
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop.optimizers import clip_each_gradient, update_teacher
from massl_bench.pretrain.loop.state import TrainingState, initial_state, rates_at
from massl_bench.pretrain.methods import Step

SUMMARY = "a whole training step on views that are ready, against the published formulation on the same networks"

MOMENTUM, CLIP = 0.996, 3.0


def run(quick: bool) -> list[Comparison]:
    """Returns the comparison for a ViT-Ti/16 at 224, 2 + 10 views, K = 65,536."""
    images, memory = (2, 1_024) if quick else (16, 65_536)
    sizes = ["views.num_local=2", "massl.block_size=256"] if quick else []
    config = load_config(
        "massl-vits16-800ep",
        [
            "backbone.arch=vit_tiny_patch16_224",
            f"batch_size={images}",
            f"massl.memory_size={memory}",
            "compute.compile=false",
            *sizes,
        ],
    )
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(images, 3, crop.size, crop.size, generator=generator) for crop in config.views.crops]
    calls = {
        "ours": _Ours(config, views),
        "published formulation": _Published(config, views),
        "published code": _PublishedCode(config, views),
        "the networks alone": _Networks(config, views),
    }
    times = take_turns(calls, 1 if quick else 3)
    losses = [float(call()) for call in calls.values()][:3]  # of the fifth step of each
    share = times["the networks alone"].median / times["ours"].median
    return [
        Comparison(
            what=f"ViT-Ti/16, {images} images, {len(views)} views, K {memory:,}",
            times=times,
            bars=tuple(
                Bar(call=name, ratio=1.2, kind="faster") for name in ("published formulation", "published code")
            ),
            notes=(
                f"the networks are {100 * share:.0f} % of ours",
                f"losses after as many steps {', '.join(f'{loss:.4f}' for loss in losses)}",
            ),
        )
    ]


class _Networks:
    """Both networks, forward and backward, and a loss that costs nothing."""

    def __init__(self, config: PretrainConfig, views: list[Tensor]) -> None:
        self.config, self.views = config, views
        self.state: TrainingState = initial_state(config, torch.device("cpu"))
        self.number = 0

    def __call__(self) -> Tensor:
        self.state.optimizer.zero_grad(set_to_none=True)
        numbers = rates_at(self.number, self.config, 10).of_method
        step = Step(number=self.number, seed=0, numbers=numbers)
        self.state.method.begin(step)
        torch.manual_seed(self.number)
        outputs = self.state.method.forward(self.state.student, self.state.teacher, self.views, step)
        loss = self.loss(outputs.student_NX, outputs.teacher_GX, step)
        loss.backward()
        self.move(outputs.second_teacher_view)
        self.number += 1
        return loss.detach()

    def loss(self, student_ND: Tensor, teacher_GD: Tensor, step: Step) -> Tensor:
        return student_ND.sum()

    def move(self, rows_BD: Tensor) -> None:
        """Changes nothing."""


class _Ours(_Networks):
    def loss(self, student_ND: Tensor, teacher_GD: Tensor, step: Step) -> Tensor:
        from massl_bench.pretrain.methods import Outputs

        outputs = Outputs(features_GD=teacher_GD, teacher_GX=teacher_GD, student_NX=student_ND)
        return self.state.method.loss(outputs, step)["cross_entropy"]

    def move(self, rows_BD: Tensor) -> None:
        clip_each_gradient(self.state.student.parameters(), CLIP)
        self.state.optimizer.step()
        update_teacher(self.state.teacher, self.state.student, MOMENTUM)
        self.state.method.after_step({"second_view": rows_BD})


class _Published(_Networks):
    """Whole logit matrices, a cross-entropy a pair, a queue that is shifted, loops over parameters."""

    def __init__(self, config: PretrainConfig, views: list[Tensor]) -> None:
        super().__init__(config, views)
        self.queue_KD = self.state.method.memory.memory.clone()  # type: ignore[attr-defined]

    def loss(self, student_ND: Tensor, teacher_GD: Tensor, step: Step) -> Tensor:
        permutation = self.state.method._permutation_K  # type: ignore[attr-defined]
        block_size = self.config.model_dump()["massl"]["block_size"]
        inputs = Inputs(
            student=student_ND,
            teacher=teacher_GD,
            memory=self.queue_KD,
            permutation=permutation,
            block_size=block_size,
        )
        return self.objective(inputs, step.numbers["teacher_temp"])

    def objective(self, inputs: Inputs, teacher_temp: float) -> Tensor:
        return plain_loss(inputs, student_temp=0.1, teacher_temp=teacher_temp)

    @torch.no_grad()
    def move(self, rows_BD: Tensor) -> None:
        for parameter in self.state.student.parameters():
            if parameter.grad is not None:
                factor = CLIP / (parameter.grad.norm() + 1e-6)
                if factor < 1:
                    parameter.grad.mul_(factor)
        self.state.optimizer.step()
        for ours, theirs in zip(self.state.teacher.parameters(), self.state.student.parameters(), strict=True):
            ours.mul_(MOMENTUM).add_((1 - MOMENTUM) * theirs)
        start = self.number * len(rows_BD) % len(self.queue_KD)
        self.queue_KD[start : start + len(rows_BD)] = rows_BD


class _PublishedCode(_Published):
    """The objective by the operations of the authors' code."""

    def objective(self, inputs: Inputs, teacher_temp: float) -> Tensor:
        return published_loss(inputs, student_temp=0.1, teacher_temp=teacher_temp)
