"""Imports point one way, start-up is light, and a number that changes bumps its task's version."""

from __future__ import annotations

import ast
import json
import re
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
from tests.conftest import LONGEST, SLOW

PACKAGE = Path(massl_bench.__file__).parent

# What each part may import of the others. Protocols are pure: they know neither models nor datasets nor features, and
# pretraining knows no protocols.
ALLOWED = {
    "core": "",
    "specs": "core",
    "metrics": "core",
    "learners": "core",
    "protocols": "core specs metrics learners",
    "datasets": "core specs",
    "models": "core specs",
    "features": "core datasets models",
    "records": "core specs metrics",
    "report": "core specs metrics records",
    "pretrain": "core specs datasets models learners",
    "bench": "core specs learners protocols datasets models features records pretrain",
    "cli": "core specs datasets models features records report pretrain bench",
    "__main__": "cli",
    "__init__": "core features models pretrain bench",
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


def imported_files(path: Path) -> set[Path]:
    """The files of the package that a file imports anywhere in it, lazily or for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [module if file_of(module) else node.module for module in modules]
        found |= {file for name in names if (file := file_of(name)) is not None}
    return found - {path}


def file_of(module: str) -> Path | None:
    if module.split(".", maxsplit=1)[0] != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def test_the_files_have_no_circle() -> None:
    waiting = {path: imported_files(path) for path in FILES}
    while waiting:
        ready = {path for path, files in waiting.items() if not files & waiting.keys()}
        assert ready, "a circle among " + ", ".join(sorted(str(path.relative_to(PACKAGE)) for path in waiting))
        for path in ready:
            del waiting[path]


def test_the_top_level_is_small() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    assert len(entries - {"registry"}) <= 13, sorted(entries)


def num_lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef, part: str) -> int:
    """Its lines without its documentation; of a command, also without its signature, which is the list of options."""
    first, *rest = function.body
    documented = ast.get_docstring(function) is not None
    assert function.end_lineno is not None
    assert first.end_lineno is not None
    if part == "cli" and "typer.Option(" in ast.unparse(function.args):
        return function.end_lineno - (rest[0].lineno if documented and rest else first.lineno) + 1
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def test_files_and_functions_fit_the_eye() -> None:
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert num_lines_of_code(node, part_of(path)) <= 60, f"{path}: {node.name}"


def test_faiss_has_one_importer() -> None:
    importers = {path.name for path in FILES if "    import faiss\n" in path.read_text()}
    assert importers == {"faiss_backend.py"}


HEAVY = ("torch", "faiss", "timm", "torchvision", "datasets", "sklearn")


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], (*HEAVY, "numpy", "pydantic", "massl_bench.cli.run")),
        (["list", "tasks"], (*HEAVY, "numpy", "massl_bench.cli.run", "massl_bench.core.values")),
        (["run", "--help"], (*HEAVY, "numpy")),
        (["weights", "--help"], (*HEAVY, "numpy")),
        (["list", "models"], (*HEAVY, "numpy")),
        (["list", "datasets"], (*HEAVY, "numpy")),
        (["list", "presets"], (*HEAVY, "numpy")),
        (["info", "knn"], (*HEAVY, "numpy")),
        (["info", "tiny-digits"], (*HEAVY, "numpy")),
        (["leaderboard"], HEAVY),
        (["leaderboard", "--format", "html"], HEAVY),
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


_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")

OPTIONS_OF_OTHERS = {
    "datasets/images/integrity.py": {"--upgrade"},  # pip
    "core/devices.py": {"--shm-size"},  # docker
    "models/weights/export.py": {"--task", "--dataset", "--model"},  # the command in the README of exported weights
    "records/environment.py": {"--porcelain", "--untracked-files"},  # git
}


def test_only_the_command_line_writes_options() -> None:
    """Elsewhere a text names settings as its reader gives them: `core.wording`."""
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if part_of(path) == "cli":
            continue
        tree = ast.parse(path.read_text())
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found = {
            each
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
            for each in _OPTION.findall(node.value)
        }
        assert found <= OPTIONS_OF_OTHERS.get(name, set()), f"{name}: {found}"


def test_the_list_of_slow_tests_names_tests_that_are_there() -> None:
    root = Path(__file__).parents[1]
    assert all((root / name).is_file() for name in LONGEST)
    names = SLOW.read_text().split()
    assert names == sorted(set(names))
    for name in names:
        file, function = name.split("::")[0], name.split("::")[-1]
        assert re.search(rf"^ *def {function}\(", (root / file).read_text(), re.MULTILINE), name
