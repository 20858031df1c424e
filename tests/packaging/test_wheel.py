"""The wheel, installed outside the checkout, holds the whole registry."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed `massl-bench` of an environment of its own, which borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin" / "massl-bench"


def run(command: Path, folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MASSL_BENCH"))}
    environment["MASSL_BENCH_CACHE"] = str(folder / "cache")
    done = subprocess.run(
        [command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_from_its_own_files(command: Path, tmp_path: Path) -> None:
    code = "import massl_bench; print(massl_bench.__file__)"
    done = subprocess.run(
        [command.parent / "python", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert Path(done.stdout.strip()).is_relative_to(command.parents[1])


@pytest.mark.parametrize(
    ("kind", "folder"), [("tasks", "tasks"), ("datasets", "tasks/datasets"), ("suites", "tasks/suites")]
)
def test_it_lists_what_the_checkout_has(command: Path, tmp_path: Path, kind: str, folder: str) -> None:
    listed = {row["name"] for row in json.loads(run(command, tmp_path, "list", kind, "--json"))}
    assert listed == {path.stem for path in (ROOT / folder).glob("*.toml")}
    assert listed


def test_it_measures(command: Path, tmp_path: Path) -> None:
    out = run(command, tmp_path, "run", "--task", "knn", "--dataset", "digits", "--model", "pixels")
    assert "top1@20 95.78" in out
    assert (tmp_path / "results" / "pixels" / "knn" / "digits.json").is_file()


def test_it_brings_weights_and_their_results(command: Path, tmp_path: Path) -> None:
    out = run(command, tmp_path, "run", "--task", "knn", "--dataset", "digits")
    assert out.startswith("massl-small-cifar10 knn digits: top1@20 ")
    assert "| massl-small-cifar10 " in run(command, tmp_path, "leaderboard")


def test_a_checkout_measures_the_same(command: Path, tmp_path: Path) -> None:
    """Identities and numbers, of pixels and of the weights that come with both."""
    (tmp_path / "wheel").mkdir()
    (tmp_path / "checkout").mkdir()
    found = []
    for place, program in (("wheel", [command]), ("checkout", [sys.executable, "-m", "massl_bench"])):
        environment = {
            name: each for name, each in os.environ.items() if not name.startswith(("PYTHON", "MASSL_BENCH"))
        }
        environment["MASSL_BENCH_CACHE"] = str(tmp_path / place / "cache")
        environment |= {"PYTHONPATH": str(ROOT)} if place == "checkout" else {}
        arguments = ["run", "--task", "knn", "--dataset", "digits", "--model", "pixels,massl-small-cifar10"]
        subprocess.run(
            [*program, *arguments], cwd=tmp_path / place, env=environment, check=True, capture_output=True, text=True
        )
        records = [json.loads(path.read_text()) for path in sorted((tmp_path / place / "results").rglob("*.json"))]
        found.append([(each["identity"], each["identity_sha256"], each["metrics"]) for each in records])
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_its_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "massl_bench/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/")) or "/golden/" in name]
    # The two networks are 7.5 MB of it: more is a file that nobody meant to send.
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist()) < 16e6
