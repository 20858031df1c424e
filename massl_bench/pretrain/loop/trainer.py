"""The training loop."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from massl_bench.core.devices import memory_kept
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.wording import asked
from massl_bench.datasets import ImageSplit
from massl_bench.pretrain.compute import settled
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.data.crops import MultiCropImages
from massl_bench.pretrain.data.loading import Shares, StepRequests, divide, load_batches
from massl_bench.pretrain.distributed import (
    after_first_rank,
    any_rank,
    average_in_rank_order,
    mean_numbers_to_come,
    rank_of_process,
    world_size,
)
from massl_bench.pretrain.indicators import rankme
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder, CheckpointWriter, check_same_run, write_whole
from massl_bench.pretrain.loop.feeding import DeviceViews
from massl_bench.pretrain.loop.log import TrainingLog
from massl_bench.pretrain.loop.optimizers import clip_each_gradient, set_hyperparameters, update_teacher
from massl_bench.pretrain.loop.sharding import gathered, is_sharded, without_averaging
from massl_bench.pretrain.loop.state import (
    Rates,
    TrainingState,
    broken_tensors,
    initial_state,
    rates_at,
)
from massl_bench.pretrain.methods import Outputs, Step
from massl_bench.pretrain.seeds import derived_seed

OnlineEvaluation = Callable[[nn.Module], float]
"""Maps the teacher's backbone, in evaluation mode, to an accuracy; draws from no global generator."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One pretraining on this rank.

    Attributes:
        config: resolved.
        split: the images.
        data: what identifies them: a checkpoint of other data is not resumed.
        folder: of checkpoints and log.
        device: `cpu` or `cuda:i`.
        resume: go on from the last checkpoint, where there is one.
        force: resume although configuration or data differ.
        evaluate: the online evaluation, every `run.knn_every` steps.
        written: is told of each checkpoint that is there, and of its step.
    """

    config: PretrainConfig
    split: ImageSplit
    data: dict[str, Any]
    folder: Path
    device: str
    resume: bool = False
    force: bool = False
    evaluate: OnlineEvaluation | None = None
    written: Callable[[Path, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training ended with.

    Attributes:
        step: steps that are done.
        finished: false where SIGTERM ended it early; its checkpoint is written.
        backbone: the teacher's, in evaluation mode.
    """

    step: int
    finished: bool
    backbone: nn.Module


def train(job: TrainingJob) -> Trained:
    """Trains until the last epoch's end, or until SIGTERM.

    Raises:
        RequestError: A checkpoint that does not fit, or numbers that cannot be divided; before any work.
        CellError: The loss is not finite, an image is damaged, or a checkpoint cannot be written.
    """
    config, rank = settled(job.config, torch.device(job.device)), rank_of_process()
    job = replace(job, config=config)
    shares = divide(config, len(job.split), world_size())
    state = initial_state(config, torch.device(job.device))
    checkpoints = CheckpointFolder(job.folder, config.run.keep_checkpoints)
    # Only the first rank writes there.
    with after_first_rank(lambda: checkpoints.hold() if rank == 0 else nullcontext()):
        return _train(job, state, checkpoints, shares)


def _train(job: TrainingJob, state: TrainingState, checkpoints: CheckpointFolder, shares: Shares) -> Trained:
    """Does the steps that the last checkpoint leaves."""
    config, device, rank = job.config, torch.device(job.device), rank_of_process()
    num_steps = config.epochs * shares.steps_per_epoch
    first_step = _restore(job, state, checkpoints, num_steps)
    student = _over_ranks(state.student, device)
    batches = load_batches(
        MultiCropImages(job.split, config.views, seed=config.seed, rank=rank),
        StepRequests(shares, seed=config.seed, rank=rank, first_step=first_step, num_steps=num_steps),
        workers=config.run.workers,
        pin_memory=device.type == "cuda",
    )
    views = DeviceViews(batches, config, device)
    log = TrainingLog(job.folder, config, num_steps=num_steps, first_step=first_step, active=rank == 0)
    done, stopping = first_step, False
    with (
        memory_kept(device.type),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _termination(lambda: done > first_step) as terminated,
        _interruption(lambda: done, checkpoints),
        log,
        CheckpointWriter(checkpoints, job.written) as writer,
    ):
        while done < num_steps and not stopping:
            number = done
            # Stochastic depth draws from torch's own generator, which starts anew in every step.
            torch.manual_seed(derived_seed(config.seed, "drop_path", rank, number))
            rates = rates_at(number, config, shares.steps_per_epoch)
            set_hyperparameters(state.optimizer, lr=rates.lr, weight_decay=rates.weight_decay)
            state.optimizer.zero_grad(set_to_none=True)
            step = Step(number=number, seed=config.seed, rank=rank, numbers=rates.of_method)
            state.method.begin(step)
            computed = forward_backward(config, state, student, views, step)
            read = _numbers_to_come(state, computed, clip(config, state, step))
            if begins_ahead(device):
                views.begin_next()
            # The one place where the host waits for the device: nothing moves before all is known to be finite.
            terms = _finite_terms(job, state, number, rates, computed, read())

            move(state, rates.momentum)

            done, last = number + 1, number + 1 == num_steps
            logs = last or done % config.run.log_every == 0
            log.step_done(number, written=logs)
            # Before the method's state changes: the indicators are of what the loss was made of.
            values = _indicators(state, computed.outputs) if logs else {}
            state.method.after_step(computed.kept)
            if job.evaluate is not None and config.run.knn_every and (last or done % config.run.knn_every == 0):
                with log.untimed():
                    values["knn"] = _evaluate(job.evaluate, state.teacher.backbone)
            if values:
                numbers = {"loss": sum(terms.values()), **terms, **rates.numbers(), **values}
                log.write(number, numbers, waited=batches.waited)
            # Ranks agree on stopping where they write the log, so that no step has a collective only for that.
            stopping = any_rank(terminated(), device) if logs or world_size() == 1 else False
            if last or stopping or done % config.run.checkpoint_every == 0:
                checkpoint = state.checkpoint(done, config.model_dump(mode="json"), job.data)
                if rank == 0:
                    writer.save(checkpoint)
            writer.check()
    return Trained(step=done, finished=done == num_steps, backbone=state.teacher.backbone.eval())


def _over_ranks(student: nn.Module, device: torch.device) -> nn.Module:
    """Returns what a step calls, so that gradients are averaged over ranks."""
    if world_size() == 1 or is_sharded(student):
        return student
    if device.type == "cuda":
        return DistributedDataParallel(student, device_ids=[device])
    parallel = DistributedDataParallel(student)
    parallel.register_comm_hook(None, lambda _, bucket: average_in_rank_order(bucket.buffer()))
    return parallel


def begins_ahead(device: torch.device) -> bool:
    """Returns whether the next views are begun before a step's numbers are waited for: a CPU has no time to gain."""
    return device.type == "cuda"


def clip(config: PretrainConfig, state: TrainingState, step: Step) -> Tensor:
    """Makes gradients what the optimizer is to see; returns their norms before clipping."""
    state.method.after_backward(state.student, step)
    if config.optimiser.clip is not None:
        state.scaler.unscale_(state.optimizer)
    return clip_each_gradient(state.student.parameters(), config.optimiser.clip)


def move(state: TrainingState, momentum: float) -> None:
    """Moves the student, and the teacher after it, in the order that the method asks for."""
    if state.method.teacher_first:
        update_teacher(state.teacher, state.student, momentum)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if not state.method.teacher_first:
        update_teacher(state.teacher, state.student, momentum)


@dataclass(frozen=True, kw_only=True)
class _Computed:
    """What a step computed before anything moved.

    Attributes:
        terms: scalars whose sum is the loss of this rank's images.
        outputs: of the networks for its last piece; no gradient.
        kept: rows of all pieces that the method keeps, by name.
    """

    terms: dict[str, Tensor]
    outputs: Outputs
    kept: dict[str, Tensor]


def forward_backward(
    config: PretrainConfig, state: TrainingState, student: nn.Module, views: Iterator[list[Tensor]], step: Step
) -> _Computed:
    """Computes the loss of a step and its gradients, piece by piece."""
    pieces = config.compute.accumulation
    device = next(state.student.parameters()).device
    terms: dict[str, Tensor] = {}
    kept: list[dict[str, Tensor]] = []
    for piece in range(pieces):
        if config.compute.compile == "graphs":
            # What the graphs of the last step returned is not needed any more.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        of_views, of_piece = next(views), replace(step, piece=piece)
        with nullcontext() if piece + 1 == pieces else _no_sync(student):
            with torch.autocast(device.type, dtype=state.autocast, enabled=state.autocast is not None):
                outputs = state.method.forward(student, state.teacher, of_views, of_piece)
            losses = state.method.loss(outputs, of_piece)
            loss = torch.stack(list(losses.values())).sum() / pieces
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for name, term in losses.items():
            share = term.detach() / pieces
            terms[name] = terms[name] + share if name in terms else share
        outputs = outputs.detached()
        kept.append(state.method.keep(outputs))
    rows = {name: torch.cat([each[name] for each in kept]) for name in kept[0]}
    return _Computed(terms=terms, outputs=outputs, kept=rows)


def _restore(job: TrainingJob, state: TrainingState, checkpoints: CheckpointFolder, num_steps: int) -> int:
    """Takes the state from the last checkpoint where that is asked for; returns the first step to do."""
    steps = checkpoints.steps()
    if not steps:
        return 0
    where = str(checkpoints.path(steps[-1]))
    if not job.resume:
        remedy = f"go on with {asked('resume')}, or choose another {asked('name')}"
        raise RequestError("an earlier run of this name", where=where, remedy=remedy)
    checkpoint = checkpoints.load(steps[-1])
    if not job.force:
        check_same_run(checkpoint, job.config.model_dump(mode="json"), job.data, where)
    written_by, name = checkpoint["config"]["optimiser"]["name"], job.config.optimiser.name
    if written_by != name:
        raise RequestError(
            f"{where}: optimiser.name: {written_by}, now {name}, which cannot go on from the other's state",
            remedy=f"keep {written_by}, or choose another {asked('name')}",
        )
    if checkpoint["step"] > num_steps:
        raise RequestError(
            f"{where}: {checkpoint['step']} steps are done, and {job.config.epochs} epochs are {num_steps}",
            remedy=f"give more epochs, or choose another {asked('name')}",
        )
    state.restore(checkpoint, where)
    return checkpoint["step"]


def _indicators(state: TrainingState, outputs: Outputs) -> dict[str, float]:
    """Returns signs of collapse in this rank's last piece, and the most memory of its GPU so far."""
    features_BD = outputs.features_GD[: len(outputs.features_GD) // 2]
    on = features_BD.device
    memory = {"gpu_memory_mb": torch.cuda.max_memory_allocated(on) / 1e6} if on.type == "cuda" else {}
    return {**state.method.indicators(outputs), "rankme": rankme(features_BD), **memory}


def _no_sync(student: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which gradients are not averaged over ranks yet."""
    if isinstance(student, DistributedDataParallel):
        return student.no_sync()
    return without_averaging(student) if is_sharded(student) else nullcontext()


def _evaluate(evaluate: OnlineEvaluation, backbone: nn.Module) -> float:
    # What is compiled, or recorded as a graph, is for the batches of a step.
    compiled = backbone._compiled_call_impl is not None
    backbone.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            return evaluate(backbone)
    finally:
        backbone.train()


def _numbers_to_come(state: TrainingState, computed: _Computed, norms: Tensor) -> Callable[[], dict[str, float]]:
    """Returns what reads the terms of the loss, and as `gradients` the sum of the gradients' norms."""
    # fp16's scaler deals with gradients itself: it leaves out a step whose gradients overflow.
    guarded = {} if state.scaler.is_enabled() else {"gradients": norms.sum()}
    return mean_numbers_to_come({**computed.terms, **guarded})


def _finite_terms(
    job: TrainingJob, state: TrainingState, step: int, rates: Rates, computed: _Computed, numbers: dict[str, float]
) -> dict[str, float]:
    """Returns the terms of the loss; stops where one, or a gradient, is not finite."""
    terms = dict(numbers)
    gradients = terms.pop("gradients", 0.0)
    if not math.isfinite(sum(terms.values()) + gradients):
        _stop(job, state, step, terms, rates, computed)
    return terms


def _stop(
    job: TrainingJob, state: TrainingState, step: int, terms: dict[str, float], rates: Rates, computed: _Computed
) -> NoReturn:
    """Saves what led to a loss or gradients that are not finite, and raises; the weights are those before the step."""
    path = job.folder / f"diagnostics-{step:08}-rank{rank_of_process()}.pth"
    content = {
        "step": step,
        "terms": terms,
        "rates": rates.numbers(),
        "student_rows": computed.outputs.student_NX.cpu(),
        "teacher_rows": computed.outputs.teacher_GX.cpu(),
        "not_finite": broken_tensors(state.student),
        "student": gathered(state.student.state_dict()),
        "teacher": state.teacher.state_dict(),
    }
    saved = f"see {path}"
    try:
        write_whole(path, content)
    except CellError as error:
        saved = str(error)
    what = "gradients are" if math.isfinite(sum(terms.values())) else "loss is"
    found = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    raise CellError(
        f"step {step}: the {what} not finite ({found}); no weight was changed; go on from the last checkpoint with "
        f"{asked('resume')} {asked('force')} and a smaller optimiser.lr, or compute.precision=fp32; {saved}"
    )


@contextlib.contextmanager
def _interruption(done: Callable[[], int], checkpoints: CheckpointFolder) -> Iterator[None]:
    """Lets Ctrl-C, which ends a step in its middle, say how far the training came and what is kept of it."""
    try:
        yield
    except KeyboardInterrupt:
        steps = checkpoints.steps()
        kept = f"the last checkpoint is {checkpoints.path(steps[-1])}" if steps else "no checkpoint was written yet"
        raise KeyboardInterrupt(f"interrupted after step {done()}; {kept}") from None


@contextlib.contextmanager
def _termination(moved: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether a signal to end has come; the step that runs is finished first.

    SIGTERM and SIGHUP (a terminal that closes) are the same, and another one changes nothing.

    Args:
        moved: whether a step was done. Before that there is nothing to keep: the process ends as it would outside.
    """
    came = False
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        outside = before[signal.Signals(number)]
        if not moved() and callable(outside):
            outside(number, frame)

    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            before[number] = signal.signal(number, handle)
    except ValueError:  # not in the main thread, where Python takes no signals: the caller's business
        yield lambda: came
        return
    try:
        yield lambda: came
    finally:
        for number, outside in before.items():
            signal.signal(number, outside)
