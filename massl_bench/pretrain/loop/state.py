"""What training changes, and the schedules that drive it.

Shapes: B images, N = V·B student rows, G = 2·B teacher rows, K memory rows or prototypes, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from massl_bench.core.errors import RequestError, one_line
from massl_bench.learners.lars import LARS
from massl_bench.pretrain.backbones import build_network
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.distributed import world_size
from massl_bench.pretrain.loop.checkpoint import FORMAT, Checkpoint
from massl_bench.pretrain.loop.optimizers import parameter_groups
from massl_bench.pretrain.memory import MemoryBank
from massl_bench.pretrain.network import MultiCropNetwork
from massl_bench.pretrain.schedules import cosine, linear_then_constant
from massl_bench.pretrain.seeds import derived_seed, seeded_generator
from massl_bench.pretrain.transfer import to_device


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The scheduled numbers of one step."""

    lr: float
    weight_decay: float
    momentum: float
    """Of the teacher's moving average."""
    teacher_temp: float | None
    """None for CARP, which has no temperatures."""

    def numbers(self) -> dict[str, float]:
        """Returns those that there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def rates_at(step: int, config: PretrainConfig, steps_per_epoch: int) -> Rates:
    """Returns the scheduled numbers of a step, counted from 0."""
    num_steps, optimiser, massl = config.epochs * steps_per_epoch, config.optimiser, config.massl
    teacher_temp = None
    if massl is not None:
        teacher_temp = linear_then_constant(
            step,
            start=massl.teacher_temp_start,
            end=massl.teacher_temp,
            warmup_steps=massl.teacher_temp_warmup_epochs * steps_per_epoch,
        )
    return Rates(
        lr=cosine(
            step,
            start=optimiser.lr * config.batch_size / 256,
            end=optimiser.min_lr,
            num_steps=num_steps,
            warmup_steps=optimiser.warmup_epochs * steps_per_epoch,
        ),
        weight_decay=cosine(step, start=optimiser.weight_decay, end=optimiser.weight_decay_end, num_steps=num_steps),
        momentum=cosine(step, start=config.ema_momentum, end=1.0, num_steps=num_steps),
        teacher_temp=teacher_temp,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Networks, optimiser, scaler and memory on one device."""

    student: MultiCropNetwork
    teacher: MultiCropNetwork
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    memory: MemoryBank | None
    autocast: torch.dtype | None
    """The half precision of the networks, or None for float32."""

    def checkpoint(self, step: int, config: Mapping[str, Any], data: Mapping[str, Any]) -> Checkpoint:
        """Returns what a checkpoint keeps after `step` steps."""
        return {
            "format": FORMAT,
            "step": step,
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "memory": self.memory.state_dict() if self.memory is not None else None,
            "config": dict(config),
            "data": dict(data),
        }

    def restore(self, checkpoint: Checkpoint, where: str) -> None:
        """Takes everything from a checkpoint but the optimiser's settings, which are this configuration's and device's.

        Raises:
            RequestError: It does not fit these networks or this memory.
        """
        try:
            self.student.load_state_dict(checkpoint["student"])
            self.teacher.load_state_dict(checkpoint["teacher"])
            saved = checkpoint["optimiser"]
            groups = [
                {**own, "params": group["params"]}
                for own, group in zip(self.optimiser.param_groups, saved["param_groups"], strict=True)
            ]
            self.optimiser.load_state_dict({"state": saved["state"], "param_groups": groups})
            self.scaler.load_state_dict(checkpoint["scaler"])
            if self.memory is not None and checkpoint["memory"] is not None:
                self.memory.load_state_dict(checkpoint["memory"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise RequestError(f"{where}: does not fit this configuration: {one_line(error)}") from None


def initial_network(config: PretrainConfig) -> MultiCropNetwork:
    """Makes the student before the first step, on the CPU: a function of the seed, without any collective."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))
        return build_network(config, student=True)


def initial_state(config: PretrainConfig, device: torch.device) -> TrainingState:
    """Makes the state before the first step: weights and memory are functions of the seed, the same on every rank.

    On GPUs every BatchNorm normalises over the images of all ranks, so that their number moves no result. torch has no
    such BatchNorm for the CPU: there, each rank normalises over its own images.
    """
    student = initial_network(config)
    teacher = build_network(config, student=False)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    if world_size() > 1 and device.type == "cuda":
        student, teacher = (_synchronised(network) for network in (student, teacher))
    for network in (student, teacher):
        network.train().to(device)
        if config.compute.channels_last:
            network.to(memory_format=torch.channels_last)
        if config.compute.compile:
            network.backbone.compile(dynamic=False)  # views come in two sizes, each worth kernels of its own
    if config.compute.gradient_checkpointing:
        backbone: Any = student.backbone
        backbone.set_grad_checkpointing(True)
    memory = None
    if config.massl is not None:
        generator = seeded_generator(config.seed, "memory")
        memory = MemoryBank(config.massl.memory_size, config.head.out_dim, generator=generator, device=device)
    autocast = _autocast(config.compute.precision, device)
    return TrainingState(
        student=student,
        teacher=teacher,
        optimiser=_optimiser(config, student, device),
        scaler=torch.amp.GradScaler(device.type, enabled=autocast == torch.float16),
        memory=memory,
        autocast=autocast,
    )


def _synchronised(network: MultiCropNetwork) -> MultiCropNetwork:
    """Lets every BatchNorm see the images of all ranks."""
    synchronised: MultiCropNetwork = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return synchronised


def _autocast(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        if device.type != "cuda":  # half precision saves a CPU nothing
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]


def _optimiser(config: PretrainConfig, student: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Makes the optimiser; rate and decay are written to it before every step."""
    settings = config.optimiser
    groups: list[Any] = [*parameter_groups(student, weight_decay=settings.weight_decay)]
    match settings.name:
        case "adamw":
            assert settings.betas is not None
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=device.type == "cuda")
        case "sgd":
            assert settings.momentum is not None
            return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
        case "lars":
            assert settings.momentum is not None
            assert settings.eta is not None
            return LARS(
                groups, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum, eta=settings.eta
            )


def permuted_members(config: PretrainConfig, state: TrainingState, step: int) -> Tensor:
    """Returns the order in which a step cuts memory rows or prototypes into blocks, int64 [K], alike on all ranks."""
    generator = seeded_generator(config.seed, "permutation", step)
    if state.memory is not None:
        return state.memory.permutation(generator)
    assert config.carp is not None
    device = next(state.student.parameters()).device
    return to_device(torch.randperm(config.carp.num_prototypes, generator=generator), device)


def broken_tensors(network: nn.Module) -> list[str]:
    """Returns the names of parameters whose values or gradients are not finite."""
    return [
        name
        for name, parameter in network.named_parameters()
        if not all(math.isfinite(float(t.abs().max())) for t in (parameter.detach(), parameter.grad) if t is not None)
    ]
