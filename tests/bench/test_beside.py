"""Checkpoints that are measured while the training goes on, by a launcher of another package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.test_launchers import PROJECT
from tests.conftest import Answer

Cli = Callable[..., Answer]

PLUGIN = """
from massl_bench.bench.launch import Launcher
from massl_bench.bench.runner import run_request

def run(request, registry, reporting):
    if request.name is not None and request.name.endswith("-step6"):
        raise_ = __import__("massl_bench.core.errors", fromlist=["x"]).CellError
        raise raise_("the cluster has gone")
    return run_request(request, registry, reporting)

LAUNCHER = Launcher(name="shout", help="As local, in a thread.", run=run)
"""

SUITE = """
name = "mine"
summary = "two cells"
cells = [{ task = "knn", dataset = "digits" }, { task = "spectrum", dataset = "digits" }]
"""

TRAIN = ["pretrain", "--dataset", "digits", "--preset", "tiny-digits", "--name", "net", "--device", "cpu"]
for setting in ("batch_size=128", "epochs=1", "backbone.depth=1", "massl.teacher_temp_warmup_epochs=1",
                "optimiser.warmup_epochs=0", "run.checkpoint_every=3", "run.keep_checkpoints=1"):  # fmt: skip
    TRAIN += ["--set", setting]


@pytest.fixture
def suite(tmp_path: Path) -> list[object]:
    (tmp_path / "own" / "tasks" / "suites").mkdir(parents=True)
    (tmp_path / "own" / "tasks" / "suites" / "mine.toml").write_text(SUITE)
    return ["--include-path", tmp_path / "own", "--bench", "mine"]


def test_checkpoints_are_measured_as_they_appear(
    run_cli: Cli, install: Callable[[dict[str, str]], Path], suite: list[object]
) -> None:
    install({"pyproject.toml": PROJECT, "other_bench/__init__.py": "", "other_bench/shout.py": PLUGIN})
    left = Path("weights/net/bench-00000099.pth")
    left.parent.mkdir(parents=True)
    left.touch()
    answer = run_cli(*TRAIN, *suite, "--bench-every", "3", "--launcher", "shout", "--json")
    assert answer.code == 0, answer.err
    models = [(outcome["model"], outcome["task"]) for outcome in json.loads(answer.out)["outcomes"]]
    steps = [(f"net-step{step}", task) for step in (3, 9) for task in ("knn", "spectrum")]
    assert models == steps + [(name, task) for name in ("net", "net-untrained") for task in ("knn", "spectrum")]
    assert "step 6 is not measured: the cluster has gone" in answer.err
    assert "net-step3 knn digits: top1@20 0." in answer.err
    assert sorted(path.parent.parent.name for path in Path("results").rglob("digits.json")) == sorted(
        name for name, _ in models
    )
    assert [path.name for path in Path("weights/net").glob("*.pth")] == ["checkpoint-00000010.pth"]
    record = json.loads(Path("results/net-step9/knn/digits.json").read_text())
    assert record["identity"]["preprocessing"]["crop"] == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bench-every", "3"], "--bench-every: belongs to --bench SUITE"),
        (["--launcher", "ray"], "--launcher: belongs to --bench SUITE"),
        (["--bench", "quick", "--bench-every", "3"], "checkpoints are measured beside the training, elsewhere; give"),
        (
            ["--bench", "quick", "--bench-every", "4", "--launcher", "ray"],
            "--bench-every 4: checkpoints are written every 3 steps (run.checkpoint_every); give a multiple",
        ),
        (["--bench", "quick", "--launcher", "rays"], "unknown launcher 'rays'"),
    ],
)
def test_what_does_not_go_together(run_cli: Cli, options: list[str], said: str) -> None:
    answer = run_cli(*TRAIN, *options)
    assert answer.code == 2
    assert said in answer.error
    assert not Path("weights").exists()


@pytest.mark.cluster
def test_on_a_ray_cluster(run_cli: Cli, suite: list[object]) -> None:
    pytest.importorskip("ray")
    answer = run_cli(*TRAIN, *suite, "--bench-every", "6", "--launcher", "ray", "--json")
    assert answer.code == 0, answer.err
    models = {outcome["model"] for outcome in json.loads(answer.out)["outcomes"]}
    assert models == {"net-step6", "net", "net-untrained"}
