"""Calls that take turns, their times and memory, and how they compare."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one call, run several times."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle time."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(Largest - smallest) / median: how far other work on the machine moved the times."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a ratio of medians should keep to.

    Attributes:
        call: what ours is compared with.
        ratio: a bound of ours / call (`at_most`), or of call / ours (`faster`).
        kind: which of the two.
    """

    call: str
    ratio: float
    kind: str = "at_most"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One piece of work, done by this project (`ours`) and by others.

    Attributes:
        what: the work, with its sizes.
        times: by call; `ours` among them.
        bars: what the ratios should keep to.
        peak_mb: by call, the most memory over what was resident before it.
        notes: agreement of results, rates, whatever the ratios do not tell.
        checks: bars that are no ratio of two calls: what was found beside its bar, and whether it is kept.
    """

    what: str
    times: Mapping[str, Times]
    bars: tuple[Bar, ...] = ()
    peak_mb: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    checks: tuple[tuple[str, bool], ...] = ()

    def ratio(self, call: str) -> float:
        """Returns (median time of `call`) / (median time of ours): above 1, ours is faster."""
        return self.times[call].median / self.times["ours"].median

    def measured(self, bar: Bar) -> float:
        """Returns what a bar is about: call / ours (`faster`), or ours / call (`at_most`)."""
        ratio = self.ratio(bar.call)
        return ratio if bar.kind == "faster" else 1 / ratio

    def kept(self, bar: Bar) -> bool:
        """Returns whether the ratio keeps to a bar."""
        measured = self.measured(bar)
        return measured >= bar.ratio if bar.kind == "faster" else measured <= bar.ratio

    def judged(self) -> list[tuple[str, bool]]:
        """Returns every bar in words, with what was found, and whether it is kept."""
        words = {"faster": "at least {} × as fast as {}", "at_most": "at most {} × the time of {}"}
        bars = [
            (f"{words[bar.kind].format(f'{bar.ratio:g}', bar.call)}: {self.measured(bar):.2f}", self.kept(bar))
            for bar in self.bars
        ]
        return [*bars, *((words, bool(kept)) for words, kept in self.checks)]  # numpy's are not JSON's

    def as_json(self) -> dict[str, Any]:
        """Returns everything, with the ratios, for a file."""
        return {
            "what": self.what,
            "times": {call: asdict(times) for call, times in self.times.items()},
            "peak_mb": dict(self.peak_mb),
            "notes": list(self.notes),
            "ratios": {call: self.ratio(call) for call in self.times if call != "ours"},
            "judged": [{"bar": words, "kept": kept} for words, kept in self.judged()],
        }


def cpu_seconds() -> float:
    """Returns the CPU's seconds of this process and of those that it waited for."""
    import resource

    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


CLOCK = time.perf_counter
"""What calls are timed by. `--cpu-seconds` sets `cpu_seconds`: on a machine that does other work as well, a call's
share of the cores is not its own, and its work is."""

MOST_ROUNDS = 1_000
"""What `--rounds` sets: no call is timed more often, whatever its benchmark asks for."""


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int, *, warm: bool = False) -> dict[str, Times]:
    """Runs the calls in turns, so that a busy moment of the machine meets them all.

    The first turn only warms up, but where all are `warm`: calls of minutes, run at a small size before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(int(warm), min(rounds, MOST_ROUNDS) + 1):
        for name, call in calls.items():
            gc.collect()
            start = CLOCK()
            call()
            if turn:
                seconds[name].append(CLOCK() - start)
    return {name: Times(seconds=tuple(each)) for name, each in seconds.items()}


def peak_mb(call: Callable[[], object]) -> float:
    """Returns the most memory that a call took over what was resident before it, in MB (Linux; nan elsewhere)."""
    try:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _status("VmRSS")
        call()
        return (_status("VmHWM") - before) / 1e6
    except OSError:
        return float("nan")


def _status(field_name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field_name}:")).split()[1]) * 1024


def machine() -> dict[str, Any]:
    """Returns what the times were measured on."""
    import torch

    import massl_bench

    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "massl_bench": massl_bench.__version__,
    }


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
