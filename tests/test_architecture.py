"""Imports point one way, start-up is light, and a number that changes bumps its task's version."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import massl_bench
from massl_bench import protocols
from massl_bench.core.files import sha256_of
from massl_bench.datasets.copies import CopiesSpec
from massl_bench.specs.registry import Registry
from massl_bench.specs.toml import read_toml

PACKAGE = Path(massl_bench.__file__).parent

# What each part may import of the others. Protocols are pure: they know neither models nor datasets nor features, and
# pretraining knows no protocols.
ALLOWED = {
    "printable": "",
    "errors": "printable",
    "storage": "",
    "types": "",
    "devices": "errors printable",
    "plugins": "errors printable",
    "toml_files": "errors printable types",
    "specs": "errors plugins printable storage toml_files types",
    "transforms": "types",
    "metrics": "errors printable types",
    "search": "errors printable types",
    "labels": "errors printable types",
    "checks": "errors printable",
    "draws": "errors labels metrics printable types",
    "solvers": "errors printable",
    "optimizers": "",
    "crop_boxes": "",
    "heads": "errors optimizers printable types",
    "protocols": "checks draws errors heads labels metrics plugins printable search solvers specs types",
    "datasets": "errors printable specs storage toml_files types",
    "models": "errors printable specs storage toml_files types",
    "features": "crop_boxes datasets errors models printable storage transforms types",
    "results": "errors plugins printable specs storage types",
    "leaderboard": "errors printable results specs",
    "planning": "datasets devices errors features models printable protocols results search specs storage types",
    "runner": "errors features models planning printable protocols results specs types",
    "api": "datasets devices errors features models printable protocols search specs storage types",
    "progress": "features",
    "doctor": "datasets devices errors plugins printable search specs",
    "pretrain": (
        "crop_boxes datasets devices errors models optimizers printable specs storage toml_files transforms types"
    ),
    "pretraining": "api datasets pretrain specs",
    "verification": "datasets errors features planning printable results runner specs",
    "cli": (
        "datasets devices doctor errors features leaderboard models planning pretrain pretraining progress results "
        "printable runner specs storage toml_files types verification"
    ),
    "__main__": "cli",
    "__init__": "api errors printable types",
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts that a file imports anywhere in it, lazily or for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.split(".")[1] for name in names if name.startswith("massl_bench.")}
    return {name for name in found if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_arrows(path: Path) -> None:
    part = part_of(path)
    assert part in ALLOWED, f"{part} is new: say what it may import"
    assert imported_parts(path) - {part} <= set(ALLOWED[part].split()), path


def test_the_arrows_have_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {part for part, arrows in ALLOWED.items() if part not in done and set(arrows.split()) <= done}
        assert ready, f"a circle among {set(ALLOWED) - done}"
        done |= ready


def test_faiss_has_one_importer() -> None:
    importers = {part_of(path) for path in FILES if "import faiss" in path.read_text()}
    assert importers == {"search"}


HEAVY = ("torch", "faiss", "timm", "torchvision", "datasets", "sklearn")


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], (*HEAVY, "numpy", "pydantic")),
        (["run", "--help"], (*HEAVY, "numpy")),
        (["weights", "--help"], (*HEAVY, "numpy")),
        (["list", "models"], (*HEAVY, "numpy")),
        (["list", "tasks"], (*HEAVY, "numpy")),
        (["list", "datasets"], (*HEAVY, "numpy")),
        (["info", "knn"], (*HEAVY, "numpy")),
        (["leaderboard"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_light_commands_import_nothing_heavy(arguments: list[str], absent: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from massl_bench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print([name for name in {absent} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_is_instant() -> None:
    code = "import sys; import massl_bench; print([n for n in ('numpy', 'torch', 'pydantic') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(massl_bench.__all__) <= set(dir(massl_bench))


@pytest.mark.speed
@pytest.mark.parametrize("arguments", [["--help"], ["list", "tasks"]], ids=" ".join)
def test_light_commands_are_quick(arguments: list[str]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "massl_bench", *arguments], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.7


def test_a_changed_number_bumps_the_version() -> None:
    """Each released (task, version) has one hash for ever; a new version adds a line here and one in CHANGELOG.md."""
    known = json.loads((Path(__file__).parent / "task_versions.json").read_text())
    registry = Registry()
    for name in registry.tasks:
        task = registry.task(name)
        released = known.get(name, {})
        assert str(task.version) in released, f"{name}: add version {task.version} with hash {task.spec_hash}"
        assert released[str(task.version)] == task.spec_hash, f"{name}: a number changed, and the version did not"


def test_a_changed_number_of_generated_copies_bumps_the_version() -> None:
    known = json.loads((Path(__file__).parent / "task_versions.json").read_text())
    for name, path in Registry().copies.items():
        copies = read_toml(path, CopiesSpec)
        found = sha256_of(copies.model_dump(mode="json", exclude={"summary"}))
        released = known.get(f"copies/{name}", {})
        assert released.get(str(copies.version)) == found, f"{name}: version {copies.version} needs the hash {found}"


def test_every_spec_is_valid() -> None:
    registry = Registry()
    for name in registry.datasets:
        spec = registry.dataset(name)
        assert spec.hub is not None or spec.archives or spec.reader is not None or spec.patches is not None, name
    for name in registry.suites:
        protocols.check_suite(registry.suite(name), registry)
        for cell in registry.suite(name).cells:
            assert registry.dataset(cell.dataset).kind in registry.task(cell.task).kinds, (name, cell)
