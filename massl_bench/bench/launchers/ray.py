"""On a Ray cluster: the cells of one model and one dataset are a task of Ray, so that each image is extracted once.

A running cluster is joined (`RAY_ADDRESS`); otherwise one is started on this machine, for this process. Data,
weights, cache and results must lie where every node finds them under the same paths. A worker that is lost is retried
by Ray, and what it had finished is found in the results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from massl_bench.bench.launch import Launcher
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome, run_request
from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.wording import options_are_read, reads_options
from massl_bench.features import Reporting
from massl_bench.specs.registry import Registry

_RETRIES = 3
"""Of a task whose worker died; errors of cells are outcomes, and never retried."""


def _run(request: RunRequest, registry: Registry, reporting: Reporting) -> Iterator[Outcome]:
    ray = _ray()
    Planner(request, registry, reporting).plan()  # what can be known is known before any work
    return _outcomes(ray, request, registry, reporting)


def _outcomes(ray: Any, request: RunRequest, registry: Registry, reporting: Reporting) -> Iterator[Outcome]:
    started = not ray.is_initialized()
    if started:
        _join(ray)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0)) if request.device in ("auto", "cuda") else 0
        units = _units(request)
        where = f"{len(ray.nodes())} nodes, {gpus or 'no'} GPUs"
        reporting.say(f"ray: {len(units)} tasks on {where}")
        task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=_RETRIES)(_unit)
        waiting = {task.remote(unit, registry, sys.argv, reads_options()): unit for unit in units}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            unit = waiting.pop(ready)
            try:
                yield from ray.get(ready)
            except ray.exceptions.RayError as error:
                yield from _lost(unit, error)
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    try:
        import ray
    except ModuleNotFoundError:
        text = "Ray is not installed: pip install 'massl-bench[ray]'"
        raise RequestError(text, field="launcher", found="ray") from None
    return ray


def _join(ray: Any) -> None:
    """Joins the cluster of `RAY_ADDRESS`, or starts one for this process, without a dashboard."""
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, logging_level="WARNING")
        else:
            ray.init(include_dashboard=False, logging_level="WARNING")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        text = f"no cluster at {address or 'this machine'}: {one_line(error)}"
        raise RequestError(text, field="launcher", found="ray") from None


def _units(request: RunRequest) -> list[RunRequest]:
    """Returns a request for each model and dataset, with paths that hold on any node."""
    whole = replace(
        request,
        results_dir=request.results_dir.absolute(),
        features_dir=request.features_dir and request.features_dir.absolute(),
        features_file=request.features_file and request.features_file.absolute(),
        ground_truth=request.ground_truth and request.ground_truth.absolute(),
        data=replace(
            request.data,
            cache_dir=request.data.cache_dir.absolute(),
            data_root=request.data.data_root and request.data.data_root.absolute(),
        ),
    )
    datasets = dict.fromkeys(dataset for _, dataset in request.cells)
    cells = {dataset: [cell for cell in request.cells if cell[1] == dataset] for dataset in datasets}
    models: Sequence[Any] = [_absolute(model) for model in request.models] or [None]
    return [
        replace(whole, cells=cells[dataset], models=[] if model is None else [model])
        for model in models
        for dataset in datasets
    ]


def _absolute(model: Any) -> Any:
    """Returns a file of weights under its whole path; other references as they are."""
    return str(Path(model).absolute()) if isinstance(model, str) and Path(model).exists() else model


def _unit(request: RunRequest, registry: Registry, argv: Sequence[str], for_options: bool) -> list[Outcome]:
    """Runs on a worker."""
    from massl_bench.bench.progress import reporting

    sys.argv = list(argv)  # the record keeps the user's command
    with options_are_read(for_options):
        try:
            return list(run_request(request, registry, reporting()))
        except RequestError as error:  # this node lacks what the planning one has
            return list(_lost(request, error))


def _lost(request: RunRequest, error: Exception) -> Iterator[Outcome]:
    """Yields the outcomes of cells whose task gave none."""
    for task, dataset in request.cells:
        model = str(request.name or (request.models[0] if request.models else "features"))
        yield Outcome(task=task, dataset=dataset, model=model, status="failed", error=f"ray: {one_line(error)}")


LAUNCHER = Launcher(name="ray", help="On a Ray cluster (RAY_ADDRESS), or one on this machine.", run=_run)
