"""On this machine: in this process, or in one for each GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from massl_bench.bench import runner
from massl_bench.bench.launch import Launcher
from massl_bench.bench.processes import devices_of, run_in_processes
from massl_bench.bench.request import RunRequest
from massl_bench.features import Reporting
from massl_bench.specs.registry import Registry


def _run(request: RunRequest, registry: Registry, reporting: Reporting) -> Iterator[runner.Outcome]:
    devices = devices_of(request)
    if len(devices) == 1:
        return runner.run_request(replace(request, device=devices[0]), registry, reporting)
    return run_in_processes(request, registry, reporting, devices)


LAUNCHER = Launcher(name="local", help="On this machine.", run=_run)
