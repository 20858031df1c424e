"""What a training will need, before it starts: memory from a step without values, time from a few small steps.

The memory is counted, not measured: torch runs a step on tensors that have shapes and no content, and what is alive at
once is added up. What the allocator loses between tensors is not in it, nor the interpreter.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from massl_bench.pretrain import methods
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.loop.optimizers import set_hyperparameters, update_teacher
from massl_bench.pretrain.loop.state import autocast_dtype, build_network, initial_state, rates_at
from massl_bench.pretrain.methods import Step

_STATES = {"adamw": 2, "sgd": 1, "lars": 1}
"""Numbers that an optimizer keeps for each parameter."""

_PREFETCHED = 2
"""Batches that a loader's process prepares ahead."""

_TIMED_S = 1.0
"""Steps are timed with more and more images until one takes this long."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one rank needs on its device, and its loader on the host."""

    lasting: int
    """Networks, gradients, the optimizer's and the method's state."""
    step: int
    """What a step needs beside it at its peak: activations, and what the loss makes of them."""
    views: int
    """Views that wait in shared memory."""

    @property
    def device(self) -> int:
        """What the device must hold at once."""
        return self.lasting + self.step


def needed_memory(config: PretrainConfig, *, num_ranks: int, device: str) -> Memory:
    """Returns what each rank of a training needs, without making any of it.

    Args:
        config: of the pretraining.
        num_ranks: that divide a batch.
        device: `cpu` or `cuda:i`: half precision is what it would be there.

    Raises:
        RequestError: As for the networks.
        RuntimeError: A method does something that needs values.
    """
    images = max(1, config.batch_size // (num_ranks * config.compute.accumulation))
    with torch.device("meta"):
        student, teacher = (build_network(config, student=each) for each in (True, False))
    teacher.requires_grad_(False)
    if config.compute.gradient_checkpointing:
        backbone: Any = student.backbone
        backbone.set_grad_checkpointing(True)
    method = methods.load(config.method)(config)
    half = autocast_dtype(config.compute.precision, torch.device(device))
    with FakeTensorMode(allow_non_fake_inputs=True), _Living() as living:
        for network in (student, teacher):
            network.train().to_empty(device="cpu")
            living.hold([*network.parameters(), *network.buffers()])
        method.start(torch.device("cpu"))
        views = [torch.empty(images, 3, crop.size, crop.size) for crop in config.views.crops]
        step = Step(number=0, seed=config.seed, numbers=method.numbers(0, 1))
        method.begin(step)
        lasting = living.now
        with torch.autocast("cpu", dtype=half, enabled=half is not None):
            outputs = method.forward(student, teacher, views, step)
        loss = torch.stack(list(method.loss(outputs, step).values())).sum()
        del outputs
        loss.backward()  # type: ignore[no-untyped-call]
        peak = living.peak
    trained = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad) * 4
    state = trained * _STATES[config.optimiser.name]
    pixels = sum(3 * crop.size**2 for crop in config.views.crops) * images
    # The optimizer's step makes a copy or two of the parameters, when the activations are gone.
    peak = max(peak + state, lasting + trained + state + 2 * trained)
    return Memory(
        lasting=lasting + trained + state,
        step=peak - lasting - trained - state,
        views=pixels * _PREFETCHED * config.run.workers,
    )


class _Living(TorchDispatchMode):
    """Adds up the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def hold(self, tensors: list[Tensor]) -> None:
        """Counts tensors, each storage once, until they are gone."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            place = storage._cdata
            if place not in self._known:
                self._known[place] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, place)

    def _gone(self, place: int) -> None:
        self.now -= self._known.pop(place)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.hold([each for each in tree_leaves(made) if isinstance(each, Tensor)])
        return made


def seconds_a_step(config: PretrainConfig, *, num_ranks: int, device: str) -> float:
    """Returns how long a step will take on this rank's device, from steps with fewer images; views are not in it.

    Args:
        config: of the pretraining.
        num_ranks: that divide a batch.
        device: `cpu` or `cuda:i`.
    """
    place = torch.device(device)
    pieces = config.compute.accumulation
    whole = max(1, config.batch_size // (num_ranks * pieces))
    few = config.model_copy(update={"compute": config.compute.model_copy(update={"accumulation": 1})})
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        timed: list[tuple[int, float]] = []
        images = min(whole, 2)
        while True:
            timed.append((images, _time_step(few, images, place)))
            if images == whole or timed[-1][1] > _TIMED_S:
                break
            images = min(whole, images * 4)
    images, seconds = timed[-1]
    if len(timed) > 1:  # what does not grow with the images is not multiplied
        before, shorter = timed[-2]
        slope = max(0.0, (seconds - shorter) / (images - before))
        return (seconds + slope * (whole - images)) * pieces
    return seconds * whole / images * pieces


def _time_step(config: PretrainConfig, images: int, device: torch.device) -> float:
    """Returns the seconds of the second of two steps with random views."""
    state = initial_state(config, device)
    views = [torch.rand(images, 3, crop.size, crop.size, device=device) for crop in config.views.crops]
    rates = rates_at(0, config, 1)
    set_hyperparameters(state.optimizer, lr=0.0, weight_decay=0.0)
    seconds = 0.0
    for number in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        step = Step(number=number, seed=config.seed, numbers=rates.of_method)
        state.method.begin(step)
        with torch.autocast(device.type, dtype=state.autocast, enabled=state.autocast is not None):
            outputs = state.method.forward(state.student, state.teacher, views, step)
        torch.stack(list(state.method.loss(outputs, step).values())).sum().backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        update_teacher(state.teacher, state.student, 0.5)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds
