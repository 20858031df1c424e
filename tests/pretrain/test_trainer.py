"""The loop: its order of updates, what stops it, what it writes, and two ranks against one."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.datasets.published import READERS
from massl_bench.datasets.shards import find_shards
from massl_bench.datasets.splits import ArraySplit
from massl_bench.models.checkpoints import build_checkpoint, read_checkpoint
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import checked_config, load_config
from massl_bench.pretrain.data.loading import StepRequests, check_images, divide
from massl_bench.pretrain.indicators import assignment_entropies, rankme
from massl_bench.pretrain.loop import trainer
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder, write_whole
from massl_bench.pretrain.loop.checkpoint import official_checkpoint as in_the_official_layout
from massl_bench.pretrain.loop.log import read_log
from massl_bench.pretrain.loop.state import initial_state, rates_at
from massl_bench.pretrain.loop.trainer import TrainingJob, train
from massl_bench.pretrain.methods import Step, massl
from tests.conftest import Cli
from tests.datasets.copies import write_tar
from tests.started import forkserver, run_ranks

SMALL = [
    "batch_size=32",
    "epochs=1",
    "backbone.depth=1",
    "massl.memory_size=128",
    "massl.block_size=32",
    "massl.koleo_weight=0",
    "massl.teacher_temp_warmup_epochs=1",
    "optimiser.warmup_epochs=0",
    "run.checkpoint_every=1",
    "run.log_every=1",
    "run.knn_every=0",
]


def digits(count: int) -> ArraySplit:
    split = READERS["digits"].read(Path(), "train")
    return ArraySplit("digits", np.stack(split.encoded(range(count))), split.labels[:count], None)  # type: ignore[arg-type]


def job(
    folder: Path, *settings: str, images: int = 128, config: PretrainConfig | None = None, **changes: Any
) -> TrainingJob:
    return TrainingJob(
        config=config or load_config("tiny-digits", [*SMALL, *settings]),
        split=digits(images),
        data={"reference": "digits", "images": images},
        folder=folder,
        device="cpu",
        **changes,
    )


def carp_config(*settings: str) -> PretrainConfig:
    """CARP on a small ViT: the preset's sections around the tiny one's backbone and views."""
    tiny = load_config("tiny-digits", SMALL).model_dump(mode="json", exclude_none=True)
    carp = load_config("carp-rn50-100ep", ["batch_size=32"]).model_dump(mode="json", exclude_none=True)
    content = {**tiny, "method": "carp", "carp": {"num_prototypes": 96, "block_size": 24}}
    content |= {"head": carp["head"] | {"hidden_dim": 32, "out_dim": 16}, "optimiser": carp["optimiser"]}
    del content["massl"]
    for setting in settings:
        key, _, value = setting.partition("=")
        content["compute"][key] = int(value)
    return checked_config(content, "test")


def checkpoints(folder: Path) -> list[Any]:
    reader = CheckpointFolder(folder, 1)
    return [reader.load(step) for step in reader.steps()]


def test_massl_moves_the_teacher_after_the_step_and_stores_the_second_view(tmp_path: Path) -> None:
    config = load_config("tiny-digits", [*SMALL, "run.keep_checkpoints=9"])
    train(job(tmp_path, config=config))
    states = checkpoints(tmp_path)
    start = initial_state(config, torch.device("cpu"))
    teachers = [start.teacher.state_dict(), *(state["teacher"] for state in states)]
    for step, state in enumerate(states):
        momentum = rates_at(step, config, 4).momentum
        for name, before in teachers[step].items():
            expected = before.lerp(state["student"][name], 1 - momentum)
            torch.testing.assert_close(state["teacher"][name], expected, rtol=1e-5, atol=1e-7)
    # After four steps of 32 every one of the 128 rows has been written, and the first is next.
    assert [state["method"]["pointer"] for state in states] == [32, 64, 96, 0]
    rows = [state["method"]["memory"] for state in states]
    assert torch.equal(rows[0][32:], start.method.memory.memory[32:])
    assert not torch.isclose(rows[0][:32], start.method.memory.memory[:32]).all(1).any()
    for before, after, done in zip(rows, rows[1:], (1, 2, 3), strict=False):
        assert torch.equal(before[: 32 * done], after[: 32 * done])


def test_carp_moves_the_teacher_before_the_step(tmp_path: Path) -> None:
    config = carp_config()
    config = config.model_copy(update={"run": config.run.model_copy(update={"keep_checkpoints": 9})})
    train(job(tmp_path, config=config))
    states = checkpoints(tmp_path)
    start = initial_state(config, torch.device("cpu"))
    students = [start.student.state_dict(), *(state["student"] for state in states)]
    teachers = [start.teacher.state_dict(), *(state["teacher"] for state in states)]
    names = [name for name, _ in start.student.named_parameters()]
    assert "head.prototypes.weight_v" in names
    for step in range(4):
        momentum = rates_at(step, config, 4).momentum
        for name in names:
            expected = teachers[step][name].lerp(students[step][name], 1 - momentum)
            torch.testing.assert_close(teachers[step + 1][name], expected, rtol=1e-5, atol=1e-7)
    assert states[0]["method"] == {}
    line = read_log(tmp_path)[0]
    assert line["loss"] == pytest.approx(line["consistency"] + line["entropy"])
    assert "teacher_temp" not in line


def test_accumulation_is_the_whole_batch(tmp_path: Path) -> None:
    """MaSSL's loss is a mean over images: pieces of 8 views each see their own crops, so steps differ only in those."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    train(job(whole))
    trained = train(job(pieces, "compute.accumulation=4"))
    assert trained.step == 4
    assert checkpoints(pieces)[-1]["method"]["pointer"] == 0
    # The first step has the same weights and memory; its crops are others of the same images.
    assert read_log(pieces)[0]["loss"] == pytest.approx(read_log(whole)[0]["loss"], rel=0.05)


def test_gradients_of_pieces_are_those_of_the_whole() -> None:
    config = load_config("tiny-digits", SMALL)
    views = [torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(view)) for view in range(2)]
    gradients = []
    for count in (1, 4):
        batches = [[view.chunk(count)[piece] for view in views] for piece in range(count)]
        state = initial_state(config, torch.device("cpu"))
        divided = config.model_copy(update={"compute": config.compute.model_copy(update={"accumulation": count})})
        step = Step(number=0, seed=0, numbers=rates_at(0, config, 4).of_method)
        state.method.begin(step)
        computed = trainer.forward_backward(divided, state, state.student, iter(batches), step)
        gradients.append([parameter.grad for parameter in state.student.parameters()])
        assert computed.kept["second_view"].shape == (32, config.head.out_dim)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, calls = massl.massl_objective, []

    def breaks_at_the_third_step(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        loss = objective(*arguments, **settings)
        return loss * math.nan if len(calls) == 3 else loss

    monkeypatch.setattr(massl, "massl_objective", breaks_at_the_third_step)
    with pytest.raises(CellError, match=r"step 2: the loss is not finite \(cross_entropy nan\); no weight was changed"):
        train(job(tmp_path))
    saved = read_checkpoint(tmp_path / "diagnostics-00000002-rank0.pth")
    assert saved["step"] == 2
    assert saved["rates"]["lr"] == pytest.approx(rates_at(2, load_config("tiny-digits", SMALL), 4).lr)
    assert saved["not_finite"]
    last = checkpoints(tmp_path)[-1]
    assert last["step"] == 2
    for name, tensor in last["student"].items():
        assert torch.equal(tensor, saved["student"][name])


@pytest.mark.parametrize("clip", ["3.0", "none"])
def test_gradients_that_are_not_finite_stop_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: str
) -> None:
    objective, calls = massl.massl_objective, []

    def breaks_at_the_third_step(student: Any, *arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            student.register_hook(lambda gradient: gradient * math.inf)
        return objective(student, *arguments, **settings)

    monkeypatch.setattr(massl, "massl_objective", breaks_at_the_third_step)
    with pytest.raises(CellError, match=r"step 2: the gradients are not finite \(cross_entropy [\d.]+\); no weight"):
        train(job(tmp_path, f"optimiser.clip={clip}"))
    last = checkpoints(tmp_path)[-1]
    assert last["step"] == 2
    assert all(tensor.isfinite().all() for tensor in last["student"].values())
    saved = read_checkpoint(tmp_path / "diagnostics-00000002-rank0.pth")
    assert "gradients" not in saved["terms"]
    assert saved["not_finite"]


def test_a_full_disk_hides_no_loss_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: Any) -> None:
        raise CellError(f"{path}: could not be written: no space")

    monkeypatch.setattr(massl, "massl_objective", lambda student, *_, **__: student.sum() * math.nan)
    monkeypatch.setattr(trainer, "write_whole", full)
    with pytest.raises(CellError, match=r"step 0: the loss is not finite .*rank0\.pth: could not be written: no space"):
        train(job(tmp_path))


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CellError, match=r"cannot be written to: .*Not a directory.*; make it writable"):
        train(job(tmp_path / "file" / "run"))


def test_resume_with_another_configuration(tmp_path: Path) -> None:
    train(job(tmp_path))
    with pytest.raises(RequestError, match="an earlier run of this name; go on with resume=True, or choose another"):
        train(job(tmp_path))
    with pytest.raises(RequestError) as caught:
        train(job(tmp_path, "epochs=2", "optimiser.lr=0.5", resume=True, images=160))
    assert "data.images: 128, now 160; epochs: 1, now 2; optimiser.lr: " in str(caught.value)
    assert str(caught.value).endswith("now 0.5; force=True accepts it")
    assert train(job(tmp_path, "epochs=2", "run.log_every=3", resume=True, force=True)).step == 8
    with pytest.raises(RequestError, match="does not fit this configuration: memory: shape"):
        train(job(tmp_path, "epochs=2", "massl.memory_size=256", resume=True, force=True))


def test_resume_of_the_same_images_at_another_place(tmp_path: Path) -> None:
    train(job(tmp_path))
    moved = {"reference": "folder:/elsewhere", "images": 128}
    assert train(dataclasses.replace(job(tmp_path, resume=True), data=moved)).step == 4


def test_resume_with_damaged_files(tmp_path: Path) -> None:
    train(job(tmp_path, "run.keep_checkpoints=2"))
    log = tmp_path / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    for damaged in (b"\0\xff", b'{"loss": 1}', b"[3]", b'{"step": "3"}', b'{"step": true}', b"[" * 2000):
        log.write_bytes(lines[0] + damaged + b"\n" + b"".join(lines[1:]))
        with pytest.raises(RequestError, match=r"log\.jsonl: line 2: not a line of this log; remove that line"):
            train(job(tmp_path, resume=True))
    three, four = (CheckpointFolder(tmp_path, 1).path(step) for step in (3, 4))
    four.write_bytes(four.read_bytes()[:5000])
    with pytest.raises(RequestError) as caught:
        train(job(tmp_path, resume=True))
    found = "not a checkpoint of torch, or a damaged one: it is a zip archive (it has no end)"
    assert str(caught.value) == f"{four}: {found}; remove it to go on from {three}, which is whole"
    three.write_bytes(b"")
    with pytest.raises(RequestError, match=r"; remove it to start anew$"):
        train(job(tmp_path, resume=True))


def test_resume_with_fewer_epochs_is_no_stop_by_a_signal(tmp_path: Path) -> None:
    train(job(tmp_path, "epochs=2"))
    with pytest.raises(RequestError, match=r"00000008\.pth: 8 steps are done, and 1 epochs are 4; give more epochs"):
        train(job(tmp_path, resume=True, force=True))


def test_resume_with_another_optimiser(tmp_path: Path) -> None:
    train(job(tmp_path))
    sgd = ["optimiser.name=sgd", "optimiser.betas=none", "optimiser.momentum=0.9"]
    with pytest.raises(RequestError, match=r"optimiser.name: adamw, now sgd, which cannot go on .*; keep adamw, or"):
        train(job(tmp_path, "epochs=2", *sgd, resume=True, force=True))


def test_resume_with_other_settings_of_the_optimiser(tmp_path: Path) -> None:
    train(job(tmp_path))
    train(job(tmp_path, "epochs=2", "optimiser.betas=0.5,0.6", resume=True, force=True))
    last = checkpoints(tmp_path)[-1]
    assert last["config"]["optimiser"]["betas"] == [0.5, 0.6]
    assert [group["betas"] for group in last["optimiser"]["param_groups"]] == [(0.5, 0.6), (0.5, 0.6)]
    assert last["optimiser"]["state"][0]["step"] == 8


def test_no_space_left_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(job(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CellError, match=r"could not be written: .*No space left on device; earlier checkpoints"):
        CheckpointFolder(tmp_path, 1).save({**checkpoints(tmp_path)[-1], "step": 9})  # type: ignore[typeddict-item]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")} == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_write_that_the_system_cuts_off(tmp_path: Path) -> None:
    """A real limit on the size of files, in a process of its own."""
    process = forkserver().Process(target=write_beyond_a_limit, args=(tmp_path,))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 0
    assert read_checkpoint(tmp_path / "c.pth") == {"kept": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


def write_beyond_a_limit(folder: Path) -> None:
    import resource

    write_whole(folder / "c.pth", {"kept": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(CellError, match=r"could not be written"):
        write_whole(folder / "c.pth", {"large": torch.zeros(1_000_000)})


def test_a_disk_that_fills_up_between_two_checkpoints(tmp_path: Path) -> None:
    """What is on the disk is enough to go on, once there is space."""
    process = forkserver().Process(target=train_with_a_limit, args=(tmp_path,))
    process.start()
    process.join(timeout=240)
    assert process.exitcode == 0
    assert CheckpointFolder(tmp_path, 1).steps() == [2, 3, 4]
    assert not list(tmp_path.glob(".*.tmp"))
    trained = train(job(tmp_path, "epochs=2", resume=True, force=True))
    assert (trained.step, [line["step"] for line in read_log(tmp_path)]) == (8, list(range(8)))


def train_with_a_limit(folder: Path) -> None:
    import resource

    train(job(folder))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # the log fits, a checkpoint does not
    with pytest.raises(CellError) as caught:
        train(job(folder, "epochs=2", resume=True, force=True))
    assert "checkpoint-00000005.pth: could not be written: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    train(job(tmp_path, "run.keep_checkpoints=2"))
    assert CheckpointFolder(tmp_path, 1).steps() == [3, 4]


def test_shards_train_as_the_same_images_in_memory(tmp_path: Path) -> None:
    given = job(tmp_path / "arrays")
    members = {}
    for number, image in enumerate(given.split.encoded(range(128))):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png")  # type: ignore[arg-type]
        members[f"{number:03}.png"] = buffer.getvalue()
    for shard in range(2):
        half = {name: content for name, content in members.items() if int(name[:3]) // 64 == shard}
        write_tar(tmp_path / f"{shard}.tar", half)
    split = find_shards(f"{tmp_path}/{{0..1}}.tar", tmp_path).read("all")
    train(given)
    train(dataclasses.replace(given, split=split, folder=tmp_path / "shards"))
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("arrays", "shards")]
    assert losses[0] == losses[1]


def test_official_layout(tmp_path: Path, run_cli: Cli, official_checkpoint: dict[str, Any]) -> None:
    train(job(tmp_path))
    checkpoint = checkpoints(tmp_path)[-1]
    ours, file = CheckpointFolder(tmp_path, 1).path(4), tmp_path / "official.pth"
    answer = run_cli("weights", "export", ours, "--format", "massl", "--output", file)
    assert answer.code == 0, answer.err
    content = read_checkpoint(file)
    assert content.keys() == official_checkpoint.keys() | {"optimizer", "massl_bench"}
    for name, tensor in official_checkpoint["memory_bank"].items():
        assert (content["memory_bank"][name].dtype, content["memory_bank"][name].ndim) == (tensor.dtype, tensor.ndim)
    assert torch.equal(content["memory_bank"]["queue"].T, checkpoint["method"]["memory"])
    assert content["memory_bank"]["queue_ptr"].tolist() == [checkpoint["method"]["pointer"]]
    assert content["epoch"] == 1
    assert content["args"].backbone_patch_size == 4
    assert content["optimizer"]["state"].keys() == checkpoint["optimiser"]["state"].keys()
    for key, prefix in (("student", "module."), ("teacher", "")):
        assert content[key].keys() == {f"{prefix}{name}" for name in checkpoint[key]}
        assert all(torch.equal(content[key][f"{prefix}{name}"], tensor) for name, tensor in checkpoint[key].items())
    for key in (None, "student"):
        loaded = build_checkpoint(file, "x", ModelSettings(checkpoint_key=key)).network.state_dict()
        source = checkpoint[key or "teacher"]
        assert all(torch.equal(loaded[name], source[f"backbone.{name}"]) for name in loaded)
    card = (tmp_path / "official.pth.md").read_text()
    assert "under the key `massl_bench`" in card
    assert "training cannot go on" not in card


def test_the_student_alone_is_exported_as_weights(tmp_path: Path, run_cli: Cli) -> None:
    train(job(tmp_path))
    ours, file = CheckpointFolder(tmp_path, 1).path(4), tmp_path / "student.pth"
    assert run_cli("weights", "add", ours, "--name", "student", "--checkpoint-key", "student").code == 0
    assert run_cli("weights", "export", "student", "--format", "massl", "--output", file).code == 0
    assert read_checkpoint(file).keys() == {"student", "teacher", "massl_bench"}


def test_fp16_s_scaler_in_the_official_layout(tmp_path: Path) -> None:
    train(job(tmp_path, "compute.precision=fp16"))
    checkpoint = checkpoints(tmp_path)[-1]
    assert in_the_official_layout(checkpoint)["fp16_scaler"] == checkpoint["scaler"]
    assert checkpoint["scaler"]["scale"] > 0


def test_online_evaluation_changes_nothing(tmp_path: Path) -> None:
    calls = []

    def evaluate(backbone: Any) -> float:
        assert not backbone.training
        torch.rand(3)  # a guest that draws from torch's generator
        calls.append(1)
        return 0.25

    train(job(tmp_path / "with", "run.knn_every=3", "backbone.drop_path=0.3", evaluate=evaluate))
    train(job(tmp_path / "without", "backbone.drop_path=0.3"))
    assert len(calls) == 2  # after steps 3 and 4, the last
    lines, others = (
        [
            {key: value for key, value in line.items() if key not in ("knn", "images_per_s", "waiting")}
            for line in read_log(folder)
        ]
        for folder in (tmp_path / "with", tmp_path / "without")
    )
    assert lines == others
    assert [line.get("knn") for line in read_log(tmp_path / "with")] == [None, None, 0.25, 0.25]


def test_every_epoch_takes_every_image_once_on_all_ranks_together() -> None:
    config = load_config(
        "tiny-digits", [*SMALL, "epochs=2", "compute.accumulation=2", "massl.teacher_temp_warmup_epochs=1"]
    )
    shares = divide(config, 101, 2)
    assert (shares.steps_per_epoch, shares.rank_batch) == (3, 16)
    ranks = [list(StepRequests(shares, seed=0, rank=rank, first_step=0, num_steps=6)) for rank in range(2)]
    assert [(request.step, request.piece) for request in ranks[0]] == [(s, p) for s in range(6) for p in range(2)]
    epochs = [[i for rank in ranks for r in rank if r.step // 3 == epoch for i in r.indices] for epoch in range(2)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 96
        assert set(epoch) <= set(range(101))
    assert epochs[0] != epochs[1]
    later = list(StepRequests(shares, seed=0, rank=1, first_step=4, num_steps=6))
    assert later == ranks[1][8:]


def test_batches_that_cannot_be_divided() -> None:
    config = load_config("tiny-digits", SMALL)
    with pytest.raises(RequestError, match="32 is not a multiple of 3 ranks"):
        divide(config, 100, 3)
    with pytest.raises(RequestError, match=r"batch_size: 32, but the dataset has 20 images; allowed: up to 20"):
        divide(config, 20, 1)


def test_koleo_needs_two_images_a_piece() -> None:
    with pytest.raises(RequestError, match="32 pieces of 1 images on each of 1 ranks, in which KoLeo finds no"):
        divide(load_config("tiny-digits", [*SMALL, "compute.accumulation=32", "massl.koleo_weight=0.1"]), 100, 1)
    with pytest.raises(RequestError, match="16 pieces of 1 images on each of 2 ranks"):
        divide(load_config("tiny-digits", [*SMALL, "compute.accumulation=16", "massl.koleo_weight=0.1"]), 100, 2)
    assert divide(load_config("tiny-digits", [*SMALL, "compute.accumulation=32"]), 100, 1).pieces == 32


def test_images_that_cannot_be_used() -> None:
    config = load_config("tiny-digits", SMALL)
    labels = np.zeros(1, np.int64)
    with pytest.raises(RequestError, match="small: small, row 0: 1 × 3 pixels, smaller than a patch of 4"):
        check_images(ArraySplit("small", np.zeros((1, 3, 1, 3), np.uint8), labels, None), config, "small")
    published = load_config("massl-vits16-800ep", ["backbone.patch_size=none"])
    with pytest.raises(RequestError, match="eight: eight, row 0: 8 × 8 pixels, smaller than a patch of 16"):
        check_images(ArraySplit("eight", np.zeros((1, 8, 8, 3), np.uint8), labels, None), published, "eight")
    with pytest.raises(RequestError, match="none: no image in it"):
        check_images(ArraySplit("none", np.zeros((0, 3, 1, 3), np.uint8), labels[:0], None), config, "none")


def test_rankme_and_entropies() -> None:
    eye = torch.eye(6)
    assert rankme(eye) == pytest.approx(6, rel=1e-4)
    assert rankme(torch.ones(5, 4)) == pytest.approx(1, rel=1e-3)
    names = ("entropy_of_mean", "mean_entropy")
    assert assignment_entropies(torch.zeros(3, 8)) == pytest.approx(dict(zip(names, (1.0, 1.0), strict=True)))
    # Each of four images chooses its own of four members; then all choose the first.
    assert tuple(assignment_entropies(100 * torch.eye(4)).values()) == pytest.approx((1.0, 0.0), abs=1e-6)
    alike = assignment_entropies(100 * torch.eye(4)[:1].repeat(4, 1))
    assert tuple(alike.values()) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_two_ranks_are_one(tmp_path: Path) -> None:
    """The global batch and the memory are the same; a rank's crops are its own, so only the first store is compared."""
    run_ranks(train_as_rank, tmp_path)
    lines = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert lines[0] == lines[1]  # step, and sums of the teacher and the memory
    assert lines[0]["step"] == 4
    assert len(read_log(tmp_path / "run")) == 4
    train(job(tmp_path / "single"))
    assert read_log(tmp_path / "run")[0]["loss"] == pytest.approx(read_log(tmp_path / "single")[0]["loss"], rel=0.05)


def train_as_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    memories = []
    original = trainer.initial_state

    def remembered(*arguments: Any) -> Any:
        state = original(*arguments)
        memories.append(state.method.memory)
        return state

    trainer.initial_state = remembered  # type: ignore[assignment]
    trained = train(job(folder / "run"))
    sums = [float(tensor.double().abs().sum()) for tensor in trained.backbone.state_dict().values()]
    values = {"step": trained.step, "teacher": sums, "memory": memories[0].memory.double().sum(1).tolist()}
    (folder / f"rank{rank}.json").write_text(json.dumps(values))
    dist.destroy_process_group()
