"""What other installed packages add, by entry points; nothing of a package is imported to list it.

* Group `massl_bench.registry`: a package, or a folder inside one, that is laid out as this project's root (`tasks/`,
  `tasks/datasets/`, `tasks/suites/`, `weights/`).
* Group `massl_bench.protocols`: the name of a protocol, and the module that computes it.

A package that does not keep its word is an error that names it, and never left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from massl_bench.core.errors import SpecError, one_line

REGISTRY_GROUP = "massl_bench.registry"
PROTOCOLS_GROUP = "massl_bench.protocols"

_OF_A_PROTOCOL = ("ROLES", "Params", "metric_names", "check_sizes", "run")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One entry point of an installed package."""

    package: str
    version: str
    group: str
    name: str
    value: str
    """`package.module`, as it is declared."""

    def __str__(self) -> str:
        """Returns who declares what, for errors."""
        return f"plugin {self.package} {self.version} ({self.group}: {self.name} = {self.value})"


def declared(group: str) -> tuple[Plugin, ...]:
    """Returns the entry points of a group, in the order of packages and names."""
    return _declared(group, tuple(sys.path))


@cache
def _declared(group: str, _search_path: tuple[str, ...]) -> tuple[Plugin, ...]:
    found = (_plugin(group, point) for point in entry_points(group=group))
    return tuple(sorted(found, key=lambda plugin: (plugin.package, plugin.name)))


def _plugin(group: str, point: EntryPoint) -> Plugin:
    assert point.dist is not None
    return Plugin(
        package=point.dist.name, version=point.dist.version, group=group, name=point.name, value=point.value.strip()
    )


def packages() -> dict[str, str]:
    """Returns the versions of the packages that add something, for a record's environment."""
    return {plugin.package: plugin.version for group in (REGISTRY_GROUP, PROTOCOLS_GROUP) for plugin in declared(group)}


def registry_roots() -> dict[Path, Plugin]:
    """Returns the directories that packages add to the registry.

    Raises:
        SpecError: A declared directory is not there, or has no folder `tasks/`.
    """
    return {_root(plugin): plugin for plugin in declared(REGISTRY_GROUP)}


def _root(plugin: Plugin) -> Path:
    package, *folders = plugin.value.split(".")
    # The outermost package only: for a name with a dot, `find_spec` would import what is around it.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place, *folders) for place in (spec.submodule_search_locations if spec is not None else None) or ()]
    for place in places:
        if (place / "tasks").is_dir():
            return place
    looked = ", ".join(map(str, places)) or f"no package {package}"
    raise SpecError(f"{plugin}: expected a package with a folder tasks/ inside, found {looked}; repair or uninstall it")


def protocol_modules(own: Iterable[str]) -> dict[str, Plugin]:
    """Returns the protocols that packages add, by name.

    Args:
        own: the names of the protocols of this package.

    Raises:
        SpecError: Two protocols have one name: which of them a task means would be left to chance.
    """
    found: dict[str, Plugin] = {}
    own = set(own)
    for plugin in declared(PROTOCOLS_GROUP):
        if plugin.name in own or plugin.name in found:
            other = "massl-bench" if plugin.name in own else str(found[plugin.name])
            raise SpecError(f"{plugin}: {other} has a protocol of this name already; rename one, or uninstall one")
        found[plugin.name] = plugin
    return found


def load_protocol(plugin: Plugin) -> ModuleType:
    """Imports the module of a protocol.

    Raises:
        SpecError: It cannot be imported, or lacks something that a protocol has.
    """
    try:
        module = importlib.import_module(plugin.value)
    except Exception as error:  # foreign code can raise anything
        raise SpecError(f"{plugin}: cannot be imported: {type(error).__name__}: {one_line(error)}") from error
    lacking = [name for name in _OF_A_PROTOCOL if not hasattr(module, name)]
    if lacking:
        raise SpecError(f"{plugin}: the module has no {', '.join(lacking)}; a protocol has {', '.join(_OF_A_PROTOCOL)}")
    return module
