"""What a command takes before it does anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Comparison, take_turns
from massl_bench.core.files import SEAL, sealed
from massl_bench.records.record import Identity

SUMMARY = "--help, list and leaderboard, against an empty Python"


def run(quick: bool) -> list[Comparison]:
    """Returns one comparison a command; the bar is in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        _hundred_records(Path(folder, "results"))

        def command(*arguments: str):
            return lambda: subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=True)

        found = []
        for arguments in (["--help"], ["list", "tasks"], ["leaderboard"]):
            calls = {"ours": command("-m", "massl_bench", *arguments), "empty Python": command("-c", "pass")}
            times = take_turns(calls, 2 if quick else 5)
            added = times["ours"].median - times["empty Python"].median
            check = (f"at most 0.5 s over an empty Python: {added:+.2f} s", added <= 0.5)
            found.append(Comparison(what=f"massl-bench {' '.join(arguments)}", times=times, checks=(check,)))
        return found


def _hundred_records(folder: Path) -> None:
    """Copies the repository's records of one model, each under another hash of its weights."""
    sources = sorted(Path(__file__).parents[1].glob("results/pixels/*/*.json"))
    for number in range(100):
        source = sources[number % len(sources)]
        content = json.loads(source.read_text())
        content.pop(SEAL, None)
        content["identity"]["model"] |= {"name": f"model-{number}", "weights_sha256": f"{number:064x}"}
        content["identity_sha256"] = Identity.model_validate(content["identity"]).digest
        place = folder / f"model-{number}" / source.parent.name
        place.mkdir(parents=True)
        for items in source.parent.glob("*.items.safetensors"):
            shutil.copy(items, place)
        (place / source.name).write_text(json.dumps(sealed(content)))
