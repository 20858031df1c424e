"""What other installed packages add, by entry points; nothing of a package is imported to list it.

* Group `massl_bench.registry`: a package, or a folder inside one, that is laid out as this project's root (`tasks/`,
  `tasks/datasets/`, `tasks/suites/`, `weights/`).
* Group `massl_bench.protocols`: the name of a protocol, and the module that computes it.
* Group `massl_bench.methods`: the name of a pretraining method, and the module that defines it.
* Group `massl_bench.formats`: the name of a leaderboard's format, and the module that writes it.
* Group `massl_bench.adapters`: the name of a layout of checkpoints, and the module that knows it.
* Group `massl_bench.sources`: the name of a source of models, and the module that opens them.
* Group `massl_bench.launchers`: the name of a way to run a request, and the module that knows it.

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
from typing import Any

from massl_bench.core.errors import SpecError, one_line

REGISTRY_GROUP = "massl_bench.registry"
PROTOCOLS_GROUP = "massl_bench.protocols"
METHODS_GROUP = "massl_bench.methods"
FORMATS_GROUP = "massl_bench.formats"
ADAPTERS_GROUP = "massl_bench.adapters"
SOURCES_GROUP = "massl_bench.sources"
LAUNCHERS_GROUP = "massl_bench.launchers"

_CODE = {
    PROTOCOLS_GROUP: ("a protocol", "PROTOCOL"),
    METHODS_GROUP: ("a method", "METHOD"),
    FORMATS_GROUP: ("a format", "write"),
    ADAPTERS_GROUP: ("an adapter", "ADAPTER"),
    SOURCES_GROUP: ("a source", "SOURCE"),
    LAUNCHERS_GROUP: ("a launcher", "LAUNCHER"),
}
"""The groups of modules: what one of them is, and what it defines."""


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

    def load(self) -> Any:
        """Imports the module and returns what it defines; raises as `load_part`."""
        return load_part(self.group, self.value, str(self))


def declared(group: str) -> tuple[Plugin, ...]:
    """Returns the entry points of a group, in the order of packages and names."""
    return _declared(group, tuple(sys.path))


def all_declared() -> tuple[Plugin, ...]:
    """Returns the entry points of all groups."""
    return tuple(plugin for group in (REGISTRY_GROUP, *_CODE) for plugin in declared(group))


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
    return {plugin.package: plugin.version for plugin in all_declared()}


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


def added_modules(group: str, own: Iterable[str]) -> dict[str, Plugin]:
    """Returns the modules that packages add to a group of code, by name.

    Args:
        group: of modules.
        own: the names of this package's own.

    Raises:
        SpecError: Two have one name: which of them is meant would be left to chance.
    """
    found: dict[str, Plugin] = {}
    own = set(own)
    for plugin in declared(group):
        if plugin.name in own or plugin.name in found:
            other = "massl-bench" if plugin.name in own else str(found[plugin.name])
            kind, _ = _CODE[group]
            raise SpecError(f"{plugin}: {other} has {kind} of this name already; rename one, or uninstall one")
        found[plugin.name] = plugin
    return found


def is_code(plugin: Plugin) -> bool:
    """Returns whether an entry point names a module."""
    return plugin.group in _CODE


def attribute_of(group: str) -> str:
    """Returns the name of what a module of a group defines."""
    return _CODE[group][1]


def load_part(group: str, module: str, who: str) -> Any:
    """Imports a module of a group, and returns what it defines.

    Args:
        group: of modules.
        module: by its full name.
        who: declares it, for errors.

    Raises:
        SpecError: It cannot be imported, or lacks what a module of its group defines.
    """
    kind, attribute = _CODE[group]
    try:
        found = importlib.import_module(module)
    except Exception as error:  # foreign code can raise anything
        raise SpecError(f"{who}: cannot be imported: {type(error).__name__}: {one_line(error)}") from error
    if not hasattr(found, attribute):
        raise SpecError(f"{who}: the module has no {attribute}; {kind} has {attribute}")
    return getattr(found, attribute)
