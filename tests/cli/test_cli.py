"""The command line as a user meets it: results, second runs, and every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from massl_bench.cli import application
from massl_bench.core.errors import RequestError
from massl_bench.pretrain.presets import PRESETS
from massl_bench.records.reading import read_record
from tests.conftest import GOLDEN, Answer, write_image
from tests.datasets.copies import write_tar

Cli = Callable[..., Answer]
SMALL = ("--set", "knn.k=3", "--set", "knn.headline=top1@3")
FEATURES = ("run", "--task", "knn", "--features", GOLDEN / "features_single_label.npz", "--name", "mine")
DIGITS = ("run", "--task", "knn", "--dataset", "digits")


def records(folder: Path = Path("results")) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def test_digits_with_pixels(run_cli: Cli) -> None:
    answer = run_cli(*DIGITS, "--model", "pixels")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("pixels knn digits: top1@20 95.78 [")
    record = json.loads(Path("results/pixels/knn/digits.json").read_text())
    assert record["complete"]
    assert record["num_items"] == {"train": 1347, "test": 450}
    assert set(record["curves"]["top1"]) == {"10", "20", "100", "200"}
    assert record["metrics"]["top1@20"]["value"] == pytest.approx(431 / 450)
    timings = record["timings"]
    assert timings["total"] == pytest.approx(
        sum(timings[p] for p in ("setup", "data", "extract", "protocol")), abs=1e-3
    )


def test_a_second_run_is_finished_and_force_runs_again(run_cli: Cli) -> None:
    run_cli(*DIGITS, "--model", "pixels")
    before = records()[0].read_text()
    again = run_cli(*DIGITS, "--model", "pixels")
    assert again.code == 0
    assert "finished before" in again.out
    assert records()[0].read_text() == before
    forced = run_cli(*DIGITS, "--model", "pixels", "--force")
    assert "finished before" not in forced.out
    first, second = json.loads(before), json.loads(records()[0].read_text())
    assert first["identity"] == second["identity"]
    assert first["metrics"] == second["metrics"]  # intervals included: the seed is the task's


def test_a_cached_run_imports_no_model_library_and_opens_no_model_file(golden: Path, tmp_path: Path) -> None:
    """The second run, and another setting on the same data: neither torch nor timm nor a look into the checkpoint."""
    checkpoint = tmp_path / "checkpoint.pth"
    checkpoint.write_bytes((golden / "official_format_checkpoint.pth").read_bytes())
    code = (
        "import sys, builtins, io\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.append(str(args[0])))\n"
        "from massl_bench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    code = end.code\n"
        "heavy = [name for name in ('torch', 'timm', 'torchvision', 'datasets') if name in sys.modules]\n"
        f"print(code, heavy, {str(checkpoint)!r} in opened)\n"
    )

    def run(*arguments: str) -> str:
        command = [
            sys.executable,
            "-c",
            code,
            *DIGITS,
            "--model",
            str(checkpoint),
            "--limit",
            "train=40,test=9",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        return done.stdout.splitlines()[-1]

    first = run("--set", "knn.k=10,20")
    assert first.startswith("0 ['torch', 'timm'")
    assert first.endswith("True")
    assert run("--set", "knn.k=10,20", "--force") == "0 [] False"
    assert run("--set", "knn.k=1,20") == "0 [] False"
    content = torch.load(checkpoint, weights_only=False)
    content["teacher"]["backbone.norm.bias"] += 1
    torch.save(content, checkpoint)
    assert run("--set", "knn.k=10,20").endswith("True")  # changed weights are noticed


def test_a_damaged_record_is_replaced_with_force(run_cli: Cli) -> None:
    run_cli(*DIGITS, "--model", "pixels")
    (path,) = records()
    path.write_text(path.read_text()[:100])
    answer = run_cli(*DIGITS, "--model", "pixels")
    assert answer.code == 1
    assert "not a result record" in answer.error
    assert answer.error.endswith("; --force measures it again and replaces it")
    assert run_cli(*DIGITS, "--model", "pixels", "--force").code == 0
    read_record(path)


def test_damaged_features_are_extracted_again(run_cli: Cli) -> None:
    run_cli(*DIGITS, "--model", "pixels")
    for file in Path(os.environ["MASSL_BENCH_CACHE"]).glob("features/*/*/features.npy"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    answer = run_cli(*DIGITS, "--model", "pixels", "--force")
    assert answer.code == 0
    assert answer.err.count("damaged cache entry, extracting again") == 2
    assert "95.78" in answer.out


def test_departing_runs_lie_apart(run_cli: Cli) -> None:
    answer = run_cli(*DIGITS, "--model", "pixels", "--limit", "train=300,test=20", "--seed", "3")
    assert answer.code == 0
    assert "(--seed 3, --limit test=20, --limit train=300)" in answer.out
    assert records()[0].name.startswith("digits@")
    board = run_cli("leaderboard")
    assert "No complete record" in board.out
    assert "departs from its task: --seed 3, --limit test=20" in board.out


def test_a_limit_that_takes_nothing_away_is_no_departure(run_cli: Cli) -> None:
    run_cli(*DIGITS, "--model", "pixels", "--limit", "5000")
    assert records()[0].name == "digits.json"


def test_dry_run_writes_nothing(run_cli: Cli) -> None:
    answer = run_cli(*DIGITS, "--model", "pixels", "--dry-run")
    assert answer.out == "pixels knn digits: extract (images through the model on cpu: train 1,347, test 450)\n"
    assert not Path("results").exists()
    run_cli(*DIGITS, "--model", "pixels")
    plan = json.loads(run_cli(*DIGITS, "--model", "pixels", "--dry-run", "--json").out)
    assert [cell["status"] for cell in plan] == ["finished"]
    plan = json.loads(run_cli(*DIGITS, "--model", "pixels", "--dry-run", "--json", "--set", "knn.k=20").out)
    assert [cell["status"] for cell in plan] == ["cached"]


def test_json_output(run_cli: Cli) -> None:
    cells = json.loads(run_cli(*DIGITS, "--model", "pixels", "--json").out)
    assert [cell["status"] for cell in cells] == ["done"]
    assert cells[0]["record"]["metrics"]["top1@20"]["value"] == pytest.approx(431 / 450)


def test_folder_dataset_end_to_end(run_cli: Cli, image_folder: Path) -> None:
    answer = run_cli("run", "--task", "knn", "--dataset", f"folder:{image_folder}", "--model", "pixels", *SMALL)
    assert answer.code == 0, answer.err
    assert "top1@3 100.00" in answer.out


def test_one_test_image(run_cli: Cli, image_folder: Path) -> None:
    for file in list((image_folder / "test").rglob("*.png"))[1:]:
        file.unlink()
    for folder in (image_folder / "test").iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()
    answer = run_cli("run", "--task", "knn", "--dataset", f"folder:{image_folder}", "--model", "pixels", *SMALL)
    assert answer.code == 0, answer.err
    assert "top1@3 100.00 [100.00, 100.00]" in answer.out


def test_features_file(run_cli: Cli, golden: Path) -> None:
    file = golden / "features_single_label.npz"
    answer = run_cli("run", "--task", "knn", "--features", file, "--name", "mine")
    assert answer.code == 0, answer.err
    expected = json.loads((golden / "expected.json").read_text())["knn_top1_top5_by_k_T0.07"]
    record = json.loads(Path("results/mine/knn/features_single_label.json").read_text())
    for k in (10, 20, 100, 200):
        assert record["metrics"][f"top1@{k}"]["value"] * 100 == pytest.approx(expected[str(k)][0], abs=100 / 700 + 1e-9)
        assert record["metrics"][f"top5@{k}"]["value"] * 100 == pytest.approx(expected[str(k)][1], abs=100 / 700 + 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "train_labels missing; found"),
        ({"test_features": np.zeros((3, 5))}, "expected features of one number of dimensions, found train 4, test 5"),
        ({"test_labels": np.array([0, 1])}, "3 test_features, but 2 test_labels"),
        ({"test_labels": np.array([0, 1, 7])}, "class 7 does not occur in train_labels"),
        ({"test_features": np.full((3, 4), np.nan)}, "test_features: 3 rows are not finite, the first is row 0"),
        ({"train_labels": np.zeros(9)}, "train_labels: expected whole numbers [N] or [N, C], found float64 [9]"),
        ({"train_features": np.zeros((9, 4), np.int64)}, "expected numbers [N, D] of a floating type"),
        (
            {"train_features": np.zeros((0, 4)), "train_labels": np.zeros(0, np.int64)},
            "train_features: is empty: float64 [0, 4]",
        ),
    ],
)
def test_bad_features_files(run_cli: Cli, tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    arrays: dict[str, np.ndarray | None] = {
        "train_features": np.eye(9, 4), "train_labels": np.arange(9) % 3, "test_features": np.eye(3, 4),
        "test_labels": np.arange(3), **changes,
    }  # fmt: skip
    np.savez(tmp_path / "f.npz", **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]
    answer = run_cli("run", "--task", "knn", "--features", tmp_path / "f.npz", "--name", "x")
    assert answer.code == 2
    assert message in answer.error
    assert not Path("results").exists()


def test_a_features_file_with_code_is_refused(run_cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", train_features=np.array([{}], dtype=object), allow_pickle=True)
    answer = run_cli("run", "--task", "knn", "--features", tmp_path / "f.npz", "--name", "x")
    assert answer.code == 2
    assert "train_features: an array of Python objects, which are not read" in answer.error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY\x01\x00", "it is one NumPy array (.npy)"),
        (b"\n<!DOCTYPE html>", "it is a web page"),
        (b"1, 2, 3", "it is a file that begins with '1, 2, 3'"),
        (b"", "it is empty"),
    ],
)
def test_what_is_no_features_file_is_named(run_cli: Cli, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.npz").write_bytes(content)
    answer = run_cli("run", "--task", "knn", "--features", tmp_path / "f.npz", "--name", "x")
    assert answer.code == 2
    assert answer.error.endswith(f"not an .npz file, or a damaged one: {message}")


def test_a_features_file_of_other_things_than_arrays(run_cli: Cli, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("features", "text")
    answer = run_cli("run", "--task", "spectrum", "--features", tmp_path / "f.npz", "--name", "x")
    assert answer.code == 2
    assert "features: is no array (.npy) in an archive of arrays" in answer.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--task", "kn", "--dataset", "digits", "--model", "pixels"], "unknown task 'kn'; did you mean knn"),
        (
            ["run", "--task", "knn", "--dataset", "digit", "--model", "pixels"],
            "unknown dataset 'digit'; did you mean digits",
        ),
        (["run", "--task", "knn", "--dataset", "digits", "--model", "pixel"], "did you mean pixels?"),
        (["run", "--dataset", "digits", "--model", "pixels"], "no task; give --task"),
        (["run", "--task", "knn", "--model", "pixels"], "no dataset; give --dataset"),
        (["run", "--suite", "quik", "--model", "pixels"], "unknown suite 'quik'; did you mean quick?"),
        (["run", "--suite", "quick", "--task", "knn", "--model", "pixels"], "--suite takes the place of"),
        (
            [*DIGITS, "--model", "pixels", "--limit", "train=8"],
            "k = 200 asked, but the training split has 8 images; allowed up to 8: --set knn.k=8",
        ),
        ([*DIGITS, "--model", "pixels", "--limit", "0"], "--limit 0: expected a number from 1"),
        ([*DIGITS, "--model", "pixels", "--limit", "train=5,7"], "not both"),
        ([*DIGITS, "--model", "pixels", "--limit", "tests=5"], "no task of this run has such a split; test, train"),
        (
            [*DIGITS, "--model", "pixels", "--set", "knn.k=x"],
            "--set knn.k: params.k.0: expected a valid integer, got 'x'",
        ),
        ([*DIGITS, "--model", "pixels", "--set", "knn.k=20,10"], "expected increasing numbers from 1"),
        ([*DIGITS, "--model", "pixels", "--set", "knn.k=10"], "headline 'top1@20' is not among the metrics"),
        ([*DIGITS, "--model", "pixels", "--set", "knn.k=10"], "; add --set knn.headline=top1@10"),
        (["run", "--task", ",", "--dataset", "digits", "--model", "pixels"], "--task ',': expected a name"),
        (["run", "--task", "knn", "--dataset", " ", "--model", "pixels"], "--dataset ' ': expected a name"),
        (["run", "--task", "knn", "--dataset", "digits", "--model", ","], "--model ',': expected a name"),
        ([*DIGITS, "--model", "pixels", "--seed", "-1"], "Invalid value for '--seed'"),
        ([*DIGITS, "--model", "pixels", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["leaderboard", "--out", "."], "--out .: expected a file to write, found a directory"),
        ([*DIGITS, "--model", "pixels", "--set", "knn.kk=10"], "knn has the parameters k, temperature"),
        ([*DIGITS, "--model", "pixels", "--set", "linear.c=1"], "the task is not a part of this run"),
        ([*DIGITS, "--model", "pixels", "--set", "nonsense"], "expected TASK.PARAMETER=VALUE"),
        ([*DIGITS, "--model", "pixels", "--device", "gpu"], "expected auto, cpu, cuda or cuda:i"),
        ([*DIGITS, "--model", "pixels", "--device", "cuda:9999"], "torch sees "),
        ([*DIGITS, "--model", "pixels", "--precision", "fp8"], "expected fp32, tf32, bf16 or fp16"),
        ([*DIGITS, "--model", "pixels", "--frce"], "No such option"),
        (["rn"], "No such command"),
        (["run", "--task", "knn", "--dataset", "cifar100", "--model", "pixels", "--offline"], "cifar100 is not there"),
        (["run", "--task", "knn", "--dataset", "folder:none", "--model", "pixels"], "no such directory"),
        (["run", "--task", "knn", "--features", "none.npz"], "--features needs --name NAME"),
        (["run", "--task", "knn", "--features", "none.npz", "--name", "x"], "none.npz: no such file"),
        (
            [*DIGITS, "--model", "pixels", "--label-column", "x"],
            "--label-column: is for hf: data; digits is of the",
        ),
        (
            [*DIGITS, "--model", "pixels", "--image-column", "x"],
            "--image-column: is for hf: data; digits is of the",
        ),
        ([*DIGITS, "--model", "pixels", "--split", "test=train"], "--split: is for hf: data and class folders; digits"),
        (
            ["run", "--suite", "quick", "--model", "pixels", "--split", "test=train"],
            "--suite quick is of datasets of the registry",
        ),
        ([*DIGITS, "--model", "pixels", "--arch", "resnet18"], "is for a checkpoint; of pixels its name says it"),
        ([*DIGITS, "--model", "random:test_vit", "--arch", "resnet18"], "of random:test_vit its name says it"),
        ([*DIGITS, "--model", "massl-small-cifar10", "--arch", "x"], "of massl-small-cifar10 its manifest says it"),
        (
            [*DIGITS, "--model", "pixels", "--split", "test=a,test=b"],
            "--split test=a,test=b: expected train=NAME,test=NAME",
        ),
        ([*FEATURES, "--limit", "10"], "--limit: is for --model and --dataset; --features is taken whole"),
        ([*FEATURES, "--arch", "resnet18"], "--arch: is for --model and --dataset"),
        ([*FEATURES, "--precision", "bf16"], "--precision: is for --model and --dataset"),
        ([*FEATURES, "--skip-corrupt"], "--skip-corrupt: is for --model and --dataset"),
        ([*FEATURES, "--split", "test=train"], "--split: is for hf: data and class folders; --features is arrays"),
        (["info", "digit"], "did you mean digits"),
        (["list", "task"], "did you mean tasks"),
        (["leaderboard", "--format", "pdf"], "unknown format 'pdf'"),
        (["leaderboard", "--check"], "--check needs --out FILE"),
    ],
)
def test_known_before_work_starts(run_cli: Cli, arguments: list[str], message: str) -> None:
    answer = run_cli(*arguments)
    assert answer.code == 2, answer.err
    assert message in answer.error
    assert answer.out == ""
    assert not Path("results").exists()
    assert list(Path(os.environ["MASSL_BENCH_CACHE"]).glob("features/*")) == []


def test_a_setting_of_the_environment_is_named(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "maybe")
    answer = run_cli(*DIGITS, "--model", "pixels")
    assert answer.code == 2
    assert "HF_HUB_OFFLINE" in answer.error


def test_spaces_after_commas_and_a_slash_at_the_end(run_cli: Cli, image_folder: Path) -> None:
    answer = run_cli(
        "run", "--task", "knn, kmeans", "--dataset", f"folder:{image_folder}/", "--model", "pixels", *SMALL, "--dry-run"
    )
    assert answer.code == 0, answer.err
    starts = [line.split(": ")[0] for line in answer.out.splitlines()]
    assert starts == [f"pixels {task} folder:{image_folder}" for task in ("knn", "kmeans")]


def test_an_encoding_without_greek_prints(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "massl_bench", "list", "tasks"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=True)
    assert b"?-ReQ" in done.stdout


def test_sigterm_says_what_is_kept(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr("massl_bench.bench.runner.run_request", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        answer = run_cli(*DIGITS, "--model", "pixels")
    assert answer.code == 75
    assert answer.err.endswith("stopped by SIGTERM; finished cells are kept, the same command goes on\n")


def test_ctrl_c_promises_nothing_where_nothing_is_kept(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massl_bench.records.rows.collect", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    answer = run_cli("leaderboard")
    assert (answer.code, answer.error) == (130, "error: interrupted")


def test_a_results_directory_that_is_not_there(run_cli: Cli) -> None:
    answer = run_cli("leaderboard", "--results-dir", "typo")
    assert answer.code == 0
    assert "--results-dir typo: is not there" in answer.err


def test_a_demo_directory_that_is_a_file(run_cli: Cli) -> None:
    Path("taken").touch()
    answer = run_cli("demo", "--directory", "taken")
    assert answer.code == 2
    assert "--directory taken: expected a directory, found the file taken" in answer.error


def test_a_ground_truth_that_contradicts_itself(run_cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", database=np.eye(4), queries=np.eye(4)[:1])
    Path("truth.json").write_text('[{"easy": [0, 2], "hard": [1], "junk": [3, 2]}]')
    answer = run_cli(
        "run", "--task", "retrieval", "--features", tmp_path / "f.npz", "--ground-truth", "truth.json", "--name", "x"
    )
    assert answer.code == 2
    assert answer.error == "error: --ground-truth truth.json: query 0: image 2 is both easy and junk"


def test_a_results_directory_that_is_a_file(run_cli: Cli) -> None:
    Path("taken").touch()
    for command in ((*DIGITS, "--model", "pixels"), ("leaderboard",)):
        for directory in ("taken", "taken/results"):
            answer = run_cli(*command, "--results-dir", directory)
            assert answer.code == 2
            assert f"--results-dir {directory}: expected a directory, found the file taken" in answer.error
    assert list(Path(os.environ["MASSL_BENCH_CACHE"]).glob("features/*")) == []


def test_what_cannot_be_written_is_one_line(run_cli: Cli) -> None:
    Path("taken").touch()
    for arguments in (("leaderboard", "--out", "taken/board.md"), ("demo", "--directory", "taken/demo")):
        answer = run_cli(*arguments)
        assert answer.code == (1 if "--out" in arguments else 2)
        assert "taken" in answer.error


def test_commas_in_the_braces_of_shards(run_cli: Cli, tmp_path: Path) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png", seed=ord(name))
        write_tar(tmp_path / f"{name}.tar", {f"{name}.png": (tmp_path / f"{name}.png").read_bytes()})
    pattern = f"wds:{tmp_path}/{{a,b}}.tar"
    answer = run_cli("run", "--task", "spectrum", "--dataset", pattern, "--model", "pixels", "--dry-run")
    assert answer.code == 0, answer.err
    assert answer.out.endswith("(images through the model on cpu: all 2)\n")


def test_errors_of_a_shared_protocol_name_the_task(run_cli: Cli, tmp_path: Path) -> None:
    """The advice can be typed as it stands: a task of one's own has its own parameters."""
    (tmp_path / "own" / "tasks").mkdir(parents=True)
    for name in ("knn", "few-shot"):
        text = (Path(__file__).parents[2] / "tasks" / f"{name}.toml").read_text()
        text = text.replace(f'name = "{name}"', f'name = "{name}-mine"')
        (tmp_path / "own" / "tasks" / f"{name}-mine.toml").write_text(text)
    command = ("run", "--include-path", tmp_path / "own", "--dataset", "digits", "--model", "pixels")
    answer = run_cli(*command, "--task", "knn-mine", "--limit", "train=8")
    assert answer.code == 2
    assert answer.error == (
        "error: knn-mine: k = 200 asked, but the training split has 8 images; allowed up to 8: "
        "--set knn-mine.k=8 --set knn-mine.headline=top1@8"
    )
    answer = run_cli(*command, "--task", "few-shot-mine", "--limit", "train=60")
    assert answer.code == 1
    assert "few-shot-mine: 16 images of each class asked" in answer.error
    advice = answer.error.partition("allowed up to ")[2].partition(": ")[2]
    assert advice.startswith("--set few-shot-mine.shots=")
    assert run_cli(*command, "--task", "few-shot-mine", "--limit", "train=60", *advice.split()).code == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("class-retrieval.recall_at=-1,5", "expected increasing numbers from 1, got [-1, 5]"),
        ("retrieval.precision_at=0,1", "expected increasing numbers from 1, got [0, 1]"),
        ("copy-detection.rank_limit=-5", "expected greater than 0, got -5"),
        ("kmeans.max_points_per_centroid=0", "expected greater than 0, got 0"),
        ("kmeans.faiss_seed=2147483648", "expected less than 2147483648"),
        ("knn.temperature=inf", "expected a finite number, got inf"),
        ("linear.log10_c_max=nan", "expected a finite number, got nan"),
    ],
)
def test_numbers_of_a_task_that_mean_nothing(run_cli: Cli, setting: str, message: str) -> None:
    task = setting.partition(".")[0]
    answer = run_cli("run", "--task", task, "--dataset", "digits", "--model", "pixels", "--set", setting)
    assert answer.code == 2
    assert message in answer.error


def test_an_unlabelled_dataset_needs_another_task(run_cli: Cli, tmp_path: Path) -> None:
    write_image(tmp_path / "flat" / "0.png", seed=0)
    answer = run_cli("run", "--task", "knn", "--dataset", f"folder:{tmp_path / 'flat'}", "--model", "pixels")
    assert answer.code == 2
    assert "task knn needs a single-label dataset" in answer.error
    assert "is unlabelled" in answer.error


def test_options_of_tables_are_not_for_folders_and_shards(run_cli: Cli, image_folder: Path) -> None:
    flat = image_folder / "train" / "red"
    for reference, option in (
        (f"folder:{image_folder}", ("--label-column", "label")),
        (f"folder:{flat}", ("--split", "train=a")),
        ("wds:none-{0..1}.tar", ("--split", "all=a")),
    ):
        answer = run_cli("run", "--task", "spectrum", "--dataset", reference, "--model", "pixels", *option)
        assert answer.code == 2
        assert f"{option[0]}: is for hf: data" in answer.error
        assert "leave it out" in answer.error


def test_a_corrupt_image_fails_its_cell_and_the_others_go_on(run_cli: Cli, image_folder: Path) -> None:
    (image_folder / "test" / "red" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    folder = ("--dataset", f"folder:{image_folder}")
    answer = run_cli("run", "--task", "knn", *folder, "--dataset", "digits", "--model", "pixels", *SMALL)
    assert answer.code == 1
    assert "test/red/1.png: corrupt image" in answer.error
    assert "--skip-corrupt" in answer.error
    assert answer.out.startswith("pixels knn digits: top1@3 ")
    assert [path.name[:7] for path in records()] == ["digits@"]

    skipped = run_cli("run", "--task", "knn", *folder, "--model", "pixels", *SMALL, "--skip-corrupt", "--json")
    assert skipped.code == 0, skipped.err
    record = json.loads(skipped.out)[0]["record"]
    assert record["num_items"] == {"train": 12, "test": 5}
    assert not record["complete"]
    assert "1 corrupt test images skipped" in record["departures"]
    assert record["identity"]["dataset"]["skipped"]["test"][0].startswith("test/red/1.png: corrupt image")
    # Its bank is in the cache, but without the option it does not count.
    assert run_cli("run", "--task", "knn", *folder, "--model", "pixels", *SMALL).code == 1


def test_features_that_are_not_finite(run_cli: Cli, golden: Path, tmp_path: Path) -> None:
    content = torch.load(golden / "official_format_checkpoint.pth", weights_only=False)
    content["teacher"]["backbone.norm.weight"] *= 3e38  # finite itself, but not what comes out
    content["teacher"]["backbone.norm.bias"] += 3e38
    torch.save(content, tmp_path / "hot.pth")
    answer = run_cli(*DIGITS, "--model", tmp_path / "hot.pth", "--limit", "train=40,test=3", "--set", "knn.k=20")
    assert answer.code == 1
    assert "digits/train, row 0" in answer.error
    assert "are not finite; check the weights" in answer.error
    assert records() == []
    assert list(Path(os.environ["MASSL_BENCH_CACHE"]).glob("features/*/*")) == []


def test_a_malformed_task_file_names_file_and_key(run_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own" / "tasks").mkdir(parents=True)
    original = (Path(__file__).parents[2] / "tasks" / "knn.toml").read_text()
    file = tmp_path / "own" / "tasks" / "knn.toml"
    for old, new, message in (
        ("version = 1", 'version = "1"', "knn.toml: version: expected a valid integer, got '1'"),
        ("k = [10, 20, 100, 200]", 'k = "20"', "knn.toml: params.k: expected a list, got '20'"),
        ("temperature = 0.07", "", "knn.toml: params.temperature: is missing"),
        ("seed = 0", "seed = 0\nsed = 1", "knn.toml: sed: is not a known key"),
        ('headline = "top1@20"', 'headline = "top1@21"', "headline 'top1@21' is not among the metrics"),
        ('name = "knn"', 'name = "k-nn"', "name: expected 'knn', as the file is called"),
        ('protocol = "knn"', 'protocol = "kn"', "unknown protocol 'kn'; did you mean knn"),
        ("seed = 0", "seed = ", "not valid TOML"),
    ):
        assert old in original
        file.write_text(original.replace(old, new))
        answer = run_cli(*DIGITS, "--model", "pixels", "--include-path", tmp_path / "own")
        assert answer.code == 2
        assert message in answer.error


def test_leaderboard_formats(run_cli: Cli, tmp_path: Path) -> None:
    run_cli(*DIGITS, "--model", "pixels")
    run_cli(*DIGITS, "--model", "random:test_vit", "--limit", "test=10")
    board = run_cli("leaderboard")
    assert "| pixels" in board.out
    assert "95.78 ± " in board.out
    assert "random_test_vit" in board.out.partition("Not in the table:")[2]
    csv = run_cli("leaderboard", "--format", "csv").out.splitlines()
    assert csv[0].startswith("model,architecture,task,version,dataset,metric,value,ci95_low")
    assert len(csv) == 2
    assert float(csv[1].split(",")[6]) == pytest.approx(431 / 450)
    rows = json.loads(run_cli("leaderboard", "--json").out)
    assert (len(rows["rows"]), len(rows["apart"])) == (1, 1)
    suite = run_cli("leaderboard", "--suite", "quick").out
    assert "mean (quick)" in suite

    out = tmp_path / "LEADERBOARD.md"
    assert run_cli("leaderboard", "--check", "--out", out).code == 1
    assert run_cli("leaderboard", "--out", out).code == 0
    assert run_cli("leaderboard", "--check", "--out", out).code == 0
    out.write_text(out.read_text().replace("95.78", "99.99"))
    assert "is stale" in run_cli("leaderboard", "--check", "--out", out).error


def test_info_and_list(run_cli: Cli, golden: Path) -> None:
    knn = run_cli("info", "knn").out
    for part in ("temperature: 0.07", "k: 10, 20, 100, 200", "headline: top1@20", "citation: Caron"):
        assert part in knn
    cifar = run_cli("info", "cifar10").out
    for part in (
        "hub.revision: 69a62dd171e24a133d193073e73fda4dbb823266",
        "splits.train.size: 50000",
        "by_hand:",
        "licence:",
    ):
        assert part in cifar
    model = run_cli("info", golden / "official_format_checkpoint.pth").out
    assert "resize short side to 256 (bicubic, antialiased), centre crop 224, mean [0.485, 0.456, 0.406]" in model
    assert "preprocessing_origin: as DINO's evaluation" in model
    digits = json.loads(run_cli("info", "digits", "--json").out)
    assert (digits["type"], digits["kind"], digits["num_classes"]) == ("dataset", "single-label", 10)
    assert run_cli("info", "digits").out.startswith("type: dataset\n")
    assert "knn" in run_cli("list", "tasks").out
    assert {"cifar10", "cifar100", "digits"} <= {
        row["name"] for row in json.loads(run_cli("list", "datasets", "--json").out)
    }
    assert "pixels" in run_cli("list", "models").out


def test_json_of_the_other_commands(run_cli: Cli, golden: Path, record_file: Path) -> None:
    """One value on stdout, and nothing beside it."""
    (verdict,) = json.loads(run_cli("verify", record_file, "--json").out)
    assert verdict == {
        "path": str(record_file), "reproduced": True, "identity_differences": [], "metric_differences": [],
    }  # fmt: skip
    for command in ("fetch", "check"):
        found, missing = json.loads(run_cli("datasets", command, "digits", "cifar100", "--json").out)
        assert (found["name"], found["ok"], found["problems"]) == ("digits", True, [])
        assert (found["place"], found["splits"]) == ("embedded", {"train": 1347, "test": 450})
        assert (missing["name"], missing["ok"], len(missing["problems"])) == ("cifar100", False, 1)
    checkpoint = golden / "official_format_checkpoint.pth"
    added = json.loads(run_cli("weights", "add", checkpoint, "--name", "gold", "--copy", "--json").out)
    assert (added["manifest"], added["name"]) == ("weights/gold.toml", "gold")
    exported = json.loads(run_cli("weights", "export", "gold", "--format", "massl", "--json").out)
    assert Path(exported["file"]).is_file()
    assert Path(exported["card"]).is_file()


def test_doctor_reads_the_users_own_files(run_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own" / "tasks").mkdir(parents=True)
    (tmp_path / "own" / "tasks" / "mine.toml").write_text("name = 3")
    Path("manifests").mkdir()
    Path("manifests/bad.toml").write_text("name = ")
    answer = run_cli("doctor", "--include-path", tmp_path / "own", "--weights-dir", "manifests")
    assert answer.code == 1
    assert "BAD  registry: " in answer.out
    assert "mine.toml: name: expected a valid string, got 3" in answer.out
    assert "bad.toml: not valid TOML" in answer.out


def test_doctor(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = run_cli("doctor")
    assert answer.code == 0, answer.out
    for part in ("versions: massl-bench", "search on the CPU: 50 queries, all right", "no data root", "digits"):
        assert part in answer.out
    # A second wheel, as the package manager leaves it behind.
    others = "faiss_cpu" if "faiss-gpu" in answer.out else "faiss_gpu"
    metadata = tmp_path / f"{others}-1.9.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {others.replace('_', '-')}\nVersion: 1.9.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = run_cli("doctor")
    assert broken.code == 1
    assert "pip uninstall -y faiss-cpu faiss-gpu && pip install faiss-gpu" in broken.out
    run = run_cli(*DIGITS, "--model", "pixels")
    assert run.code == 2
    assert "pip uninstall -y" in run.error


def test_commands_are_listed_as_they_describe_themselves() -> None:
    """The list of --help imports no command: each line is the first of the own help of a command."""
    listed = typer.main.get_command(application.app).commands
    assert list(listed) == list(application.COMMANDS)
    for name, known in application.COMMANDS.items():
        command = application.load_command(name)
        assert command.get_short_help_str(200) == listed[name].get_short_help_str(200) == known.summary, name
        for each in getattr(command, "commands", {"": command}).values():
            assert each.epilog.startswith("Example: massl-bench"), (name, each.name)


def test_help(run_cli: Cli) -> None:
    for command in ([], ["datasets"], ["weights"]):
        assert "..." not in run_cli(*command, "--help").out.partition("Commands:")[2]  # no summary is cut
    pretrain = "".join(run_cli("pretrain", "--help").out.split())
    for preset in PRESETS.glob("*.toml"):
        assert preset.stem in pretrain
    assert "Example: massl-bench pretrain" in run_cli("pretrain", "--help").out
    assert run_cli("--version").out.startswith("massl-bench 0.")


@pytest.mark.parametrize("name", application.COMMANDS)
def test_an_option_that_takes_one_value_takes_no_second(name: str) -> None:
    """The parser would drop the first without a word."""
    found = application.load_command(name)
    for command in getattr(found, "commands", {"": found}).values():
        for option in (each for each in command.params if each.opts[0].startswith("-")):
            if option.is_flag and option.secondary_opts:
                with pytest.raises(RequestError, match=f"{option.opts[0]} and {option.secondary_opts[0]}: give one"):
                    command.make_context(name, [option.opts[0], option.secondary_opts[0]])
            elif not (option.is_flag or option.multiple):
                with pytest.raises(RequestError, match=f"{option.opts[0]}: given 2 times"):
                    command.make_context(name, [option.opts[0], "1", option.opts[0], "2"])


def test_limits_that_are_given_apart(run_cli: Cli) -> None:
    answer = run_cli(*DIGITS, "--model", "pixels", "--limit", "train=500", "--limit", "test=100")
    assert (answer.code, answer.error) == (2, "error: --limit: given 2 times, and takes one value; give it once")
    assert not records()
