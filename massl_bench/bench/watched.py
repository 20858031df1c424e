"""A run that those can watch who have its results before them (`records.activity`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from massl_bench.bench.launch import Launcher
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome
from massl_bench.core.progress import Progress, Report
from massl_bench.features import Reporting
from massl_bench.records.activity import Activity
from massl_bench.specs.registry import Registry

_SECONDS_BETWEEN = 2.0
"""Looks at a computation, which may tell of itself a thousand times a second."""


def launch(launcher: Launcher, request: RunRequest, registry: Registry, reporting: Reporting) -> Iterator[Outcome]:
    """Carries out a request, as the launcher does it; meanwhile a file beside the records says how far it is.

    Raises:
        RequestError: As the launcher; nothing was written.
    """
    activity = Activity(request.results_dir, total=len(request.cells) * max(1, len(request.models)))

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0
        with reporting.progress(label, total) as advance:

            def both(count: int) -> None:
                nonlocal done
                done += count
                advance(count)
                activity.advance(f"{label}: {done:,}/{total:,} images")

            yield both

    @contextmanager
    def working(label: str) -> Iterator[Report]:
        with reporting.working(label) as report:
            shown = time.monotonic()

            def both(told: Callable[[], Progress]) -> None:
                nonlocal shown
                report(told)
                if time.monotonic() - shown >= _SECONDS_BETWEEN:
                    activity.advance(f"{label}: {told()}")
                    shown = time.monotonic()

            yield both

    watched = replace(reporting, progress=progress, working=working, started=lambda *cell: activity.begin(cell))
    return _outcomes(activity, launcher.run(request, registry, watched))


def _outcomes(activity: Activity, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    with activity.shown():
        for outcome in outcomes:
            activity.end((outcome.model, outcome.task, outcome.dataset), outcome.error)
            yield outcome
