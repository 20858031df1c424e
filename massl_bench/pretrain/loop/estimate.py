"""What a training will need, before it starts: memory from a step without values, time from a few small steps.

The memory is counted, not measured: torch runs a step on tensors that have shapes and no content, and what is alive at
once is added up. What the allocator loses between tensors is not in it, nor the interpreter.
"""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from massl_bench.core.devices import check_shared_memory, free_memory, megabytes, memory_kept
from massl_bench.core.errors import MasslBenchError, RequestError, one_line
from massl_bench.core.wording import asked
from massl_bench.datasets import ImageSplit
from massl_bench.pretrain import methods
from massl_bench.pretrain.compute import autocast_dtype, settled
from massl_bench.pretrain.config import PretrainConfig, differences
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages
from massl_bench.pretrain.data.loading import PREFETCHED
from massl_bench.pretrain.data.sample import SampleImages
from massl_bench.pretrain.distributed import mean_numbers_to_come
from massl_bench.pretrain.loop.feeding import DeviceViews
from massl_bench.pretrain.loop.optimizers import set_hyperparameters
from massl_bench.pretrain.loop.sharding import blocks_of
from massl_bench.pretrain.loop.state import build_network, initial_state, rates_at
from massl_bench.pretrain.loop.trainer import begins_ahead, clip, forward_backward, move
from massl_bench.pretrain.methods import Step
from massl_bench.pretrain.network import MultiCropNetwork

_STATES = {"adamw": 2, "sgd": 1, "lars": 1}
"""Numbers that an optimizer keeps for each parameter."""

_OVERHEAD = {"cpu": 200 * 2**20, "cuda": 800 * 2**20}
"""Bytes that libraries take when they are first used: buffers of matrix products, a GPU's context."""

_KEPT = 1.3
"""What a step takes of a CPU's memory, over what is alive at once: what layers free is kept for the next ones, which do
not always fit into it (1.2 to 1.5 was seen)."""

_VIEWED = 16
"""Images that views are timed with."""

_TIMED_S = 1.0
"""Steps are timed with more and more images until one takes this long."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one rank needs on its device, and its loader on the host."""

    lasting: int
    """Networks, gradients, the optimizer's and the method's state; of what is in shards, a rank's share."""
    step: int
    """What a step needs beside it at its peak: activations, and what the loss makes of them."""
    views: int
    """Views that wait in shared memory."""
    checkpoint: int
    """The copy that is written beside the training, on the first rank's host."""

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
    config = settled(config, torch.device(device))
    images = max(1, config.batch_size // (num_ranks * config.compute.accumulation))
    with torch.device("meta"):
        student, teacher = (build_network(config, student=each) for each in (True, False))
    teacher.requires_grad_(False)
    if config.compute.gradient_checkpointing:
        backbone: Any = student.backbone
        backbone.set_grad_checkpointing(True)
    method = methods.load(config.method)(config)
    half = autocast_dtype(config)
    with FakeTensorMode(allow_non_fake_inputs=True), _Living() as living:
        for network in (student, teacher):
            network.train().to_empty(device="cpu")
            living.hold([*network.parameters(), *network.buffers()])
        method.start(torch.device("cpu"))
        lasting = living.now
        views = [torch.empty(images, 3, crop.size, crop.size) for crop in config.views.crops]
        step = Step(number=0, seed=config.seed, numbers=method.numbers(0, 1))
        method.begin(step)
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
    step = peak - lasting - trained - state
    elsewhere = 0
    if num_ranks > 1 and config.compute.parallel == "fsdp":
        elsewhere = (2 * trained + state) * (num_ranks - 1) // num_ranks
        # Two parts of the network are whole at once at most; the outermost one always is.
        step += 2 * _largest_part(student)
    return Memory(
        lasting=lasting + trained + state - elsewhere,
        step=step,
        views=pixels * PREFETCHED * config.run.workers,
        checkpoint=lasting + state,
    )


def _largest_part(student: MultiCropNetwork) -> int:
    """Returns the bytes of the largest part of a network that its ranks put together at once."""
    blocks = [sum(each.numel() for each in block.parameters()) for block in blocks_of(student.backbone)]
    whole = sum(each.numel() for each in student.parameters())
    return 4 * max(whole - sum(blocks), *blocks, 0)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a training needs of a device on this machine, and what is there; in bytes."""

    device: str
    lasting: int
    """Of all steps; smaller pieces leave it as it is."""
    step: int
    """Of one piece of one step."""
    free: int
    unknown: str = ""
    """Why nothing could be counted, where that is so."""

    @property
    def needed(self) -> int:
        """What must be there at once."""
        return self.lasting + self.step

    @property
    def fits(self) -> bool:
        """Whether there is as much as needed, or nobody knows."""
        return self.needed <= self.free

    def __str__(self) -> str:
        """Returns it in one line."""
        needed = f"unknown ({self.unknown})" if self.unknown else f"about {megabytes(self.needed)}"
        return f"{needed} of {megabytes(self.free)} free on {self.device}"


def memory_fit(config: PretrainConfig, *, num_ranks: int, ranks_here: int, device: str) -> Fit:
    """Returns whether a training fits the device that it is to run on.

    Args:
        config: of the pretraining.
        num_ranks: that divide a batch.
        ranks_here: of them on this machine: on a CPU they share its memory.
        device: `cpu` or `cuda:i`.

    Raises:
        RequestError: As for the networks.
    """
    free = free_memory(device)
    try:
        memory = needed_memory(config, num_ranks=num_ranks, device=device)
    except MasslBenchError:
        raise
    except Exception as error:  # a plugin's method can do whatever a step without values cannot
        return Fit(device=device, lasting=0, step=0, free=free, unknown=f"{type(error).__name__}: {one_line(error)}")
    if device != "cpu":
        return Fit(device=device, lasting=memory.lasting + _OVERHEAD["cuda"], step=memory.step, free=free)
    lasting = ranks_here * (memory.lasting + memory.views + _OVERHEAD["cpu"]) + memory.checkpoint
    return Fit(device=device, lasting=lasting, step=int(ranks_here * memory.step * _KEPT), free=free)


def check_fit(fit: Fit, config: PretrainConfig, *, num_ranks: int, ranks_here: int) -> None:
    """Raises `RequestError` where a training does not fit; the arguments are those of `memory_fit`, and its result."""
    if fit.fits:
        return
    remedy = "a smaller backbone, smaller views or a smaller state of the method"
    for change in _smaller(config, fit, num_ranks):
        less = memory_fit(change, num_ranks=num_ranks, ranks_here=ranks_here, device=fit.device)
        if less.fits and not less.unknown:
            found = differences(config.model_dump(mode="json"), change.model_dump(mode="json"))
            changes = [f"{text.split(':')[0]}={text.rpartition(' now ')[2].lower()}" for text in found]
            settings = " ".join(asked("settings", change) for change in changes)
            remedy = f"{settings} (about {megabytes(less.needed)})"
            break
    raise RequestError(
        f"pretraining needs about {megabytes(fit.needed)} of memory on {fit.device}, and {megabytes(fit.free)} are "
        "free",
        remedy=f"give {remedy}, or {asked('force')}, which starts it all the same",
    )


def check_loading(config: PretrainConfig, *, num_ranks: int, ranks_here: int) -> None:
    """Raises `RequestError` where the loader's processes would find no room in shared memory for their batches."""
    pixels = sum(3 * crop.size**2 for crop in config.views.crops)
    images = max(1, config.batch_size // (num_ranks * config.compute.accumulation))
    # One more is on its way to the trainer.
    waiting = (PREFETCHED * config.run.workers + 1) * ranks_here
    check_shared_memory(waiting * images * pixels, config.run.workers, asked("settings", "run.workers=0"))


def _smaller(config: PretrainConfig, fit: Fit, num_ranks: int) -> Iterator[PretrainConfig]:
    """Yields changes that may fit: first those that move no number but by rounding, then smaller pieces."""
    settings: list[dict[str, Any]] = []
    if num_ranks > 1 and config.compute.parallel == "ddp":
        settings = [{"parallel": "fsdp"}, {"parallel": "fsdp", "gradient_checkpointing": True}]
    if fit.lasting < fit.free:
        settings = [{"gradient_checkpointing": True}, *settings, *_smaller_pieces(config, fit, num_ranks)]
    for each in settings:
        yield config.model_copy(update={"compute": config.compute.model_copy(update=each)})


def _smaller_pieces(config: PretrainConfig, fit: Fit, num_ranks: int) -> Iterator[dict[str, Any]]:
    images, now = config.batch_size // num_ranks, config.compute.accumulation
    for pieces in (pieces for pieces in range(now + 1, images + 1) if images % pieces == 0):
        try:
            methods.load(config.method)(config).check_piece(images // pieces)
        except ValueError:
            break
        if fit.lasting + fit.step * now / pieces <= fit.free:
            yield {"accumulation": pieces}
            yield {"accumulation": pieces, "gradient_checkpointing": True}
            break
    else:
        yield {"accumulation": images, "gradient_checkpointing": True}


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
    """Returns how long a step will take on this rank's device; cutting its views is not in it.

    On a CPU, from steps with fewer images. A GPU takes the step as it will be: kernels are compiled for each number of
    images, and few of them take as long as more.

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
        images = whole if place.type == "cuda" else min(whole, 2)
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
    """Returns the seconds of a step that is not the first one, with its views on the device."""
    return min(time_steps(config, images, device, count=4 if device.type == "cuda" else 2)[1:])


def time_steps(config: PretrainConfig, images: int, device: torch.device, *, count: int) -> list[float]:
    """Returns the seconds of each of some steps as the trainer does them, but for cutting their views on the host.

    Args:
        config: of the pretraining; a step is one piece.
        images: of a step.
        device: that computes.
        count: of steps; the first one also loads kernels, and writes them where they are compiled.
    """
    config = settled(config, device)
    state = initial_state(config, device)
    views = MultiCropImages(SampleImages.like(config.views), config.views, seed=config.seed, rank=0)
    batch = views[BatchRequest(0, 0, range(images))]
    rates = rates_at(0, config, 1)
    set_hyperparameters(state.optimizer, lr=0.0, weight_decay=0.0)
    if device.type == "cuda":
        batch.pin_memory()
    fed, seconds = DeviceViews(itertools.repeat(batch), config, device), list[float]()
    with memory_kept(device.type):
        start = time.perf_counter()
        for number in range(count):
            step = Step(number=number, seed=config.seed, numbers=rates.of_method)
            state.optimizer.zero_grad(set_to_none=True)
            state.method.begin(step)
            computed = forward_backward(config, state, state.student, fed, step)
            read = mean_numbers_to_come({**computed.terms, "gradients": clip(config, state, step).sum()})
            if begins_ahead(device):
                fed.begin_next()
            read()
            move(state, 0.5)
            state.method.after_step(computed.kept)
            if device.type == "cuda" and number in (0, count - 1):
                torch.cuda.synchronize(device)
            now = time.perf_counter()
            seconds.append(now - start)
            start = now
    return seconds


def seconds_of_views(config: PretrainConfig, split: ImageSplit) -> float:
    """Returns how long one core takes for the views of a step, from those of a few images."""
    rows = range(min(_VIEWED, len(split)))
    images = MultiCropImages(split, config.views, seed=config.seed, rank=0)
    images[BatchRequest(0, 0, rows[:1])]
    start = time.perf_counter()
    images[BatchRequest(0, 0, rows)]
    return (time.perf_counter() - start) / len(rows) * config.batch_size


def seconds_with_views(config: PretrainConfig, step_s: float, views_s: float, *, device: str) -> float:
    """Returns how long a step takes together with its views.

    Args:
        config: says how many processes cut views.
        step_s: of the device.
        views_s: of one core.
        device: `cpu`: the cores do both, one after the other; `cuda:i`: at the same time.
    """
    cores = os.cpu_count() or 1
    if not config.run.workers:
        return step_s + views_s
    return step_s + views_s / cores if device == "cpu" else max(step_s, views_s / min(config.run.workers, cores))
