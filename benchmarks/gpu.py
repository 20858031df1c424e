"""What a card reaches: the objective, whole steps, views, small images, k-NN and the grid of `linear`.

Each part is a process of its own with an end to its time, and is kept when it is done: a card is there for minutes, and
a part that dies or hangs takes nothing else with it. `run(quick, device="cpu")` runs the same calls at their small
sizes where there is no card, to see that they run.

python -m benchmarks.gpu "step of ViT-S" …    # compiles ahead what these parts will time, as torch keeps it on the disk
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
import torch

import massl_bench as mb
from benchmarks.massl_objective import VIEWS, Inputs, make_inputs, plain
from benchmarks.measure import Bar, Comparison, Times, take_turns
from massl_bench.learners.logistic import Stopping, fit
from massl_bench.pretrain import carp_objective, massl_objective
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages
from massl_bench.pretrain.data.fused import fused_views
from massl_bench.pretrain.data.sample import SampleImages
from massl_bench.pretrain.data.views import photometric_views
from massl_bench.pretrain.loop.estimate import time_steps

SUMMARY = "on a card: objective, steps, views, small images, k-NN, linear; against torch and the published loops there"

KS = (10, 20, 100, 200)

SECONDS = 420.0
"""What `--seconds` sets: how long all parts together may take."""

_START = 20.0
"""Seconds that a part needs for anything at all: its process loads torch, and the card's libraries."""


@dataclass(frozen=True)
class Part:
    """A part, and the seconds that it may take."""

    measure: Callable[[bool, torch.device], Comparison]
    seconds: float


def parts(quick: bool) -> dict[str, Part]:
    """Returns the parts by name, in the order in which they run."""
    small, large = ((500, 100), (900, 100)) if quick else ((50_000, 10_000), (1_281_167, 50_000))
    return {
        "objective": Part(_objective, 60),
        "k-NN": Part(partial(_knn, *small), 60),
        "views": Part(_views, 90),
        "step of ViT-S": Part(partial(_step, "step of ViT-S", base=866, bar=1.8), 150),
        "small images": Part(_small, 120),
        "step of ViT-B": Part(partial(_step, "step of ViT-B", base=445, bar=1.5), 150),
        "k-NN at ImageNet's size": Part(partial(_knn, *large), 120),
        "linear": Part(_linear, 120),
        "step of CARP": Part(_carp, 60),
    }


_STEPS = {
    "step of ViT-S": ("massl-vits16-800ep", 128, []),
    "step of ViT-B": ("massl-vitb16-400ep", 64, []),
    "small images": ("small-cifar10", 256, ["backbone.widths=32,64,128,256"]),
    "step of CARP": ("carp-rn50-100ep", 128, []),
}
"""The preset, the images of a step, and what else is set."""


def run(quick: bool, device: str = "cuda:0") -> Iterator[Comparison]:
    """Yields the comparisons; about five minutes on an H100 where kernels are compiled already.

    Raises:
        SystemExit: There is no such card.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("gpu: no CUDA device on this machine")
    end = time.monotonic() + SECONDS
    for name, part in parts(quick).items():
        if device == "cpu":
            yield part.measure(quick, torch.device(device))
            continue
        start = time.monotonic()
        yield _in_a_process(name, quick, device, min(part.seconds, end - start))
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _in_a_process(name: str, quick: bool, device: str, seconds: float) -> Comparison:
    """Returns a part's comparison, or that it failed, and of what."""
    if seconds < _START:
        return _failed(name, "no time was left for it")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(sender, name, quick, device))
    process.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(seconds) else _failed(name, f"it was ended after {seconds:.0f} s")
    except EOFError:
        process.join(5)
        found = _failed(name, f"its process ended with code {process.exitcode}")
    process.join(5)
    if process.is_alive() and process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and the processes that compile for it
        process.join()
    return found


def _tell(sender: Connection, name: str, quick: bool, device: str) -> None:
    os.setsid()
    try:
        found = parts(quick)[name].measure(quick, torch.device(device))
    except Exception as error:
        traceback.print_exc()
        found = _failed(name, f"{type(error).__name__}: {error}")
    sender.send(found)


def _failed(name: str, why: str) -> Comparison:
    return Comparison(what=name, times={}, checks=((f"{name} runs: {why}", False),))


def _is_the_card_of_the_bars(device: torch.device) -> bool:
    """Returns whether it is an H100, of which the figures of before are."""
    return device.type == "cuda" and "H100" in torch.cuda.get_device_name(device)


def _waiting(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Returns a call that ends when the device has done it."""

    def both() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return both


def _turns(calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, Times]:
    return take_turns({name: _waiting(call, device) for name, call in calls.items()}, rounds)


def _peak_mb(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Calls, and returns the most memory over what was there before, as `ours`; nothing on a CPU."""
    if device.type != "cuda":
        call()
        return {}
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return {"ours": (torch.cuda.max_memory_allocated(device) - before) / 1e6}


def _objective(quick: bool, device: torch.device) -> Comparison:
    images, memory, block = (4, 1_024, 256) if quick else (128, 131_072, 16_384)
    made = make_inputs(images, memory, block)
    inputs = Inputs(
        student=made.student.detach().to(device).requires_grad_(),
        teacher=made.teacher.to(device),
        memory=made.memory.to(device),
        permutation=made.permutation.to(device),
        block_size=block,
    )

    def objective(by_attention: bool) -> tuple[torch.Tensor, torch.Tensor]:
        loss = massl_objective(
            inputs.student,
            inputs.teacher,
            inputs.memory,
            inputs.permutation,
            block_size=block,
            student_temp=0.1,
            teacher_temp=0.07,
            by_attention=by_attention,
        )
        return loss.detach(), torch.autograd.grad(loss, inputs.student)[0]

    def published() -> object:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return plain(inputs)

    (loss, grad), (exact_loss, exact_grad) = objective(True), objective(False)
    error = float((grad - exact_grad).norm() / exact_grad.norm())
    loss_error = abs(float(loss) - float(exact_loss)) / float(exact_loss)
    peak = _peak_mb(partial(objective, True), device)
    calls: dict[str, Callable[[], object]] = {
        "ours": partial(objective, True),
        "ours in float32": partial(objective, False),
        "published formulation, autocast": published,
    }
    checks = [
        (f"gradient within 5e-4 of float32: {error:.1e}", error <= 5e-4),
        (f"loss within 1e-5 of float32: {loss_error:.1e}", loss_error <= 1e-5),
    ]
    checks += [(f"at most 150 MB over its inputs: {each:.0f}", each <= 150) for each in peak.values()]
    return Comparison(
        what=f"objective, B {images}, V {VIEWS}, K {memory:,}, half precision",
        times=_turns(calls, device, 2 if quick else 20),
        bars=(Bar(call="ours in float32", ratio=5, kind="faster"),),
        peak_mb=peak,
        checks=tuple(checks),
    )


def _config(name: str, quick: bool, *settings: str) -> PretrainConfig:
    preset, images, given = _STEPS[name]
    vit = ["backbone.arch=vit_tiny_patch16_224", "massl.memory_size=1024", "massl.block_size=256"]
    small = vit if quick and "vit" in preset else []
    return load_config(preset, [f"batch_size={2 if quick else images}", *given, *small, *settings])


def _steps(
    name: str, quick: bool, device: torch.device, kinds: Mapping[str, tuple[str, ...]], count: int
) -> tuple[dict[str, Times], dict[str, float], list[str]]:
    """Returns times, images/s and words of a step under settings, by name; the first third of the steps warms up."""
    times, rates, words = {}, {}, []
    for call, settings in kinds.items():
        config = _config(name, quick, *settings)
        seconds = time_steps(config, config.batch_size, device, count=3 if quick else count)
        times[call] = Times(seconds=tuple(seconds[len(seconds) // 3 :]))
        rates[call] = config.batch_size / times[call].median
        words.append(f"{call} {rates[call]:,.0f} images/s, its first step {seconds[0]:.1f} s")
    return times, rates, words


_BEFORE = "eager, objective in float32"
"""The step of before, but for its patches, which were a convolution: 5 of 148 ms."""


def _step(name: str, quick: bool, device: torch.device, *, base: float, bar: float) -> Comparison:
    before, eager = ("compute.compile=false", "compute.objective=float32"), ("compute.compile=false",)
    kinds = {"ours": (), "ours, eager": eager, _BEFORE: before} if device.type == "cuda" else {"ours": eager}
    times, rates, words = _steps(name, quick, device, kinds, 30)
    preset, images, _ = _STEPS[name]
    if _is_the_card_of_the_bars(device):
        ratio, of = rates["ours"] / base, f"the {base:,.0f} images/s of before, on an H100"
    else:
        ratio, of = rates["ours"] / rates.get(_BEFORE, base), f"the step of before ({_BEFORE}) on this other card"
    return Comparison(
        what=f"whole step of {preset}, {images} images",
        times=times,
        checks=((f"at least {bar} × {of}: {ratio:.2f}", ratio >= bar),),
        notes=tuple(words),
    )


def _views(quick: bool, device: torch.device) -> Comparison:
    images = 2 if quick else 128
    views = load_config("massl-vits16-800ep").views
    batch = MultiCropImages(SampleImages.like(views), views, seed=0, rank=0)[BatchRequest(0, 0, range(images))]
    groups = [(group.pixels.to(device), group.photometric) for group in batch.groups]
    calls = {
        "ours": lambda: [fused_views(pixels, photometric, views) for pixels, photometric in groups],
        "eager": lambda: [photometric_views(pixels, photometric, views) for pixels, photometric in groups],
    }
    if device.type != "cuda":
        calls["ours"] = calls.pop("eager")  # as a CPU does
    times = _turns(calls, device, 2 if quick else 20)
    found = 1000 * times["ours"].median
    if _is_the_card_of_the_bars(device) or device.type != "cuda":
        check = f"at most 5 ms, of 13.3 before, on an H100: {found:.1f}", found <= 5
    else:
        faster = times["eager"].median / times["ours"].median
        check = f"at least 2.66 × as fast as eager on this other card: {faster:.2f}", faster >= 2.66
    return Comparison(what=f"views of {images} images on the device", times=times, checks=(check,))


def _small(quick: bool, device: torch.device) -> Comparison:
    graphs, eager = ("compute.compile=graphs",), ("compute.compile=false",)
    kinds = {"ours": graphs, "ours, eager": eager} if device.type == "cuda" else {"ours": eager}
    times, rates, words = _steps("small images", quick, device, kinds, 90)
    what = f"whole step of small-cifar10, {_STEPS['small images'][1]} images, without cutting them"
    if not _is_the_card_of_the_bars(device):  # what it was measured against was another card's whole training
        return Comparison(what=what, times=times, notes=(*words, "24,400 images/s is the bar of an H100"))
    check = f"at least 4 × the 6,100 images/s of before: {rates['ours']:,.0f}", rates["ours"] >= 24_400
    return Comparison(what=what, times=times, checks=(check,), notes=tuple(words))


def _carp(quick: bool, device: torch.device) -> Comparison:
    """What the objective costs beside its networks: no bar, and no faster path until this says that one would pay."""
    small = ("backbone.arch=resnet10t", "carp.num_prototypes=1024") if quick else ()
    times, _, words = _steps("step of CARP", quick, device, {"ours": small}, 15)
    config = _config("step of CARP", quick, *small)
    images, views, prototypes = config.batch_size, len(config.views.crops), config.parameters.num_prototypes
    student = torch.randn(views * images, prototypes, device=device, requires_grad=True)
    teacher, order = torch.randn(2 * images, prototypes, device=device), torch.randperm(prototypes, device=device)

    def objective() -> object:
        terms = carp_objective(student, teacher, order, block_size=config.parameters.block_size)
        return torch.autograd.grad(sum(terms), student)

    times |= _turns({"its objective alone": objective}, device, 2 if quick else 10)
    share = times["its objective alone"].median / times["ours"].median
    return Comparison(
        what=f"whole step of carp-rn50-100ep, {_STEPS['step of CARP'][1]} images",
        times=times,
        notes=(*words, f"the objective is {share:.1%} of the step"),
    )


def _published_knn(
    train_ND: torch.Tensor, labels_N: torch.Tensor, test_QD: torch.Tensor, classes: int
) -> dict[int, torch.Tensor]:
    """DINO's evaluation on the card: one search at the largest k, queries in 100 pieces, a vote for each k."""
    train_DN, test_QD = torch.nn.functional.normalize(train_ND).T, torch.nn.functional.normalize(test_QD)
    found: dict[int, list[torch.Tensor]] = {k: [] for k in KS}
    for piece_qD in test_QD.chunk(100):
        similarity_qK, index_qK = (piece_qD @ train_DN).topk(max(KS))
        for k in KS:
            votes_qC = torch.zeros(len(piece_qD), classes, device=piece_qD.device)
            votes_qC.scatter_add_(1, labels_N[index_qK[:, :k]], (similarity_qK[:, :k] / 0.07).exp())
            found[k].append(votes_qC.argmax(1))
    return {k: torch.cat(pieces).cpu() for k, pieces in found.items()}


def _knn(num_train: int, num_test: int, quick: bool, device: torch.device) -> Comparison:
    classes, banks = 10, dict[str, mb.FeatureBank]()
    on_card: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    generator = torch.Generator(device).manual_seed(0)
    for role, count in (("train", num_train), ("test", num_test)):
        features = torch.randn(count, 384, generator=generator, device=device)
        labels = torch.randint(classes, (count,), generator=generator, device=device)
        on_card[role] = features, labels
        banks[role] = mb.FeatureBank.from_arrays(features.cpu().numpy(), labels.cpu().numpy())
    lying_there = {role: replace(bank, on_device=on_card[role][0]) for role, bank in banks.items()}
    params = {"k": list(KS), "bootstrap_resamples": 1}

    def product() -> None:
        for piece_qD in torch.split(on_card["test"][0], 1024):
            piece_qD @ on_card["train"][0].T

    ours = partial(mb.evaluate, "knn", params=params, device=str(device))
    published = partial(_published_knn, *on_card["train"], on_card["test"][0], classes)
    top1, voted = ours(lying_there), published()
    right = {k: float((found == on_card["test"][1].cpu()).float().mean()) for k, found in voted.items()}
    apart = max(abs(top1[f"top1@{k}"].value - right[k]) for k in KS)
    calls: dict[str, Callable[[], object]] = {
        "ours": partial(ours, lying_there),
        "ours, from the host's memory": partial(ours, banks),
        "published loop on the card": published,
        "matrix product": product,
    }
    large = num_train > 1_000_000
    return Comparison(
        what=f"k-NN, {num_train:,} × 384, {num_test:,} queries, k = {', '.join(map(str, KS))}",
        times=_turns(calls, device, 1 if large or quick else 5),
        bars=(Bar(call="published loop on the card", ratio=2.5 if large else 1, kind="faster"),),
        checks=((f"top-1 as of the published loop: {100 * apart:.3f} points apart", apart <= 0.0005),),
    )


def _linear(quick: bool, device: torch.device) -> Comparison:
    count, dims, classes, strengths = (500, 16, 5, 5) if quick else (200_000, 384, 1_000, 45)
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=count)
    features = rng.standard_normal((count, dims), dtype=np.float32)
    features += 0.12 * rng.standard_normal((classes, dims), dtype=np.float32)[labels]
    grid = 10 ** np.linspace(-6, 5, strengths)
    stopping = Stopping(tolerance=1e-3, max_iterations=1000)
    few = slice(0, max(500, count // 20))
    fit(features[few], labels[few], classes, grid[::9], stopping, device=str(device))  # loads what it needs
    iterations: list[int] = []

    def ours() -> None:
        iterations[:] = [int(fit(features, labels, classes, grid, stopping, device=str(device)).iterations_P.sum())]

    size = 256 if quick else 8192
    left = torch.randn(size, size, device=device)
    product = f"a product of {size:,}² in float32"
    of_product = _turns({product: lambda: left @ left}, device, 5)[product]
    start = time.perf_counter()
    peak = _peak_mb(_waiting(ours, device), device)
    times = {"ours": Times(seconds=(time.perf_counter() - start,)), product: of_product}
    rate = 2 * size**3 / of_product.median
    # Each iteration of a problem is at least one pass: logits and gradient.
    limit = iterations[0] * 4 * count * dims * classes / rate
    ratio = times["ours"].median / limit
    return Comparison(
        what=f"linear, {count:,} × {dims} × {classes:,}, {strengths} strengths",
        times=times,
        checks=(
            (f"at most 2.5 × its arithmetic at the card's float32 rate ({limit:.3g} s): {ratio:.2f}", ratio <= 2.5),
        ),
        peak_mb=peak,
        notes=(f"{iterations[0]} iterations",),
    )


if __name__ == "__main__":
    for each in sys.argv[1:]:
        graphs = ("compute.compile=graphs",) if each == "small images" else ()
        asked = _config(each, False, *graphs)
        (taken,) = time_steps(asked, asked.batch_size, torch.device("cuda:0"), count=1)
        print(f"{each}: its first step, which compiles, took {taken:.0f} s", flush=True)
