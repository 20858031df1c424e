"""Packages that add to the registry: the example of docs/extending.md as it stands there, and broken ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import massl_bench as mb
from tests.conftest import Answer
from tests.installed_packages import example

Cli = Callable[..., Answer]
Install = Callable[[dict[str, str]], Path]


def write_project(entry_points: str, name: str = "other-bench") -> dict[str, str]:
    return {"pyproject.toml": f'[project]\nname = "{name}"\nversion = "0.3"\n{entry_points}'}


def nearest_mean_accuracy(dataset: str, data_root: Path) -> tuple[int, int]:
    """Returns (right, all) by one loop over the test items, in float64."""
    banks = mb.extract(mb.load_encoder("pixels"), dataset, data_root=data_root)
    features = {role: bank.features.astype(float) for role, bank in banks.items()}
    unit = {role: rows / np.linalg.norm(rows, axis=1)[:, None] for role, rows in features.items()}
    labels = {role: bank.labels.tolist() for role, bank in banks.items()}
    means = {label: unit["train"][banks["train"].labels == label].mean(axis=0) for label in set(labels["train"])}
    right = 0
    for row, label in zip(unit["test"], labels["test"], strict=True):
        similarity = {each: row @ mean / np.linalg.norm(mean) for each, mean in means.items()}
        right += max(similarity, key=similarity.__getitem__) == label
    return right, len(unit["test"])


def test_the_example_of_the_documentation(run_cli: Cli, install: Install, image_folder: Path) -> None:
    files = example()
    assert len(files) == 10
    install(files)
    data = image_folder.parent / "data"
    data.mkdir()
    image_folder.rename(data / "two-colours")

    for kind, name in (("tasks", "nearest-mean"), ("datasets", "two-colours"), ("suites", "mine")):
        assert name in [line.split()[0] for line in run_cli("list", kind).out.splitlines()]
    answer = run_cli("run", "--suite", "mine", "--model", "pixels", "--data-root", data)
    assert answer.code == 0, answer.err
    assert answer.out.count("\n") == 3
    for dataset, right in (("digits", 389), ("two-colours", 6)):
        record = json.loads(Path(f"results/pixels/nearest-mean/{dataset}.json").read_text())
        expected, total = nearest_mean_accuracy(dataset, data)
        assert (expected, record["num_items"]["test"]) == (right, total)
        assert record["metrics"]["top1"]["value"] == pytest.approx(expected / total)
        assert record["environment"]["packages"]["my-bench"] == "1.0"
        assert record["identity"]["task"]["protocol"] == "nearest_mean"
    board = run_cli("leaderboard", "--suite", "mine").out
    assert "| pixels" in board
    assert "nearest-mean" in board
    lines = run_cli("leaderboard", "--suite", "mine", "--format", "lines").out.splitlines()
    assert lines[1:] == ["pixels: nearest-mean digits 86.4", "pixels: nearest-mean two-colours 100.0"]
    assert "ok   plugin: my-bench 1.0 (massl_bench.protocols: nearest_mean" in run_cli("doctor").out
    wrong = run_cli(
        "run", "--task", "nearest-mean", "--dataset", "digits", "--model", "pixels", "--set", "nearest-mean.k=1"
    )
    assert "nearest-mean has the parameters bootstrap_resamples and headline" in wrong.error


def test_listing_imports_nothing_of_a_package(install: Install) -> None:
    site = install(example() | {"my_bench/__init__.py": "raise RuntimeError('imported')"})
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from massl_bench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    code = end.code\n"
        "print(code, [name for name in ('numpy', 'torch', 'my_bench') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "list", "tasks"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "nearest-mean" in done.stdout


def test_the_users_own_directory_hides_a_package(run_cli: Cli, install: Install, tmp_path: Path) -> None:
    files = example()
    install(files)
    (tmp_path / "own" / "tasks").mkdir(parents=True)
    text = files["my_bench/tasks/nearest-mean.toml"].replace("Nearest class mean on", "My own, on")
    (tmp_path / "own" / "tasks" / "nearest-mean.toml").write_text(text)
    assert "My own, on frozen features" in run_cli("list", "tasks", "--include-path", tmp_path / "own").out
    assert "Nearest class mean on frozen features" in run_cli("list", "tasks").out


REGISTRY = '[project.entry-points."massl_bench.registry"]\nmine = "other_bench"'
PROTOCOL = '[project.entry-points."massl_bench.protocols"]\n{} = "other_bench.protocol"'
WHO = "plugin other-bench 0.3"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"other_bench/__init__.py": ""}, "expected a package with a folder tasks/ inside, found /"),
        ({}, "expected a package with a folder tasks/ inside, found no package other_bench"),
        ({"other_bench/tasks/knn.toml": ""}, "knn.toml: the name is taken by /"),
        ({"other_bench/tasks/mine.toml": "name = "}, "mine.toml: not valid TOML"),
        ({"other_bench/tasks/mine.toml": 'name = "mine"'}, "mine.toml: version: is missing"),
    ],
    ids=["no folder", "no package", "a name that is taken", "no TOML", "not a task"],
)
def test_a_broken_registry_is_an_error_that_names_the_package(
    run_cli: Cli, install: Install, files: dict[str, str], message: str
) -> None:
    install(write_project(REGISTRY) | files)
    answer = run_cli("list", "tasks")
    assert answer.code == 2
    assert f"error: {WHO} (massl_bench.registry: mine = other_bench): " in answer.error
    assert message in answer.error


def test_two_packages_with_one_name(run_cli: Cli, install: Install) -> None:
    files = example()
    install(files)
    task = "other_bench/tasks/nearest-mean.toml"
    install(write_project(REGISTRY) | {task: files["my_bench/tasks/nearest-mean.toml"]})
    answer = run_cli("list", "tasks")
    assert answer.code == 2
    assert WHO in answer.error
    assert "my_bench/tasks/nearest-mean.toml; rename one" in answer.error


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("nearest_mean", "raise OSError('no licence\\nserver')", "cannot be imported: OSError: no licence server"),
        ("nearest_mean", "import no_such_module", "cannot be imported: ModuleNotFoundError: No module named"),
        ("nearest_mean", "ROLES = ('train',)", "the module has no PROTOCOL; a protocol has PROTOCOL"),
        ("knn", "", "massl-bench has a protocol of this name already"),
    ],
)
def test_a_broken_protocol_is_an_error_that_names_the_package(
    run_cli: Cli, install: Install, name: str, module: str, message: str
) -> None:
    files = example()
    own = {path: files[path] for path in ("my_bench/__init__.py", "my_bench/tasks/nearest-mean.toml")}
    registry = '[project.entry-points."massl_bench.registry"]\nmine = "my_bench"\n'
    project = write_project(registry + PROTOCOL.format(name))
    install(project | own | {"other_bench/__init__.py": "", "other_bench/protocol.py": module})
    answer = run_cli("run", "--task", "nearest-mean", "--dataset", "digits", "--model", "pixels")
    assert answer.code == 2
    assert f"error: {WHO} (massl_bench.protocols: {name} = other_bench.protocol): " in answer.error
    assert message in answer.error
    assert not Path("results").exists()


def test_doctor_names_a_broken_protocol(run_cli: Cli, install: Install) -> None:
    install(write_project(PROTOCOL.format("mine")))
    answer = run_cli("doctor")
    assert answer.code == 1
    assert (
        f"BAD  {WHO.replace(' ', ': ', 1)} (massl_bench.protocols: mine = other_bench.protocol): cannot be imported"
        in answer.out
    )


def test_two_protocols_with_one_name(run_cli: Cli, install: Install) -> None:
    install(example())
    install(write_project(PROTOCOL.format("nearest_mean")))
    answer = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")
    assert answer.code == 2
    assert WHO in answer.error
    assert "plugin my-bench 1.0" in answer.error
