"""In this process, one cell after the other."""

from __future__ import annotations

from collections.abc import Iterator

from massl_bench.bench import runner
from massl_bench.bench.launch import Launcher
from massl_bench.bench.request import RunRequest
from massl_bench.features import Reporting
from massl_bench.specs.registry import Registry


def _run(request: RunRequest, registry: Registry, reporting: Reporting) -> Iterator[runner.Outcome]:
    return runner.run_request(request, registry, reporting)


LAUNCHER = Launcher(name="local", help="In this process, one cell after the other.", run=_run)
