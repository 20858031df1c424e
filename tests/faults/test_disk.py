"""A disk of which one operation fails: one line, or the right result; nothing half written is believed afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.failing_disk import COMMANDS
from tests.mutations import ROUNDS

OPERATIONS = {"run": 10, "leaderboard": 4, "report": 2, "cache": 4, "pretrain": 5, "add": 4}


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_every_operation_may_fail(name: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "tests.faults.failing_disk", str(tmp_path), name, str(OPERATIONS[name] * ROUNDS)]
    done = subprocess.run([*command, "11"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) >= min(4, OPERATIONS[name])
    for each in told:
        problems = _problems(each)
        assert problems == [], (each, problems)


def _problems(told: dict[str, object]) -> list[str]:
    """Returns what is wrong with how a command ended on the failing disk, and in the next call."""
    again, err = told["again"], str(told["err"])
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    found = {
        "no operation failed": told["operation"] == "",
        "a traceback": "Traceback" in err or "unexpected" in err or "Exception ignored" in err,
        "not one line with the reason": told["code"] != 0 and (len(errors) != 1 or str(told["error"]) not in errors[0]),
        "another result": told["code"] == 0 and not told["right"],
        "something half written": bool(told["left"]) and not str(told["operation"]).startswith(("os.rem", "os.rmd")),
        "not repaired by the next call": not isinstance(again, dict) or again["code"] != 0 or not again["right"],
    }
    return [problem for problem, there in found.items() if there]
