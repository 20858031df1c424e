"""What many tests share: a private cache, small datasets, and the command line in this process."""

from __future__ import annotations

import os

# Before anything reads them: no test reaches the network, or the user's own data and cache.
os.environ["HF_HUB_OFFLINE"] = "1"
# The processes of pytest-xdist inherit what is left of the environment: they find it under another name.
_KEPT = "MASSL_BENCH_TEST_DATA"
REAL_DATA = os.environ.pop("MASSL_BENCH_DATA", None) or os.environ.get(_KEPT)
if REAL_DATA is not None:
    os.environ[_KEPT] = REAL_DATA
os.environ.pop("MASSL_BENCH_CACHE", None)

import gc
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from massl_bench import cli
from tests.installed_packages import install_package

GOLDEN = Path(__file__).parent / "golden"
FAULTS = Path(__file__).parent / "faults"


def pytest_configure(config: pytest.Config) -> None:
    """One thread a process, before torch is imported: two processes of one are faster than one of two."""
    if config.getoption("markexpr") != "speed":  # there the threads are what is measured
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # pytest-xdist begins with the files of most tests, and not of most work


SLOW = Path(__file__).parent / "slow.txt"
"""Tests of more than 0.4 s of the processor, as measured: the rest is the inner loop, `pytest -m "not slow"`."""


LONGEST = {
    "tests/bench/test_eight_at_once.py",
    "tests/bench/test_processes.py",
    "tests/cli/test_cifar10.py",
    "tests/cli/test_demo.py",
    "tests/cli/test_pretrain_command.py",
    "tests/cli/test_torchrun.py",
    "tests/faults/test_disk.py",
    "tests/pretrain/test_compute.py",
    "tests/pretrain/test_resume.py",
    "tests/pretrain/test_sharding.py",
    "tests/test_benchmarks.py",
}
"""Files of few tests that take long: begun first, or one process ends a minute after the other."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-above", type=float, metavar="SECONDS", help="fail what takes more CPU and is not in slow.txt"
    )


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = set(SLOW.read_text().split())
    for item in items:
        apart = any(item.get_closest_marker(name) for name in ("browser", "cluster", "speed", "wheel"))
        if apart or item.nodeid.partition("[")[0] in names:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in LONGEST)


def pytest_collection_finish() -> None:
    """What was imported stays: no later collection of garbage walks through it."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    yield from _within_the_limit(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    yield from _within_the_limit(item)


def _within_the_limit(item: pytest.Item) -> Iterator[None]:
    """Fails a test that takes more of the processor than `--slow-above` allows, its child processes counted."""
    before = sum(os.times()[:4])
    yield
    limit, taken = item.config.getoption("--slow-above"), sum(os.times()[:4]) - before
    if limit is not None and taken > limit and item.get_closest_marker("slow") is None:
        pytest.fail(f"took {taken:.1f} s of the processor: make it cheaper, or add it to {SLOW}", pytrace=False)


# The same examples in every run, however busy the machine is.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.load_profile("suite")

# A shell starts what runs in the background with Ctrl-C ignored, and tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def golden() -> Path:
    return GOLDEN


@pytest.fixture(autouse=True)
def _private_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a folder of their own: pytest lists all that lies beside a directory that it makes, thousands of times.
    places = tmp_path_factory.getbasetemp() / "places"
    places.mkdir(exist_ok=True)
    monkeypatch.setenv("MASSL_BENCH_CACHE", tempfile.mkdtemp(prefix="cache-", dir=places))
    monkeypatch.chdir(tempfile.mkdtemp(prefix="work-", dir=places))
    # Tables of a test's own records, without those of the bundled weights.
    monkeypatch.setattr("massl_bench.records.rows.results_dirs", lambda own: [own])


@pytest.fixture
def real_data() -> Path:
    """The directory of real datasets, where the machine has one."""
    if REAL_DATA is None:
        pytest.skip("MASSL_BENCH_DATA is not set: no real data on this machine")
    return Path(REAL_DATA)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], Path]]:
    """Installs packages, files by name, until the test ends."""
    before = set(sys.modules)
    yield partial(install_package, tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        if name.startswith(("my_bench", "other_bench")):
            del sys.modules[name]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line; asserts that there is just one, and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


Cli = Callable[..., Answer]


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs the command line in this process: run_cli("list", "tasks")."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["massl-bench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capfd.readouterr()
        code = exit_info.value.code
        return Answer(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the address under which it is served."""
    root = tmp_path / "served"
    root.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield root, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()


def write_image(path: Path, seed: int, size: tuple[int, int] = (12, 10), channel: int | None = None) -> None:
    """Writes a small picture of coloured noise, (width, height) pixels; one `channel` is bright where it is given."""
    pixels = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3))
    if channel is not None:
        pixels[..., channel] += 190
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_hub_cache(root: Path, repo: str, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """Lays out a downloaded dataset repository as the hub's client does; returns its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = root / f"datasets--{repo.replace('/', '--')}"
    write(base / "snapshots" / commit)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    return commit


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Class folders of two classes that any encoder tells apart, blue and red: 6 training and 3 test images each."""
    root = tmp_path / "pictures"
    for split, count in (("train", 6), ("test", 3)):
        for channel, name in ((2, "blue"), (0, "red")):
            for number in range(count):
                seed = 1000 * len(split) + 100 * channel + number
                write_image(root / split / name / f"{number}.png", seed, channel=channel)
    return root


@pytest.fixture
def record_file(run_cli: Callable[..., Answer]) -> Path:
    assert run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels").code == 0
    return Path("results/pixels/knn/digits.json")
