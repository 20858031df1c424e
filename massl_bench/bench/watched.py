"""A run that those can watch who have its results before them (`records.activity`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from massl_bench.bench.launch import Launcher
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome
from massl_bench.features import Reporting
from massl_bench.records.activity import Activity
from massl_bench.specs.registry import Registry


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

    watched = replace(reporting, progress=progress, started=lambda *cell: activity.begin(cell))
    return _outcomes(activity, launcher.run(request, registry, watched))


def _outcomes(activity: Activity, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    with activity.shown():
        for outcome in outcomes:
            activity.end((outcome.model, outcome.task, outcome.dataset), outcome.error)
            yield outcome
