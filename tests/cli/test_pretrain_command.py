"""`massl-bench pretrain` from the command line to the leaderboard's rows."""

from __future__ import annotations

import json
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import massl_bench as mb
from massl_bench import cli
from massl_bench.core.files import sha256_file
from massl_bench.models.checkpoints import read_tensors
from massl_bench.pretrain.loop import trainer
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.log import read_log
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.toml import read_toml
from tests.conftest import Cli, write_image
from tests.started import become_rank, free_port, run_ranks

SHORT = [
    "batch_size=128",
    "epochs=1",
    "backbone.depth=1",
    "massl.teacher_temp_warmup_epochs=1",
    "optimiser.warmup_epochs=0",
    "run.knn_every=5",
    "run.log_every=5",
]


def arguments(*settings: str, dataset: str = "digits", name: str = "mine", device: str = "cpu") -> list[str]:
    changes = [part for setting in [*SHORT, *settings] for part in ("--set", setting)]
    return [
        *("pretrain", "--dataset", dataset, "--method", "massl", "--preset", "tiny-digits"),
        *("--name", name, "--device", device, *changes),
    ]


def test_trains_exports_and_benchmarks(run_cli: Cli) -> None:
    answer = run_cli(*arguments(), "--bench", "quick")
    assert answer.code == 0, answer.err
    rows = [line for line in answer.out.splitlines() if line.startswith("| mine")]
    assert [row.split("|")[1].strip() for row in rows] == ["mine", "mine-untrained"]

    manifest = read_toml(Path("weights/mine.toml"), ManifestSpec)
    assert manifest.sha256 == sha256_file(Path("weights/mine.safetensors"))
    assert manifest.training["steps"] == 10
    assert manifest.training["config"]["batch_size"] == 128
    assert manifest.training["config"]["backbone"]["depth"] == 1
    assert (manifest.preprocessing.resize, manifest.preprocessing.crop) == (8, 8)

    teacher = CheckpointFolder(Path("weights/mine"), 1).load(10)["teacher"]
    exported = read_tensors(Path("weights/mine.safetensors"))
    assert exported.keys() == {name.removeprefix("backbone.") for name in teacher if name.startswith("backbone.")}
    assert all(torch.equal(tensor, teacher[f"backbone.{name}"]) for name, tensor in exported.items())
    encoder = mb.load_encoder("mine")
    assert encoder.card.embed_dim == 64
    lines = read_log(Path("weights/mine"))
    assert [line["step"] for line in lines] == [4, 9]
    assert all(0.1 < line["knn"] < 1 for line in lines)

    again = run_cli(*arguments())
    assert again.code == 2
    assert "an earlier run of this name; go on with --resume, or choose another --name" in again.error
    other = run_cli(*arguments("optimiser.lr=0.5"), "--resume")
    assert other.code == 2
    assert "optimiser.lr: 0.008, now 0.5; --force accepts it" in other.error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            arguments("massl.memory_size=1000"),
            "1000 rows, not a multiple of the global batch 128; nearest: 896 and 1024",
        ),
        (arguments("massl.block_size=4096"), "massl.block_size: 4096, larger than memory_size = 1024"),
        (arguments("views.num_local=1023"), "fewer than the 1025 views"),
        (arguments("optimiser.rate=1"), "unknown configuration key 'optimiser.rate'"),
        (arguments(dataset="digit"), "did you mean digits"),
        (arguments("batch_size=2048", "massl.memory_size=2048"), "batch_size: 2048, but the dataset has 1347 images"),
        ([*arguments(), "--bench", "quik"], "unknown suite 'quik'; did you mean quick?"),
    ],
)
def test_requests_that_cannot_be_carried_out(run_cli: Cli, changes: Any, message: str) -> None:
    answer = run_cli(*changes)
    assert answer.code == 2
    assert message in answer.error
    assert not Path("weights").exists()


def test_json(run_cli: Cli) -> None:
    answer = run_cli(*arguments(), "--bench", "quick", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["name"], told["steps"], told["manifest"]) == ("mine", 10, "weights/mine.toml")
    assert {outcome["model"] for outcome in told["outcomes"]} == {"mine", "mine-untrained"}
    assert {outcome["status"] for outcome in told["outcomes"]} == {"done"}


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "--device gpu: expected auto, cpu, cuda or cuda:i"),
        ("cuda", "--device cuda: torch sees 0 GPUs"),
        ("cuda:3", "--device cuda:3: "),
    ],
)
def test_a_device_that_is_not_there_under_torchrun(
    run_cli: Cli, monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    """Each rank says so at once, and none waits for the others."""
    monkeypatch.setattr("massl_bench.core.devices.num_gpus", lambda: 0)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    answer = run_cli(*arguments(device=device))
    assert answer.code == 2
    assert message in answer.error


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("pixels", [], "--name pixels: expected letters, digits, '.', '_' and '-', and not pixels"),
        ("taken", [], "weights/taken.toml is there already, of another model; choose another --name, or remove it"),
        ("taken", ["--resume"], "weights/taken.toml is there already"),
        ("own", ["--bench", "quick"], "weights/own-untrained.toml is there already"),
        ("own", ["--bench", "quick", "--resume"], "weights/own-untrained.toml is there already"),
    ],
)
def test_the_weights_of_others_are_not_replaced(run_cli: Cli, name: str, more: Any, message: str) -> None:
    for folder in ("own", "own-untrained"):
        path = Path("weights") / folder / "checkpoint-00000001.pth"
        path.parent.mkdir(parents=True)
        path.touch()
    for manifest in ("taken", "own-untrained"):
        Path(f"weights/{manifest}.toml").write_text("")
    answer = run_cli(*arguments(name=name), *more)
    assert answer.code == 2
    assert message in answer.error
    assert Path("weights/taken.toml").read_text() == ""


def test_too_few_images_for_the_online_evaluation(run_cli: Cli, tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "train" / "ab"[number % 2] / f"{number}.png", number)
        write_image(tmp_path / "test" / "ab"[number % 2] / f"{number}.png", number + 4)
    answer = run_cli(*arguments("batch_size=4", dataset=f"folder:{tmp_path}"))
    assert answer.code == 2
    assert "holds out a fifth of the images, and there are 4; give --set run.knn_every=0" in answer.error
    assert not Path("weights").exists()


def test_datasets_that_cannot_be_used(run_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = run_cli(*arguments(dataset=f"folder:{tmp_path / 'empty'}"))
    assert (answer.code, "no image in it" in answer.error) == (2, True)
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    answer = run_cli(*arguments(dataset=f"folder:{folder}"))
    assert answer.code == 2
    assert "a.jpg: corrupt image: no image of a format that is read here" in answer.error
    assert not Path("weights").exists()


def test_sigterm_writes_a_checkpoint_and_resume_goes_on(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    update, calls = trainer.update_teacher, []

    def terminated_in_step_6(*given: Any) -> None:
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        update(*given)

    monkeypatch.setattr(trainer, "update_teacher", terminated_in_step_6)
    answer = run_cli(*arguments())
    assert answer.code == 75, answer.err
    assert "stopped by SIGTERM after step 7; the same command with --resume goes on" in answer.err
    folder = CheckpointFolder(Path("weights/mine"), 1)
    assert folder.steps() == [7]
    assert not Path("weights/mine.toml").exists()

    assert run_cli(*arguments(), "--resume").code == 0
    assert run_cli(*arguments(name="whole")).code == 0
    resumed, whole = (read_tensors(Path(f"weights/{name}.safetensors")) for name in ("mine", "whole"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    content = tomllib.loads(Path("weights/whole.toml").read_text())
    assert content["training"]["config"]["views"]["global_1"]["scale"] == [0.5, 1.0]


def stop(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    raise AssertionError("the signal came late")


def test_ctrl_c_says_what_is_kept(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    update, calls = trainer.update_teacher, []

    def interrupted_in_step_3(*given: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            stop(signal.SIGINT)
        update(*given)

    monkeypatch.setattr(trainer, "update_teacher", interrupted_in_step_3)
    answer = run_cli(*arguments("run.checkpoint_every=2"))
    assert answer.code == 130
    assert answer.error == (
        "error: interrupted after step 3; the last checkpoint is weights/mine/checkpoint-00000002.pth; "
        "the same command with --resume goes on"
    )


@pytest.mark.parametrize("moment", ["pretraining.open_dataset", "runner.run_request"])
def test_sigterm_before_and_after_the_training(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    with monkeypatch.context() as context:
        context.setattr(f"massl_bench.bench.{moment}", lambda *_, **__: stop(signal.SIGTERM))
        answer = run_cli(*arguments(), "--bench", "quick")
    assert answer.code == 75, answer.err
    assert "stopped by SIGTERM; the same command with --resume goes on" in answer.err
    assert run_cli(*arguments(), "--bench", "quick", "--resume").code == 0


def test_sigterm_stops_the_demo(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "update_teacher", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    answer = run_cli("demo")
    assert answer.code == 75
    assert "stopped by SIGTERM; the same command goes on" in answer.err  # the first step is not waited for
    assert not Path("massl-bench-demo/results").exists()


def test_two_ranks_as_torchrun_starts_them(tmp_path: Path) -> None:
    run_ranks(run_as_rank, free_port(), tmp_path)
    assert read_toml(tmp_path / "weights/mine.toml", ManifestSpec).training["steps"] == 10
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"mine", "mine-untrained"}


def run_as_rank(rank: int, port: int, folder: Path) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    become_rank(rank, port)
    sys.argv = ["massl-bench", *arguments(), "--bench", "quick"]
    cli.main()
