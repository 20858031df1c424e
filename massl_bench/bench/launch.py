"""What a launcher is: one way of carrying out a request, on this machine or on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from massl_bench.bench.request import RunRequest
from massl_bench.bench.runner import Outcome
from massl_bench.core.errors import unknown_name
from massl_bench.features import Reporting
from massl_bench.specs.found import found_parts
from massl_bench.specs.plugins import LAUNCHERS_GROUP
from massl_bench.specs.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """One launcher; a module of `massl_bench.bench.launchers`, or of a plugin, has one as `LAUNCHER`.

    Attributes:
        name: the module's; what `--launcher` takes.
        help: one line.
        run: carries a request out, and yields the outcome of each cell as it is done. What can be known before work
            starts is a `RequestError` then, and nothing was written.
    """

    name: str
    help: str
    run: Callable[[RunRequest, Registry, Reporting], Iterator[Outcome]]


def launchers() -> Mapping[str, Launcher]:
    """Returns the launchers by name: those of this package and those of plugins."""
    return found_parts("massl_bench.bench.launchers", LAUNCHERS_GROUP, Launcher)


def find_launcher(name: str) -> Launcher:
    """Returns the launcher of that name; raises `RequestError` where there is none."""
    known = launchers()
    if name not in known:
        raise unknown_name("launcher", name, known)
    return known[name]
