"""Pretraining on a GPU against the golden values and against the CPU; skipped, with the reason, where there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.massl_objective import make_inputs
from massl_bench.pretrain import carp_objective, massl_objective
from massl_bench.pretrain.backbones import build_backbone
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages
from massl_bench.pretrain.data.fused import fused_views
from massl_bench.pretrain.data.views import photometric_views
from massl_bench.pretrain.distributed import mean_numbers_to_come
from massl_bench.pretrain.loop import trainer
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.feeding import DeviceViews
from massl_bench.pretrain.loop.state import initial_state, rates_at
from massl_bench.pretrain.methods import Step
from tests.pretrain.runs import A_HUNDRED_STEPS, BATCH, WHOLE_IMAGES, carp_of, digits, falls, losses, run
from tests.pretrain.test_fused_views import every_kind

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
STEPS = 12
GPU = "cuda:0"
SOP_IN_ONE_EPOCH = ["epochs=1", "sop.teacher_temp_warmup_epochs=0", "optimiser.warmup_epochs=0"]


@pytest.fixture(autouse=True)
def _without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = tmp_path_factory.mktemp("cpu")
    run(folder, load_config("tiny-digits", WHOLE_IMAGES), STEPS)
    return losses(folder)


def on_gpu(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cuda() if torch.is_tensor(value) else value for name, value in arrays.items()}


def test_golden_massl_objective(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = on_gpu(golden("massl_objective.npz"))
    student = arrays["student"].requires_grad_()
    loss = massl_objective(
        student,
        *(arrays[name] for name in ("teacher", "memory", "permutation")),
        **{name: arrays[name] for name in ("block_size", "student_temp", "teacher_temp")},
    )
    loss.backward()
    assert loss.item() == pytest.approx(arrays["loss"], rel=1e-5)
    assert (student.grad - arrays["grad_student"]).norm() <= 1e-5 * arrays["grad_student"].norm()


def test_golden_carp_objective(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = on_gpu(golden("carp_objective.npz"))
    student = arrays["student_logits"].requires_grad_()
    consistency, entropy = carp_objective(
        student, arrays["teacher_logits"], arrays["permutation"], block_size=arrays["block_size"]
    )
    (consistency + entropy).backward()
    assert consistency.item() == pytest.approx(arrays["consistency"], rel=1e-5)
    assert entropy.item() == pytest.approx(arrays["entropy"], rel=1e-5)
    assert (student.grad - arrays["grad_student"]).norm() <= 1e-5 * arrays["grad_student"].norm()


@pytest.mark.parametrize(
    "setting",
    [
        "compute.objective=attention",
        "compute.accumulation=1",
        "compute.accumulation=4",
        "compute.channels_last=true",
        "compute.gradient_checkpointing=true",
        "compute.compile=true",
        "compute.compile=graphs",
    ],
)
def test_losses_are_those_of_the_cpu(on_the_cpu: list[float], tmp_path: Path, setting: str) -> None:
    """float32 in other kernels, and twelve steps in which differences of rounding grow."""
    run(tmp_path, load_config("tiny-digits", [*WHOLE_IMAGES, setting]), STEPS, device=GPU)
    assert losses(tmp_path) == pytest.approx(on_the_cpu, rel=1e-3)


@pytest.mark.parametrize("method", ["massl", "massl, compiled", "carp", "sop"])
def test_views_forward_and_backward_do_not_wait_for_the_device(method: str) -> None:
    strong = [f"views.{name}=0.8" for name in ("flip", "jitter", "grey")]
    strong += [f"views.{view}.{name}=0.5" for view in ("global_1", "local") for name in ("blur", "solarise")]
    compiled = ["compute.compile=true"] if "compiled" in method else []
    config = load_config("tiny-digits", [*WHOLE_IMAGES, *strong, *compiled])
    if method == "carp":
        config = carp_of(config)
    elif method == "sop":
        config = load_config("sop-tiny-digits", [f"batch_size={BATCH}", *strong])
    state = initial_state(config, torch.device(GPU))
    images = MultiCropImages(digits(BATCH), config.views, seed=0, rank=0)
    try:
        for step in range(3):
            batch = images[BatchRequest(step, 0, range(BATCH))].pin_memory()
            torch.cuda.synchronize()
            # The first steps load kernels and fill torch's pool of pinned memory.
            torch.cuda.set_sync_debug_mode("error" if step == 2 else "default")
            place = Step(number=step, seed=config.seed, numbers=rates_at(step, config, steps_per_epoch=3).of_method)
            state.method.begin(place)
            views = DeviceViews([batch], state.method.config, torch.device(GPU))
            trainer.forward_backward(config, state, state.student, views, place)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(
    on_the_cpu: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    setting = f"compute.precision={precision}"
    config = load_config("tiny-digits", [*A_HUNDRED_STEPS, setting])
    assert run(tmp_path / "long", config, 21, device=GPU).step == 105
    assert falls(losses(tmp_path / "long"))
    checkpoint = CheckpointFolder(tmp_path / "long", 1).load(105)
    assert checkpoint["method"]["memory"].dtype == torch.float32
    assert bool(checkpoint["scaler"]) == (precision == "fp16")

    # At fp16's usual first scale some steps overflow and are left out: a smaller one compares the same steps.
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=256.0))
    run(tmp_path / "short", load_config("tiny-digits", [*WHOLE_IMAGES, setting]), STEPS, device=GPU)
    assert losses(tmp_path / "short") == pytest.approx(on_the_cpu, rel=0.01)


def test_carp_on_a_gpu(tmp_path: Path) -> None:
    config = carp_of(load_config("tiny-digits", WHOLE_IMAGES))
    run(tmp_path / "cpu", config, STEPS)
    run(tmp_path / "gpu", config, STEPS, device=GPU)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)


def test_sop_on_a_gpu(tmp_path: Path) -> None:
    config = load_config("sop-tiny-digits", [f"batch_size={BATCH}", "run.log_every=1", *SOP_IN_ONE_EPOCH])
    run(tmp_path / "cpu", config, 4)
    run(tmp_path / "gpu", config, 4, device=GPU)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-2)


@pytest.mark.parametrize("compiles", ["false", "graphs"])
def test_a_resumed_run_goes_on(tmp_path: Path, compiles: str) -> None:
    """Near, not bit for bit: a GPU adds up gradients in any order."""
    config = load_config("tiny-digits", [*WHOLE_IMAGES, "run.checkpoint_every=5", f"compute.compile={compiles}"])
    run(tmp_path / "whole", config, STEPS, device=GPU)
    run(tmp_path / "cut", config, STEPS, device=GPU)
    CheckpointFolder(tmp_path / "cut", 1).path(STEPS).unlink()
    assert run(tmp_path / "cut", config, STEPS, device=GPU, resume=True).step == STEPS
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


def test_golden_massl_objective_by_attention(golden: Callable[[str], dict[str, Any]]) -> None:
    """float16 on few rows: a thousandth of the gradient, where a training's sizes keep to half of it."""
    arrays = on_gpu(golden("massl_objective.npz"))
    student = arrays["student"].requires_grad_()
    loss = massl_objective(
        student,
        *(arrays[name] for name in ("teacher", "memory", "permutation")),
        **{name: arrays[name] for name in ("block_size", "student_temp", "teacher_temp")},
        by_attention=True,
    )
    loss.backward()
    assert loss.item() == pytest.approx(arrays["loss"], rel=1e-4)
    assert (student.grad - arrays["grad_student"]).norm() <= 2e-3 * arrays["grad_student"].norm()


def test_attention_over_the_memory_at_the_published_size() -> None:
    """B = 128, V = 12, K = 131,072: within the bars of float32, and at most 150 MB over the inputs."""
    inputs = make_inputs(128, 131_072, 16_384)
    student = inputs.student.detach().to(GPU).requires_grad_()
    rest = [each.to(GPU) for each in (inputs.teacher, inputs.memory, inputs.permutation)]
    found = {}
    for by_attention in (False, True):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = massl_objective(
            student, *rest, block_size=16_384, student_temp=0.1, teacher_temp=0.07, by_attention=by_attention
        )
        (gradient,) = torch.autograd.grad(loss, student)
        found[by_attention] = loss.item(), gradient, torch.cuda.max_memory_allocated() - before
    (exact, exact_gradient, _), (loss_of_half, gradient_of_half, memory) = found[False], found[True]
    assert loss_of_half == pytest.approx(exact, rel=1e-5)
    assert (gradient_of_half - exact_gradient).norm() <= 5e-4 * exact_gradient.norm()
    assert memory <= 150e6


def test_half_precision_takes_attention_and_says_so(tmp_path: Path) -> None:
    run(tmp_path, load_config("tiny-digits", [*WHOLE_IMAGES, "compute.precision=bf16"]), STEPS, device=GPU)
    kept = CheckpointFolder(tmp_path, 1).load(STEPS)["config"]["compute"]
    assert (kept["objective"], kept["precision"]) == ("attention", "bf16")


def test_patches_by_a_matrix_product_are_the_convolution() -> None:
    network = build_backbone(load_config("massl-vits16-800ep").backbone, 224, 0.0).patch_embed
    images = torch.rand(3, 3, 230, 224)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), network.to(GPU)(images.to(GPU)).cpu(), rtol=1e-4, atol=1e-5)


def test_views_in_few_passes() -> None:
    pixels, drawn = every_kind(60, 32)
    views = load_config("massl-vits16-800ep").views
    expected = photometric_views(pixels, drawn, views)
    for make in (fused_views, photometric_views):
        near = (make(pixels.to(GPU), drawn, views).cpu() - expected).abs() < 1e-4
        assert near.float().mean() > 0.9999
        assert (drawn.solarise[:, None, None, None] | near).all()


def test_the_next_views_do_not_wait_for_a_step_s_numbers() -> None:
    """What is read is known before the work that was ordered behind it is done."""
    values = torch.ones(1, device=GPU)
    read = mean_numbers_to_come({"loss": values.sum()})
    busy = torch.rand(8192, 8192, device=GPU)
    for _ in range(20):
        busy = busy @ busy
    done = torch.cuda.current_stream().record_event()
    assert read() == {"loss": 1.0}
    assert not done.query()
