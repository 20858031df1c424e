"""Parts that are found by name: a module in a folder of the package, or an entry point of an installed one."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar, cast

from massl_bench.core.errors import SpecError
from massl_bench.specs import plugins


@dataclass(frozen=True, kw_only=True)
class PartModule:
    """A module that defines a part, not yet imported."""

    group: str
    """Of entry points."""
    module: str
    """Its full name."""
    who: str
    """Declares it, for errors."""

    def load(self) -> Any:
        """Imports it and returns the part; raises as `plugins.load_part`."""
        return plugins.load_part(self.group, self.module, self.who)


def part_modules(package: str, group: str) -> Mapping[str, PartModule]:
    """Returns the modules of a folder, then those of an entry-point group, by the names of their parts.

    Args:
        package: the folder's package; its own packages, and a module `base`, are no parts.
        group: of entry points: the name of a part, and its module.

    Raises:
        SpecError: Two have one name.
    """
    return _modules(package, group, tuple(sys.path))


@cache
def _modules(package: str, group: str, _search_path: tuple[str, ...]) -> Mapping[str, PartModule]:
    folder = pkgutil.iter_modules(importlib.import_module(package).__path__)
    own = {each.name: f"{package}.{each.name}" for each in folder if not each.ispkg and each.name != "base"}
    modules = {name: PartModule(group=group, module=module, who=module) for name, module in sorted(own.items())}
    for name, plugin in plugins.added_modules(group, own).items():
        modules[name] = PartModule(group=group, module=plugin.value, who=str(plugin))
    return modules


class Named(Protocol):
    """A part that says its name."""

    @property
    def name(self) -> str:
        """By which it is known: its module's name, or its entry point's."""


Part = TypeVar("Part", bound=Named)


def found_parts(package: str, group: str, kind: type[Part]) -> Mapping[str, Part]:
    """Returns the parts of a folder of modules and of an entry-point group, by name; imports all of them.

    Args:
        package: the folder's package.
        group: of entry points: the name of a part, and its module.
        kind: of the part.

    Raises:
        SpecError: A module cannot be imported or has no such part, its part has another name, or two have one name.
    """
    return cast(Mapping[str, Part], _parts(package, group, kind, tuple(sys.path)))


@cache
def _parts(package: str, group: str, kind: type[Any], _search_path: tuple[str, ...]) -> Mapping[str, Any]:
    return {name: _part(module, name, kind) for name, module in part_modules(package, group).items()}


def _part(module: PartModule, name: str, kind: type[Any]) -> Any:
    part, attribute = module.load(), plugins.attribute_of(module.group)
    if not isinstance(part, kind):
        raise SpecError(f"{module.who}: expected {attribute} of the type {kind.__name__}; found {type(part).__name__}")
    if part.name != name:
        raise SpecError(f"{module.who}: its {attribute} is called {part.name!r}; expected {name!r}, as it is found")
    return part
