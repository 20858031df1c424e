"""Streams that go away, signals that come twice, errors nobody thought of, names that are commands: one line each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from massl_bench.core.errors import RequestError, one_line, shown, unknown_name
from massl_bench.core.files import check_depth, parse_json
from massl_bench.core.strict import StrictModel
from massl_bench.specs.toml import parse_setting, read_toml
from tests.conftest import Answer

Cli = Callable[..., Answer]
HOSTILE = Path(__file__).parents[1] / "faults" / "hostile"
FEATURES = Path(__file__).parents[1] / "golden" / "features_single_label.npz"
RUN = ["run", "--task", "knn,class-retrieval", "--features", str(FEATURES), "--name", "mine"]  # imports no torch
pytestmark = pytest.mark.faults


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    text = command.replace("@", f"{sys.executable} -m massl_bench {' '.join(RUN)}")
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("set -o pipefail; @ | head -1", 0, None),
        ("@ 2>&-", 0, None),
        ("@ >&-", 0, None),
        ("@ >/dev/full", 1, "error: stdout: No space left on device: the results could not be printed"),
        ("@ <&- >&- 2>&-", 0, None),
    ],
)
def test_a_stream_that_is_gone_stops_no_work(tmp_path: Path, command: str, code: int, error: str | None) -> None:
    done = shell(command, tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == ([error] if error else [])
    assert len(list((tmp_path / "results").rglob("*.json"))) == 2


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ((signal.SIGTERM, signal.SIGTERM), 75),
        ((signal.SIGINT, signal.SIGINT, signal.SIGTERM), 130),
        ((signal.SIGHUP, signal.SIGINT), 75),
    ],
)
def test_a_second_signal_keeps_the_first_ones_code(
    tmp_path: Path, signals: tuple[signal.Signals, ...], code: int
) -> None:
    script = (
        "import sys, time\n"
        "import massl_bench.bench.runner as runner\n"
        "def run_request(*_):\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        exec('import time; time.sleep(30)')\n"
        "    finally:\n"
        "        time.sleep(0.5)\n"
        "        print('cleaned up', flush=True)\n"
        "runner.run_request = run_request\n"
        "from massl_bench.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, *RUN]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for number in signals:
            child.send_signal(number)
            time.sleep(0.1)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (code, "cleaned up\n")
    assert err.count("\n") == 1
    assert "finished cells are kept, the same command goes on" in err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RecursionError("deep"), "error: unexpected RecursionError: deep; MASSL_BENCH_TRACEBACK=1 shows where"),
        (
            MemoryError(),
            "error: unexpected MemoryError: MemoryError; is the memory of this process limited (ulimit -v)",
        ),
        (
            ImportError("libx.so: failed to map"),
            "error: unexpected ImportError: libx.so: failed to map; is the memory of this process",
        ),
        (KeyError("a\x1b[31m\nb"), r"error: unexpected KeyError: 'a\x1b[31m\nb'; "),
        (OSError(28, "No space left on device", "a\x1b\nb"), r"error: a\x1b\nb: No space left on device"),
    ],
)
def test_whatever_comes_is_one_line(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("massl_bench.records.rows.collect", broken)
    answer = run_cli("leaderboard")
    assert answer.code == 1
    assert answer.error.startswith(line)


def test_no_name_is_a_command_for_the_terminal(run_cli: Cli, tmp_path: Path) -> None:
    hostile = "\x1b]0;title\x07\x1b[2J\nerror: \u202efake"
    for arguments in (
        ("run", "--task", hostile, "--dataset", "digits", "--model", "pixels"),
        ("run", "--task", "knn", "--dataset", f"folder:{hostile}", "--model", "pixels"),
        ("run", "--task", "knn", "--dataset", "digits", "--model", hostile),
        ("info", hostile),
        (hostile,),
        ("leaderboard", f"--{hostile}"),
        ("leaderboard", "--results-dir", hostile),
        ("verify", hostile),
        ("datasets", "check", f"folder:{hostile}"),
    ):
        answer = run_cli(*arguments)
        text = answer.out + answer.err
        assert all(line.isprintable() for line in text.split("\n")), arguments
        assert sum(line.startswith("error: ") for line in text.splitlines()) <= 1
    answer = run_cli("run", "--task", "k" * 100_000, "--dataset", "digits")
    assert len(answer.err) < 10_000


def test_names_that_look_the_same_are_told_apart() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    error = str(unknown_name("model", decomposed, [composed, "other"]))
    assert (
        error
        == f"unknown model {decomposed!r}; it looks like {composed!r}, but has U+0065 U+0301 where that has U+00E9"
    )


class Named(StrictModel):
    name: str


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HOSTILE.joinpath("toml-60-digits.toml").read_bytes(), "not valid TOML: lists and tables nested too deep"),
        (b"name = " + b"[" * 200 + b"]" * 200, "nested more than 64 deep"),
        (b"\xff\xfe", "not valid TOML"),
        (b"name = 1" + b"0" * 5000, "not valid TOML: "),
        ("name = 'e\u0301'".encode(), "', but has U+0065 U+0301 where that has U+00E9"),
        (b"name = [[1, 2], 3]", "name: expected a valid string, got [[1, 2], 3]"),
    ],
)
def test_registry_files_that_nobody_meant(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "é.toml"
    file.write_bytes(content)
    with pytest.raises(RequestError) as error:
        read_toml(file, Named)
    assert message in str(error.value)
    assert len(str(error.value)) < 700


def test_depth_is_bounded_and_settings_too() -> None:
    nested: object = []
    for _ in range(63):
        nested = [nested]
    check_depth(nested)
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        check_depth([[nested]])
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        parse_json("[" * 100_000)
    assert parse_setting("[" * 5000) == "[" * 5000
    shared: object = "x" * 100
    for _ in range(60):
        shared = [shared, shared]
    assert len(shown(shared)) < 20_000
    assert one_line(ValueError("cannot read <_io.BytesIO object at 0x7f12ab>")) == "cannot read <_io.BytesIO object>"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", ["list", "run"])
def test_a_signal_means_the_same_before_a_command_works(
    tmp_path: Path, number: signal.Signals, code: int, command: str
) -> None:
    """While the commands are imported: long before one of them is called."""
    script = (
        "import os, signal, sys\n"
        "class Sent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'massl_bench.cli.options':\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Sent())\n"
        "from massl_bench.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script, command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    expected = "error: interrupted" if number == signal.SIGINT else f"stopped by {number.name}; "
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1
