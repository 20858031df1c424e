"""What a command takes before it does anything."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from benchmarks.measure import Comparison, take_turns

SUMMARY = "--help, list and leaderboard, against an empty Python"


def run(quick: bool) -> list[Comparison]:
    """Returns one comparison a command; the bar is in seconds, so that it stands in the notes."""
    with tempfile.TemporaryDirectory() as folder:

        def command(*arguments: str):
            return lambda: subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=True)

        found = []
        for arguments in (["--help"], ["list", "tasks"], ["leaderboard"]):
            calls = {"ours": command("-m", "massl_bench", *arguments), "empty Python": command("-c", "pass")}
            times = take_turns(calls, 2 if quick else 5)
            added = times["ours"].median - times["empty Python"].median
            note = f"{added:+.2f} s over an empty Python (bar: +0.5 s)"
            found.append(Comparison(what=f"massl-bench {' '.join(arguments)}", times=times, notes=(note,)))
        return found
