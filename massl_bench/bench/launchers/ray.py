"""On a Ray cluster: the shards of a request are tasks of Ray, and share images and cells through cache and results.

A running cluster is joined (`RAY_ADDRESS`); otherwise one is started on this machine, for this process. Data,
weights, cache and results must lie where every node finds them under the same paths. A worker that is lost is retried
by Ray; what it had finished is found in the cache and the results, and what it was at is taken over by the others.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

from massl_bench.bench.gathering import Gathered
from massl_bench.bench.launch import Launcher
from massl_bench.bench.planned import ImageCell, PlannedCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome, run_request
from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.wording import options_are_read, reads_options
from massl_bench.features import Reporting
from massl_bench.features.options import Shard
from massl_bench.features.pieces import LAST, cut
from massl_bench.specs.registry import Registry

_RETRIES = 3
"""Of a task whose worker died; errors of cells are outcomes, and never retried."""


def _run(request: RunRequest, registry: Registry, reporting: Reporting) -> Iterator[Outcome]:
    ray = _ray()
    planner = Planner(request, registry, reporting)
    return _outcomes(ray, planner, planner.plan(), registry)  # what can be known is known before any work


def _outcomes(ray: Any, planner: Planner, cells: Sequence[PlannedCell], registry: Registry) -> Iterator[Outcome]:
    gathered = Gathered(cells, planner)
    problem = None
    if gathered.open:
        started = not ray.is_initialized()
        if started:
            _join(ray)
        stdout, sys.stdout = sys.stdout, cast(TextIO, _ThisThreadOnly(sys.stdout))
        try:
            waiting = _tasks(ray, planner, cells, registry)
            while waiting:
                (ready,), waiting = ray.wait(waiting, num_returns=1)
                try:
                    outcomes = ray.get(ready)
                except ray.exceptions.RayError as error:  # tried again as often as it may be; the others go on
                    problem = f"ray: {one_line(getattr(error, 'cause', None) or error)}"
                    planner.reporting.say(problem)
                    continue
                for outcome in outcomes:
                    yield from gathered.take(outcome)
        finally:
            sys.stdout = stdout
            if started:
                ray.shutdown()
    yield from gathered.rest(problem)


class _ThisThreadOnly:
    """Standard output for this thread, which prints results; what Ray's own threads print goes to standard error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream if threading.get_ident() == self._thread else sys.stderr, name)


def _tasks(ray: Any, planner: Planner, cells: Sequence[PlannedCell], registry: Registry) -> list[Any]:
    """Starts a shard for each GPU of the cluster, or each core where it has none, as far as there is work."""
    resources, request = ray.cluster_resources(), planner.request
    gpus = int(resources.get("GPU", 0)) if request.device in ("auto", "cuda") else 0
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    number = max(1, min(gpus or int(resources.get("CPU", 1)), _parts(planner, cells)))
    planner.reporting.say(f"ray: {number} tasks on {nodes} nodes, {gpus or 'no'} GPUs")
    task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=_RETRIES)(_work)
    whole = _for_any_node(request)
    shards = [Shard(index, number, math.ceil(number / nodes)) for index in range(number)]
    return [
        task.remote(
            replace(whole, extraction=replace(whole.extraction, shard=shard)), registry, sys.argv, reads_options()
        )
        for shard in shards
    ]


def _parts(planner: Planner, cells: Sequence[PlannedCell]) -> int:
    """Returns the number of cells, and of the pieces of what is to be extracted for them."""
    banks = {
        cell.key(role).digest: len(cut(cell.count(role), planner.request.extraction.batch_size or LAST))
        for cell in cells
        if isinstance(cell, ImageCell)
        for role in cell.to_extract(planner.cache)
    }
    return len(cells) + sum(banks.values())


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    if not os.environ.get("RAY_ADDRESS"):
        # Under this machine's own address Ray's servers listen to all networks, and run what anybody sends them. Told
        # that there are no clusters, it takes the address of the loop, and listens to nothing else.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
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
        # With an address Ray shows its token only where it is told to, and says no more than that it cannot connect.
        hint = "set RAY_AUTH_MODE=token where it asks for a token" if address else None
        raise RequestError(text, field="launcher", found="ray", remedy=hint) from None


def _for_any_node(request: RunRequest) -> RunRequest:
    """Returns a request with paths that hold wherever it is carried out."""
    return replace(
        request,
        models=[_absolute(model) for model in request.models],
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


def _absolute(model: Any) -> Any:
    """Returns a file of weights under its whole path; other references as they are."""
    return str(Path(model).absolute()) if isinstance(model, str) and Path(model).exists() else model


def _work(request: RunRequest, registry: Registry, argv: Sequence[str], for_options: bool) -> list[Outcome]:
    """Carries a shard out, on a worker; raises `RequestError` where its node lacks what the planning one has."""
    from massl_bench.bench.progress import reporting

    sys.argv = list(argv)  # the record keeps the user's command
    with options_are_read(for_options):
        return list(run_request(request, registry, reporting()))


LAUNCHER = Launcher(name="ray", help="On a Ray cluster (RAY_ADDRESS), or one on this machine.", run=_run)
