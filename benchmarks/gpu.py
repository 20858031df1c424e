"""What a card reaches: the objective, whole steps, views, small images, k-NN and the grid of `linear`.

`run(quick, device="cpu")` runs the same calls at their small sizes where there is no card, to see that they run.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

import massl_bench as mb
from benchmarks.massl_objective import VIEWS, Inputs, make_inputs, plain
from benchmarks.measure import Bar, Comparison, Times, take_turns
from massl_bench.learners.logistic import Stopping, fit
from massl_bench.pretrain import massl_objective
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages
from massl_bench.pretrain.data.fused import fused_views
from massl_bench.pretrain.data.sample import SampleImages
from massl_bench.pretrain.data.views import photometric_views
from massl_bench.pretrain.loop.estimate import time_steps

SUMMARY = "on a card: objective, steps, views, small images, k-NN, linear; against torch and the published loops there"

KS = (10, 20, 100, 200)


def run(quick: bool, device: str = "cuda:0") -> list[Comparison]:
    """Returns the comparisons; about eight minutes on an H100.

    Raises:
        SystemExit: There is no such card.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("gpu: no CUDA device on this machine")
    place = torch.device(device)
    parts: dict[str, Callable[[], Comparison]] = {
        "objective": partial(_objective, quick, place),
        "step of ViT-S": partial(_step, "massl-vits16-800ep", 128, quick, place, base=866),
        "step of ViT-B": partial(_step, "massl-vitb16-400ep", 64, quick, place, base=445),
        "views": partial(_views, quick, place),
        "small images": partial(_small, quick, place),
    }
    for size in [(500, 100)] if quick else [(50_000, 10_000), (1_281_167, 50_000)]:
        parts[f"k-NN of {size[0]:,}"] = partial(_knn, *size, quick, place)
    parts["linear"] = partial(_linear, quick, place)
    if device == "cpu":
        return [part() for part in parts.values()]
    return [_or_why_not(name, part) for name, part in parts.items()]


def _or_why_not(name: str, part: Callable[[], Comparison]) -> Comparison:
    """Returns a part's comparison, or that it failed: a card is there for minutes, and the others are to run."""
    torch.cuda.empty_cache()
    start = time.monotonic()
    try:
        found = part()
    except Exception as error:
        traceback.print_exc()
        found = Comparison(what=name, times={}, checks=((f"{name} runs: {type(error).__name__}: {error}", False),))
    print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return found


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
    """Returns the most memory of a call over what was there before it, as `ours`; nothing on a CPU."""
    if device.type != "cuda":
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


def _step(preset: str, images: int, quick: bool, device: torch.device, *, base: float) -> Comparison:
    small = ["backbone.arch=vit_tiny_patch16_224", "massl.memory_size=1024", "massl.block_size=256"] if quick else []
    images = 2 if quick else images
    times, rates = {}, {}
    kinds = {"ours": "auto", "ours, eager": "false"} if device.type == "cuda" else {"ours": "false"}
    for name, fuses in kinds.items():
        config = load_config(preset, [f"batch_size={images}", f"compute.compile={fuses}", *small])
        seconds = time_steps(config, images, device, count=3 if quick else 25)
        times[name] = Times(seconds=tuple(seconds[-1:] if quick else seconds[5:]))
        rates[name] = images / times[name].median
    bar = 1.8 if "vits" in preset else 1.5
    ratio = rates["ours"] / base
    said = "; ".join(f"{name} {rate:,.0f} images/s" for name, rate in rates.items())
    return Comparison(
        what=f"whole step of {preset}, {images} images",
        times=times,
        checks=((f"at least {bar} × the {base:,.0f} images/s of before, on an H100: {ratio:.2f}", ratio >= bar),),
        notes=(said,),
    )


def _views(quick: bool, device: torch.device) -> Comparison:
    images = 2 if quick else 128
    views = load_config("massl-vits16-800ep").views
    batch = MultiCropImages(SampleImages.like(views), views, seed=0, rank=0)[BatchRequest(0, 0, range(images))]
    groups = [(group.pixels.to(device), group.photometric) for group in batch.groups]
    calls = {
        "ours": lambda: [fused_views(pixels, photometric, views) for pixels, photometric in groups],
        "ours, eager": lambda: [photometric_views(pixels, photometric, views) for pixels, photometric in groups],
    }
    if device.type != "cuda":
        calls["ours"] = calls.pop("ours, eager")  # as a CPU does
    times = _turns(calls, device, 2 if quick else 20)
    found = 1000 * times["ours"].median
    return Comparison(
        what=f"views of {images} images on the device",
        times=times,
        checks=((f"at most 5 ms: {found:.1f}", found <= 5),),
    )


def _small(quick: bool, device: torch.device) -> Comparison:
    images, count, first = (16, 3, 1) if quick else (256, 60, 20)
    times, notes = {}, []
    kinds = {"ours": "graphs", "ours, eager": "false"} if device.type == "cuda" else {"ours": "false"}
    for name, compiles in kinds.items():
        settings = [f"batch_size={images}", "backbone.widths=32,64,128,256", f"compute.compile={compiles}"]
        seconds = time_steps(load_config("small-cifar10", settings), images, device, count=count)
        times[name] = Times(seconds=tuple(seconds[first:]))
        notes.append(f"{name} {images / times[name].median:,.0f} images/s, first step {seconds[0]:.1f} s")
    rate = images / times["ours"].median
    return Comparison(
        what=f"whole step of small-cifar10, {images} images, without cutting them",
        times=times,
        checks=((f"at least 4 × the 6,100 images/s of before: {rate:,.0f}", rate >= 24_400),),
        notes=tuple(notes),
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
    rng, classes = np.random.default_rng(0), 10
    arrays = {}
    for role, count in (("train", num_train), ("test", num_test)):
        labels = rng.integers(0, classes, count)
        arrays[role] = (rng.standard_normal((count, 384), dtype=np.float32), labels)
    banks = {role: mb.FeatureBank.from_arrays(*each) for role, each in arrays.items()}
    train, test = (torch.from_numpy(arrays[role][0]).to(device) for role in ("train", "test"))
    labels_of_train = torch.from_numpy(arrays["train"][1]).to(device)
    params = {"k": list(KS), "bootstrap_resamples": 1}

    def product() -> None:
        for piece_qD in torch.split(test, 1024):
            piece_qD @ train.T

    calls = {
        "ours": lambda: mb.evaluate("knn", banks, params=params, device=str(device)),
        "published loop on the card": lambda: _published_knn(train, labels_of_train, test, classes),
        "matrix product": product,
    }
    large = num_train > 1_000_000
    return Comparison(
        what=f"k-NN, {num_train:,} × 384, {num_test:,} queries, k = {', '.join(map(str, KS))}",
        times=_turns(calls, device, 1 if large or quick else 3),
        bars=(Bar(call="published loop on the card", ratio=2.5 if large else 1, kind="faster"),),
    )


def _linear(quick: bool, device: torch.device) -> Comparison:
    count, dims, classes, strengths = (500, 16, 5, 5) if quick else (200_000, 384, 1_000, 45)
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=count)
    features = rng.standard_normal((count, dims), dtype=np.float32)
    features += 0.12 * rng.standard_normal((classes, dims), dtype=np.float32)[labels]
    grid = 10 ** np.linspace(-6, 5, strengths)
    stopping = Stopping(tolerance=1e-3, max_iterations=1000)
    iterations: list[int] = []

    def ours() -> None:
        fitted = fit(features, labels, classes, grid, stopping, device=str(device))
        iterations[:] = [int(fitted.iterations_P.sum())]

    size = 256 if quick else 8192
    left = torch.randn(size, size, device=device)
    calls = {"ours": ours, f"a product of {size:,}² in float32": lambda: left @ left}
    times = _turns(calls, device, 1)
    rate = 2 * size**3 / times[f"a product of {size:,}² in float32"].median
    # Each iteration of a problem is at least one pass: logits and gradient.
    limit = iterations[0] * 4 * count * dims * classes / rate
    ratio = times["ours"].median / limit
    return Comparison(
        what=f"linear, {count:,} × {dims} × {classes:,}, {strengths} strengths",
        times=times,
        checks=(
            (f"at most 2.5 × its arithmetic at the card's float32 rate ({limit:.3g} s): {ratio:.2f}", ratio <= 2.5),
        ),
        peak_mb=_peak_mb(ours, device),
        notes=(f"{iterations[0]} iterations",),
    )
