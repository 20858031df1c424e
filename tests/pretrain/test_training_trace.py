"""Four steps of the official trainer, replayed from its checkpoint with the package's pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from massl_bench.models.networks.vit import MasslVisionTransformer
from massl_bench.pretrain import MemoryBank, MultiCropNetwork, Projector, massl_objective
from massl_bench.pretrain.loop.optimizers import (
    clip_each_gradient,
    parameter_groups,
    set_hyperparameters,
    update_teacher,
)


@pytest.fixture
def network(official_checkpoint: dict[str, Any]) -> MultiCropNetwork:
    backbone = MasslVisionTransformer(img_size=224, patch_size=16, embed_dim=64, depth=2, num_heads=1)
    head = Projector(64, hidden_dim=256, out_dim=32, batch_norm=False, unit_norm=True)
    network = MultiCropNetwork(backbone, head)
    network.load_state_dict(official_checkpoint["teacher"], strict=True)
    return network


GPU = pytest.param(
    "cuda:0",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")],
)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_training_trace(network: Any, golden: Callable[[str], dict[str, Any]], golden_dir: Path, device: Any) -> None:
    trace = golden("training_trace.npz")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    views = [
        ((trace[name] / 255 - mean[:, None, None]) / std[:, None, None]).to(device)
        for name in ("global_1", "global_2", "local_1", "local_2")
    ]
    student, teacher = network.to(device), deepcopy(network).to(device).requires_grad_(False)
    bank = MemoryBank(64, 32, generator=torch.Generator(), device=device)
    bank.load_state_dict({"memory": trace["memory_before"], "pointer": 0})
    optimizer = torch.optim.AdamW(parameter_groups(student, weight_decay=0.0))  # type: ignore[arg-type]

    losses = []
    for step, permutation in enumerate(trace["permutations"]):
        set_hyperparameters(optimizer, lr=trace["lr"][step].item(), weight_decay=trace["weight_decay"][step].item())
        teacher_rows = teacher(views[:2])
        loss = massl_objective(
            student(views),
            teacher_rows,
            bank.memory,
            permutation.to(device),
            block_size=trace["block_size"],
            student_temp=trace["student_temp"],
            teacher_temp=trace["teacher_temp"][step].item(),
        )
        bank.store(teacher_rows[len(teacher_rows) // 2 :])
        optimizer.zero_grad()
        loss.backward()
        clip_each_gradient(student.parameters(), max_norm=trace["clip"])
        optimizer.step()
        update_teacher(teacher, student, trace["momentum"][step].item())
        losses.append(loss.item())

    assert losses == pytest.approx(trace["losses"].tolist(), rel=1e-3)
    assert (bank.memory.cpu() - trace["memory_after"]).abs().max() <= 1e-3
    expected = json.loads((golden_dir / "training_trace_parameters.json").read_text())
    for name, model in (("student_abs_sum", student), ("teacher_abs_sum", teacher)):
        sums = {key: tensor.abs().sum(dtype=torch.float64).item() for key, tensor in model.state_dict().items()}
        assert sums == pytest.approx(expected[name], rel=1e-3)
