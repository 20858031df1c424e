"""SOP: its objective and three steps of its trainer, as the authors' code computed them, and values by hand."""

from __future__ import annotations

import math
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from massl_bench.bench.evaluation import evaluate
from massl_bench.core.errors import RequestError
from massl_bench.models.networks.vit import MasslVisionTransformer
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.holdout import Holdout
from massl_bench.pretrain.export import evaluation_preprocessing
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.log import read_log
from massl_bench.pretrain.loop.optimizers import (
    clip_each_gradient,
    parameter_groups,
    set_hyperparameters,
    update_teacher,
)
from massl_bench.pretrain.loop.state import initial_network
from massl_bench.pretrain.losses.sop import Prototypes, class_loss, masked_patch_loss
from massl_bench.pretrain.methods.sop import MaskedNetwork, block_mask
from massl_bench.pretrain.network import Projector
from tests.pretrain.runs import digits, run


def order_of(candidates: Tensor, size: int) -> Tensor:
    """A permutation that begins with the candidates."""
    rest = [row for row in range(size) if row not in set(candidates.tolist())]
    return torch.cat([candidates, torch.tensor(rest)])


def draws_of(memory: Tensor, candidates_TP: Tensor, selected_TQ: Tensor | None, supports: int) -> list[Prototypes]:
    return [
        Prototypes.of(
            memory,
            order_of(candidates, len(memory)),
            len(candidates),
            None if selected_TQ is None else selected_TQ[draw],
            supports,
            0.1,
        )
        for draw, candidates in enumerate(candidates_TP)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_objective_is_the_authors(golden: Any, dtype: torch.dtype) -> None:
    arrays = golden("sop_objective.npz")
    rows = {
        name: arrays[name].to(dtype)
        for name in (
            "student_class",
            "teacher_class",
            "student_patches",
            "teacher_patches",
            "class_memory",
            "patch_memory",
        )
    }
    temps = arrays["student_temp"], arrays["teacher_temp"]
    classes = draws_of(
        rows["class_memory"], arrays["class_candidates"], arrays["class_selected"], arrays["class_num_supports"]
    )
    patches = draws_of(rows["patch_memory"], arrays["patch_candidates"], None, arrays["patch_num_supports"])
    for draw, expected in zip(classes, arrays["class_supports"], strict=True):
        assert torch.equal(draw.supports_QE.sort(1).values, expected.sort(1).values)
        assert torch.equal(draw.supports_QE[:, -1], expected[:, -1])
    for draw, expected in zip(classes, arrays["class_teacher_probs"], strict=True):
        found = draw.assign(rows["teacher_class"], rows["class_memory"], temps[1])
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-6)
    student, tokens = rows["student_class"].requires_grad_(), rows["student_patches"].requires_grad_()
    of_class = class_loss(student, rows["teacher_class"], rows["class_memory"], classes, temps)
    masks = arrays["mask"].flatten(1).numpy()
    of_patches = masked_patch_loss(tokens, rows["teacher_patches"], masks, rows["patch_memory"], patches, temps)
    suffix, tolerance = ("_float64", 1e-10) if dtype == torch.float64 else ("", 1e-5)
    assert of_class.item() == pytest.approx(arrays[f"class_loss{suffix}"], rel=tolerance)
    assert of_patches.item() == pytest.approx(arrays[f"patch_loss{suffix}"], rel=tolerance)
    (of_class + of_patches).backward()
    for leaf, name in ((student, "grad_student_class"), (tokens, "grad_student_patches")):
        assert leaf.grad is not None
        assert (leaf.grad - arrays[name]).norm() <= 1e-5 * arrays[name].norm()


def test_assignments_by_hand() -> None:
    """Two prototypes of one support each: with a the softmax, P = 0.9 a + 0.1 of the other's."""
    memory = torch.eye(2)
    draw = Prototypes.of(memory, torch.arange(2), 2, None, 1, 0.1)
    found = draw.assign(torch.tensor([[1.0, 0.0]]), memory, 0.5)
    a = math.exp(2) / (math.exp(2) + 1)
    assert found[0].tolist() == pytest.approx([0.9 * a + 0.1 * (1 - a), 0.9 * (1 - a) + 0.1 * a])


def test_a_closer_neighbour_outvotes_its_anchor() -> None:
    memory = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]]), dim=1)
    draw = Prototypes.of(memory, torch.arange(4), 2, torch.tensor([1, 0]), 2, 0.1)
    assert draw.supports_QE.tolist() == [[3, 1], [2, 0]]
    closest = 1 / math.sqrt(1.01)
    assert draw.votes_QE.flatten().tolist() == pytest.approx([closest, 0.9, closest, 0.9])


def test_three_steps_of_the_authors_trainer(golden: Any, official_checkpoint: dict[str, Any]) -> None:
    trace, views = golden("sop_trace.npz"), golden("training_trace.npz")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = [
        (views[name] / 255 - mean[:, None, None]) / std[:, None, None]
        for name in ("global_1", "global_2", "local_1", "local_2")
    ]
    backbone = MasslVisionTransformer(img_size=224, patch_size=16, embed_dim=64, depth=2, num_heads=1)
    student = MaskedNetwork(backbone, Projector(64, hidden_dim=256, out_dim=32, batch_norm=False, unit_norm=True))
    student.load_state_dict({**official_checkpoint["teacher"], "masked_embed": torch.zeros(1, 64)}, strict=True)
    teacher = deepcopy(student).requires_grad_(False)
    memories = {kind: trace[f"{kind}_memory_before"].clone() for kind in ("class", "patch")}
    pointers = {"class": 0, "patch": 0}
    optimizer = torch.optim.AdamW(parameter_groups(student, weight_decay=0.0))  # type: ignore[arg-type]
    for step in range(3):
        set_hyperparameters(optimizer, lr=trace["lr"][step].item(), weight_decay=trace["weight_decay"][step].item())
        masks = trace["masks"][step].flatten(0, 1)
        temps = trace["student_temp"], trace["teacher_temp"][step].item()
        teacher_rows, teacher_patches = teacher(pixels[:2])
        student_rows, student_patches = student(pixels, masks)
        classes = draws_of(memories["class"], trace["class_candidates"][step], trace["class_selected"][step], 3)
        patches = draws_of(memories["patch"], trace["patch_candidates"][step], None, 1)
        of_class = class_loss(student_rows, teacher_rows, memories["class"], classes, temps)
        of_patches = masked_patch_loss(
            student_patches, teacher_patches, masks.flatten(1).numpy(), memories["patch"], patches, temps
        )
        assert of_class.item() == pytest.approx(trace["class_losses"][step].item(), rel=1e-3)
        assert of_patches.item() == pytest.approx(trace["patch_losses"][step].item(), rel=1e-3)
        half = len(teacher_rows) // 2
        stored = {
            "class": teacher_rows[half:],
            "patch": teacher_patches[half:][torch.arange(half), trace["stored_token"][step][half:]],
        }
        if step == 0:  # the file tells where each ring stands after a step
            for place, kind in enumerate(pointers):
                pointers[kind] = (trace["pointers_after"][0, place].item() - half) % len(memories[kind])
        for place, kind in enumerate(pointers):
            memories[kind][pointers[kind] : pointers[kind] + half] = stored[kind]
            pointers[kind] = (pointers[kind] + half) % len(memories[kind])
            assert pointers[kind] == trace["pointers_after"][step, place]
            assert (memories[kind] - trace[f"{kind}_memory_after"][step]).abs().max() <= 1e-3
        optimizer.zero_grad()
        (of_class + of_patches).backward()
        clip_each_gradient(student.parameters(), max_norm=trace["clip"])
        optimizer.step()
        update_teacher(teacher, student, trace["momentum"][step].item())
        assert (student.masked_embed - trace["student_masked_embed"][step]).abs().max() <= 1e-5
        last = student.head.state_dict()["mlp.4.weight"], teacher.head.state_dict()["mlp.4.weight"]
        assert (last[0] - trace["student_head_last"][step]).abs().max() <= 1e-5
        assert (last[1] - trace["teacher_head_last"][step]).abs().max() <= 1e-5


def test_masks_cover_their_share() -> None:
    drawn = random.Random(0)
    masks = np.stack([block_mask(14, 14, 0.3, drawn) for _ in range(200)])
    share = masks.mean((1, 2))
    assert share.max() <= 58 / 196
    assert share.min() > 0.2
    assert share.mean() == pytest.approx(0.29, abs=0.01)
    middle, corner = masks[:, 5:9, 5:9].mean(), masks[:, :2, :2].mean()
    assert middle > 2 * corner
    assert np.array_equal(block_mask(4, 5, 0.3, random.Random(3)), block_mask(4, 5, 0.3, random.Random(3)))


TINY = [
    *("method=sop", "backbone.patch_size=2", "backbone.depth=1", "backbone.drop_path=0.1", "batch_size=32", "epochs=2"),
    *("sop.class_memory_size=128", "sop.class_candidates=16", "sop.class_supports=3", "sop.class_draws=2"),
    *("sop.patch_memory_size=64", "sop.patch_candidates=32", "sop.patch_supports=1", "sop.patch_draws=1"),
    *("sop.student_temp=0.1", "sop.teacher_temp_start=0.04", "sop.teacher_temp=0.04", "sop.smoothing=0.1"),
    *("sop.teacher_temp_warmup_epochs=1", "sop.mask_ratio=0.3", "sop.koleo_weight=0.1", "optimiser.warmup_epochs=0"),
    *("run.log_every=1", "run.checkpoint_every=2", "run.keep_checkpoints=9"),
]


def test_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = load_config("tiny-digits", TINY)
    assert run(tmp_path / "whole", config, 4).step == 8
    run(tmp_path / "cut", config, 4)
    whole, cut = (CheckpointFolder(tmp_path / name, 9) for name in ("whole", "cut"))
    for step in (6, 8):
        cut.path(step).unlink()
    run(tmp_path / "cut", config, 4, resume=True)
    for part in ("student", "teacher"):
        for name, tensor in whole.load(8)[part].items():
            assert torch.equal(cut.load(8)[part][name], tensor), name
    resumed, expected = cut.load(8)["method"], whole.load(8)["method"]
    for kind, pointer in (("class", 0), ("patch", 0)):
        assert torch.equal(resumed[kind]["memory"], expected[kind]["memory"])
        assert resumed[kind]["pointer"] == expected[kind]["pointer"] == pointer
    lines = read_log(tmp_path / "whole")
    assert lines[0]["loss"] == pytest.approx(lines[0]["class"] + lines[0]["patch"] + lines[0]["koleo"])
    assert whole.load(8)["student"]["masked_embed"].abs().sum() > 0
    assert lines == sorted(lines, key=lambda line: line["step"])


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"sop\.class_memory_size: 32, too few for 32 candidates and supports"):
        load_config("tiny-digits", [*TINY, "sop.class_memory_size=32", "sop.class_candidates=32"])
    with pytest.raises(RequestError, match="memory: 100 rows, not a multiple of the global batch 32"):
        load_config("tiny-digits", [*TINY, "sop.patch_memory_size=100"])
    resnet = ["backbone.arch=resnet", "backbone.patch_size=none", "backbone.embed_dim=none", "backbone.depth=none"]
    resnet += ["backbone.widths=8,8,8,8", "backbone.depths=1,1,1,1", "backbone.init=timm", "backbone.position_std=none"]
    settings = [each for each in TINY if not each.startswith(("backbone.depth", "backbone.patch"))]
    with pytest.raises(RequestError, match="resnet has no patches and class token, as sop needs"):
        run(tmp_path, load_config("tiny-digits", [*settings, *resnet]), 4)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes inside."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            self.numel = max(self.numel, each.numel() if isinstance(each, Tensor) else 0)
        return made


def test_no_vote_matrix_is_built_at_the_numbers_of_the_script() -> None:
    """With B = 128 at 224 pixels: 14,848 masked tokens and 512 prototypes; [N, K, Q] would be 4 · 10^9 numbers."""
    config = load_config("sop-vits16-100ep", [])
    sop, images, tokens = config.parameters, config.batch_size, (224 // 16) ** 2
    with torch.device("meta"), Largest() as largest:
        rows = {name: torch.randn(2 * images, config.head.out_dim) for name in ("student", "teacher")}
        masks = np.zeros((2 * images, tokens), dtype=bool)
        masks[:, : int(tokens * sop.mask_ratio)] = True
        memory = torch.randn(sop.class_memory_size, config.head.out_dim)
        held = memory.numel()
        chosen, pool = sop.class_candidates, sop.class_memory_size
        draw = Prototypes.of(memory, torch.randperm(pool), chosen, torch.randperm(chosen)[: chosen // 2], 9, 0.1)
        student = rows["student"].requires_grad_()
        class_loss(student, rows["teacher"], memory, [draw], (0.1, 0.04)).backward()
        patches = torch.randn(int(masks.sum()), config.head.out_dim).requires_grad_()
        of_patches = Prototypes.of(memory, torch.randperm(pool), sop.patch_candidates, None, 1, 0.1)
        of_patches.assign(patches, memory, 0.1).log().sum().backward()
    masked = int(masks.sum())
    assert masked == 14848
    assert largest.numel <= max(held, masked * sop.patch_candidates)


def test_one_step_of_a_vit_s_in_bounded_memory(tmp_path: Path) -> None:
    """On the CPU, two images at 224 pixels: what the process needs is the network's, not the objective's."""
    small = ["batch_size=2", "sop.class_memory_size=4096", "sop.patch_memory_size=1024", "epochs=1"]
    small += ["optimiser.warmup_epochs=0", "sop.teacher_temp_warmup_epochs=1", "run.log_every=1", "run.workers=0"]
    config = load_config("sop-vits16-100ep", small)
    with Largest() as largest:
        trained = run(tmp_path, config, 1)
    assert trained.step == 1
    widest = 4 * 197 * 4 * 384  # the MLP of a block, of both views of two images
    memory = 4096 * 256
    parameters = 384 * 1536
    head = 4 * 197 * 2048
    assert largest.numel <= max(widest, memory, parameters, head, 4 * 6 * 197 * 197, 2048 * 2048)


def test_the_preset_for_digits_learns(tmp_path: Path) -> None:
    """By k-NN within the training images, which the training sees without their labels."""
    config = load_config("sop-tiny-digits", ["epochs=6"])
    split = digits(21 * config.batch_size)
    holdout = Holdout.draw(split, evaluation_preprocessing(config), seed=0, max_bank=1000, max_queries=300)
    trained = run(tmp_path, config, 21).backbone
    found, before = (
        evaluate("knn", holdout.banks(each.eval()), params={"k": [20], "bootstrap_resamples": 1})["top1@20"].value
        for each in (trained, initial_network(config).backbone)
    )
    assert found > before + 0.03
