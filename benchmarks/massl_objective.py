"""Time and memory of the MaSSL objective against its own matrix products and against the plain formulation.

    python benchmarks/massl_objective.py
    python benchmarks/massl_objective.py --images 128 --threads 8

Shapes: V views of B images, N = V·B student rows, G = 2·B teacher rows, D dimensions, K memory rows, S rows of a block.
Peak memory is read from /proc (Linux) in a fresh process for each formulation, over what its inputs take.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Bar, Comparison, peak_mb
from benchmarks.measure import take_turns as measured
from massl_bench.pretrain import massl_objective

SUMMARY = "MaSSL's objective with its gradient, against the published formulation and its own matrix products"

STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.07


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Unit rows `student` [N, D], `teacher` [G, D] and `memory` [K, D]; the `permutation` [K] that blocks cut."""

    student: Tensor
    teacher: Tensor
    memory: Tensor
    permutation: Tensor
    block_size: int


def make_inputs(options: argparse.Namespace, memory_size: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def unit_rows(num_rows: int) -> Tensor:
        rows_RD = torch.randn(num_rows, options.dim, generator=generator)
        return rows_RD.div_(torch.linalg.vector_norm(rows_RD, dim=1, keepdim=True))

    return Inputs(
        student=unit_rows(options.views * options.images).requires_grad_(),
        teacher=unit_rows(2 * options.images),
        memory=unit_rows(memory_size),
        permutation=torch.randperm(memory_size, generator=generator),
        block_size=min(options.block, memory_size),
    )


def ours(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Loss and gradient from the package."""
    loss = massl_objective(
        inputs.student,
        inputs.teacher,
        inputs.memory,
        inputs.permutation,
        block_size=inputs.block_size,
        student_temp=STUDENT_TEMP,
        teacher_temp=TEACHER_TEMP,
    )
    return loss.detach(), torch.autograd.grad(loss, inputs.student)[0]


def plain(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Loss and gradient as the paper writes them: whole logit matrices in blocks, a cross-entropy for each pair."""
    num_images = len(inputs.teacher) // 2
    logits_NK, targets_GK = (
        (rows_RD @ inputs.memory.T / temperature)[:, inputs.permutation]
        for rows_RD, temperature in ((inputs.student, STUDENT_TEMP), (inputs.teacher, TEACHER_TEMP))
    )
    student_views = [blocks_BPS(view_BK, inputs) for view_BK in torch.split(logits_NK, num_images)]
    teacher_views = [blocks_BPS(view_BK, inputs).softmax(2) for view_BK in torch.split(targets_GK, num_images)]
    losses = [
        -(target_BPS * student_BPS.log_softmax(2)).sum(2).mean()
        for j, target_BPS in enumerate(teacher_views)
        for i, student_BPS in enumerate(student_views)
        if i != j
    ]
    loss = torch.stack(losses).mean()
    return loss.detach(), torch.autograd.grad(loss, inputs.student)[0]


def blocks_BPS(view_BK: Tensor, inputs: Inputs) -> Tensor:
    return view_BK.view(view_BK.shape[0], -1, inputs.block_size)


FORMULATIONS: dict[str, Callable[[Inputs], tuple[Tensor, Tensor]]] = {"ours": ours, "plain": plain}


def matrix_products(inputs: Inputs) -> Callable[[], None]:
    """The products that no exact formulation can avoid, z·Mᵀ, p·M and t·Mᵀ per block, into buffers made beforehand."""
    student_ND, teacher_GD = inputs.student.detach(), inputs.teacher
    logits_NS = torch.empty(len(student_ND), inputs.block_size)
    targets_GS = torch.empty(len(teacher_GD), inputs.block_size)
    means_ND = torch.empty_like(student_ND)

    def run() -> None:
        for block_SD in torch.split(inputs.memory, inputs.block_size):
            torch.mm(student_ND, block_SD.T, out=logits_NS)
            torch.mm(logits_NS, block_SD, out=means_ND)
            torch.mm(teacher_GD, block_SD.T, out=targets_GS)

    return run


def run(quick: bool) -> list[Comparison]:
    """Returns the comparisons at the published size, and at a smaller memory that the published formulation fits."""
    images, block = (4, 256) if quick else (64, 16_384)
    sizes = (1_024, 2_048) if quick else (32_768, 131_072)
    options = argparse.Namespace(images=images, views=12, dim=256, block=block)
    found = []
    for memory_size in sizes:
        inputs = make_inputs(options, memory_size)
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(ours, inputs),
            "its matrix products": matrix_products(inputs),
        }
        bars = [Bar(call="its matrix products", ratio=1.2)]
        notes = []
        if memory_size == sizes[0]:
            calls["published formulation"] = partial(plain, inputs)
            bars.append(Bar(call="published formulation", ratio=8, kind="faster"))
            (loss, grad_ND), (plain_loss, plain_grad_ND) = ours(inputs), plain(inputs)
            error = float((grad_ND - plain_grad_ND).norm() / plain_grad_ND.norm())
            notes.append(
                f"loss {float(loss):.6f}, published {float(plain_loss):.6f}; relative gradient error {error:.1e}"
            )
        found.append(
            Comparison(
                what=f"B {images}, V 12, D 256, K {memory_size:,}, blocks of {block:,}",
                times=measured(calls, 1 if quick else 3),
                bars=tuple(bars),
                peak_mb={name: peak_mb(call) for name, call in calls.items() if name != "its matrix products"},
                notes=tuple(notes),
            )
        )
    return found


def take_turns(functions: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each function, run in turns so that other load meets all alike; the first turn is not counted."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, taken in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - start)
    return seconds


def process_memory(field: str) -> float:
    """MB of this process: VmRSS (now) or VmHWM (highest so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}; this benchmark measures memory on Linux only")


def report_peak(options: argparse.Namespace) -> None:
    """Run one formulation once, nothing warm, and print the highest resident memory over that with the inputs made."""
    inputs = make_inputs(options, options.memory)
    before = process_memory("VmRSS")
    FORMULATIONS[options.report_peak](inputs)
    print(process_memory("VmHWM") - before)


def peak_in_new_process(options: argparse.Namespace, formulation: str, memory_size: int) -> float:
    arguments = {"images": options.images, "views": options.views, "dim": options.dim, "block": options.block}
    arguments |= {"memory": memory_size, "threads": options.threads, "report-peak": formulation}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in arguments.items())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_rows(options: argparse.Namespace, memory_size: int, formulations: list[str]) -> None:
    inputs = make_inputs(options, memory_size)
    functions: list[Callable[[], object]] = [
        matrix_products(inputs),
        *(partial(FORMULATIONS[name], inputs) for name in formulations),
    ]
    seconds = take_turns(functions, options.repeats)
    for name, taken in zip(["matrix products", *formulations], seconds, strict=True):
        times = f"{min(taken):>9.3f} {statistics.median(taken):>9.3f} {min(taken) / min(seconds[0]):>6.2f}"
        peak = f"{peak_in_new_process(options, name, memory_size):>8.0f}" if name in FORMULATIONS else ""
        print(f"{name:<16} {memory_size:>8} {times} {peak}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--memory", type=int, default=131_072)
    parser.add_argument("--block", type=int, default=16_384)
    parser.add_argument("--plain-memory", type=int, default=32_768, help="smaller memory for the plain formulation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--report-peak", choices=sorted(FORMULATIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.report_peak:
        report_peak(options)
        return

    print(f"B {options.images}, V {options.views}, D {options.dim}, block {options.block}, {options.threads} threads\n")
    print(f"{'':<16} {'K':>8} {'best s':>9} {'median s':>9} {'ratio':>6} {'peak MB':>8}")
    print_rows(options, options.memory, ["ours"])
    print_rows(options, options.plain_memory, ["ours", "plain"])

    inputs = make_inputs(options, options.plain_memory)
    (loss, grad_ND), (plain_loss, plain_grad_ND) = ours(inputs), plain(inputs)
    error = float((grad_ND - plain_grad_ND).norm() / plain_grad_ND.norm())
    print(f"\nloss {float(loss):.6f}, plain {float(plain_loss):.6f}; relative gradient error {error:.1e}")


if __name__ == "__main__":
    main()
