"""What a run says of itself while it lasts, and what stays of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from massl_bench.records import activity
from massl_bench.records.activity import FOLDER, Activity, watch
from tests.conftest import Answer

Cli = Callable[..., Answer]
CELL = ("a model", "knn", "cifar10")


def test_while_it_lasts_and_after_success() -> None:
    results = Path("results")
    run = Activity(results, total=2)
    with run.shown():
        run.begin(CELL)
        ((found,), unreadable) = watch(results)
        assert (found.state, found.sweep.current, found.sweep.done, found.sweep.total) == ("running", [*CELL], 0, 2)
        assert found.sweep.pid == os.getpid()
        assert unreadable == []
        run.end(CELL, None)
        ((found,), _) = watch(results)
        assert (found.sweep.current, found.sweep.done, found.sweep.num_failed) == (None, 1, 0)
    assert watch(results) == ([], [])
    assert not results.exists()  # it was not there before, and nothing else is in it


def test_failures_stay_until_the_cell_fails_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Path("results")
    results.mkdir()
    for moment in ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"):
        monkeypatch.setattr(activity, "now", lambda moment=moment: moment)
        run = Activity(results, total=1)
        with run.shown():
            run.begin(CELL)
            run.end(CELL, f"broken at {moment}")
    found, _ = watch(results)
    assert [(each.state, [one.error for one in each.sweep.failed]) for each in found] == [
        ("ended", ["broken at 2026-01-02T00:00:00+00:00"]),
        ("ended", []),
    ]
    for file in (results / FOLDER).glob("*.run"):
        os.utime(file, (0, 0))
    with Activity(results, total=1).shown():  # the next run takes old ones away
        assert len(watch(results)[0]) == 1
    assert not (results / FOLDER).exists()


def test_a_killed_process_holds_no_lock() -> None:
    program = (
        "import time\nfrom pathlib import Path\nfrom massl_bench.records.activity import Activity\n"
        "run = Activity(Path('results'), total=3)\nwith run.shown():\n"
        "    run.begin(('m', 'knn', 'd'))\n    print('begun', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert [each.state for each in watch(Path("results"))[0]] == ["running"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    ((found,), _) = watch(Path("results"))
    assert (found.state, found.sweep.current) == ("ended", ["m", "knn", "d"])


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"argv": NaN}', b"\xff\x00"])
def test_what_is_no_file_of_a_run_is_named(content: bytes) -> None:
    folder = Path("results") / FOLDER
    folder.mkdir(parents=True)
    (folder / "1-2.run").write_bytes(content)
    os.mkfifo(folder / "pipe.run")
    start = time.monotonic()
    assert watch(Path("results")) == ([], ["1-2.run", "pipe.run"])
    assert time.monotonic() - start < 5


def test_a_run_goes_on_where_nothing_can_be_written() -> None:
    Path("results").write_text("a file in the way")
    run = Activity(Path("results"), total=1)
    with run.shown():
        run.begin(CELL)
        run.end(CELL, "broken")
    assert Path("results").read_text() == "a file in the way"


def test_the_command(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def looked(self: Activity, cell: tuple[str, str, str], error: str | None) -> None:
        seen.append([(each.state, each.sweep.current) for each in watch(Path("results"))[0]])
        return ended(self, cell, error)

    ended = Activity.end
    monkeypatch.setattr(Activity, "end", looked)
    assert run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "pixels", "--device", "cpu").code == 0
    assert seen == [[("running", ["pixels", "knn", "digits"])]]
    assert [path.name for path in Path("results").iterdir()] == ["pixels"]
