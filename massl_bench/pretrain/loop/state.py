"""What training changes, and the schedules that drive it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from massl_bench.core.errors import RequestError, one_line
from massl_bench.learners.lars import LARS
from massl_bench.pretrain import methods
from massl_bench.pretrain.backbones import initial_backbone
from massl_bench.pretrain.compiling import allow_many_shapes
from massl_bench.pretrain.compute import autocast_dtype, settled
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.distributed import world_size
from massl_bench.pretrain.loop.checkpoint import FORMAT, Checkpoint
from massl_bench.pretrain.loop.optimizers import parameter_groups
from massl_bench.pretrain.loop.sharding import divided_like, divided_optimizer_state, gathered, shard
from massl_bench.pretrain.methods import Method
from massl_bench.pretrain.network import MultiCropNetwork
from massl_bench.pretrain.schedules import cosine
from massl_bench.pretrain.seeds import derived_seed

_COMPILE_MODES = {True: "default", "graphs": "reduce-overhead"}
"""How torch calls what `compute.compile` asks for."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The scheduled numbers of one step."""

    lr: float
    weight_decay: float
    momentum: float
    """Of the teacher's moving average."""
    of_method: Mapping[str, float]
    """The method's own, by name."""

    def numbers(self) -> dict[str, float]:
        """Returns all of them, by name."""
        own = {"lr": self.lr, "weight_decay": self.weight_decay, "momentum": self.momentum}
        return {**own, **self.of_method}


def rates_at(step: int, config: PretrainConfig, steps_per_epoch: int) -> Rates:
    """Returns the scheduled numbers of a step, counted from 0."""
    num_steps, optimizer = config.epochs * steps_per_epoch, config.optimiser
    return Rates(
        lr=cosine(
            step,
            start=optimizer.lr * config.batch_size / 256,
            end=optimizer.min_lr,
            num_steps=num_steps,
            warmup_steps=optimizer.warmup_epochs * steps_per_epoch,
        ),
        weight_decay=cosine(step, start=optimizer.weight_decay, end=optimizer.weight_decay_end, num_steps=num_steps),
        momentum=cosine(step, start=config.ema_momentum, end=1.0, num_steps=num_steps),
        of_method=methods.load(config.method)(config).numbers(step, steps_per_epoch),
    )


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Networks, optimizer, scaler and the method's state on one device."""

    method: Method[Any]
    student: MultiCropNetwork
    teacher: MultiCropNetwork
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    autocast: torch.dtype | None
    """The half precision of the networks, or None for float32."""

    def checkpoint(self, step: int, config: Mapping[str, Any], data: Mapping[str, Any]) -> Checkpoint:
        """Returns what a checkpoint keeps after `step` steps; all ranks call it, and the first one's is whole."""
        return {
            "format": FORMAT,
            "step": step,
            "student": gathered(self.student.state_dict()),
            "teacher": self.teacher.state_dict(),
            "optimiser": gathered(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "method": self.method.state_dict(),
            "config": dict(config),
            "data": dict(data),
        }

    def restore(self, checkpoint: Checkpoint, where: str) -> None:
        """Takes everything from a checkpoint but the optimizer's settings, which are this configuration's and device's.

        Raises:
            RequestError: It does not fit these networks or this method's state.
        """
        try:
            own = self.student.state_dict()
            whole = checkpoint["student"].items()
            self.student.load_state_dict({name: divided_like(each, own.get(name, each)) for name, each in whole})
            self.teacher.load_state_dict(checkpoint["teacher"])
            saved = checkpoint["optimiser"]
            groups = [
                {**now, "params": group["params"]}
                for now, group in zip(self.optimizer.param_groups, saved["param_groups"], strict=True)
            ]
            parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
            of_parameters = divided_optimizer_state(saved["state"], parameters)
            self.optimizer.load_state_dict({"state": of_parameters, "param_groups": groups})
            self.scaler.load_state_dict(checkpoint["scaler"])
            self.method.load_state_dict(checkpoint["method"])
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise RequestError(f"{where}: does not fit this configuration: {one_line(error)}") from None


def build_network(config: PretrainConfig, *, student: bool) -> MultiCropNetwork:
    """Makes a student or a teacher with fresh weights from torch's current generator; raises as `initial_backbone`."""
    backbone = initial_backbone(config, student=student)
    return methods.load(config.method)(config).network(backbone)


def initial_network(config: PretrainConfig) -> MultiCropNetwork:
    """Makes the student before the first step, on the CPU: a function of the seed, without any collective."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))
        return build_network(config, student=True)


def initial_state(config: PretrainConfig, device: torch.device) -> TrainingState:
    """Makes the state before the first step: weights and the method's state are functions of the seed, the
    same on every rank. What `auto` means on the device is in the method's configuration.

    On GPUs every BatchNorm normalises over the images of all ranks, so that their number moves no result. torch has no
    such BatchNorm for the CPU: there, each rank normalises over its own images.
    """
    config = settled(config, device)
    student = initial_network(config)
    teacher = build_network(config, student=False)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    if world_size() > 1 and device.type == "cuda":
        student, teacher = (_synchronised(network) for network in (student, teacher))
    if config.compute.compile:
        allow_many_shapes()
    for network in (student, teacher):
        network.train().to(device)
        if config.compute.channels_last:
            network.to(memory_format=torch.channels_last)
        if config.compute.compile:
            # Views come in two sizes, each worth kernels of its own.
            network.backbone.compile(dynamic=False, mode=_COMPILE_MODES[config.compute.compile])
    if config.compute.gradient_checkpointing:
        backbone: Any = student.backbone
        backbone.set_grad_checkpointing(True)
    if world_size() > 1 and config.compute.parallel == "fsdp":
        shard(student, student.backbone, device)
    method = methods.load(config.method)(config)
    method.start(device)
    autocast = autocast_dtype(config)
    return TrainingState(
        method=method,
        student=student,
        teacher=teacher,
        optimizer=_optimizer(config, student, device),
        scaler=torch.amp.GradScaler(device.type, enabled=autocast == torch.float16),
        autocast=autocast,
    )


def _synchronised(network: MultiCropNetwork) -> MultiCropNetwork:
    """Lets every BatchNorm see the images of all ranks."""
    synchronised: MultiCropNetwork = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return synchronised


def _optimizer(config: PretrainConfig, student: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Makes the optimizer; rate and decay are written to it before every step."""
    settings = config.optimiser
    groups: list[Any] = [*parameter_groups(student, weight_decay=settings.weight_decay)]
    match settings.name:
        case "adamw":
            assert settings.betas is not None
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=device.type == "cuda")
        case "sgd":
            assert settings.momentum is not None
            return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=device.type == "cuda")
        case "lars":
            assert settings.momentum is not None
            assert settings.eta is not None
            return LARS(
                groups, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum, eta=settings.eta
            )


def broken_tensors(network: nn.Module) -> list[str]:
    """Returns the names of parameters whose values or gradients are not finite."""
    return [
        name
        for name, parameter in network.named_parameters()
        if not all(math.isfinite(float(t.abs().max())) for t in (parameter.detach(), parameter.grad) if t is not None)
    ]
