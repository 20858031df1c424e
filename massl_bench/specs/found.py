"""Parts that are found by name: a module in a folder of the package, or an entry point of an installed one."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, TypeVar, cast

from massl_bench.core.errors import SpecError, one_line
from massl_bench.specs import plugins


class Named(Protocol):
    """A part that says its name."""

    @property
    def name(self) -> str:
        """By which it is known: its module's name, or its entry point's."""


Part = TypeVar("Part", bound=Named)


def found_parts(package: str, group: str, attribute: str, kind: type[Part]) -> Mapping[str, Part]:
    """Returns the parts of a folder of modules and of an entry-point group, by name.

    Args:
        package: the folder's package.
        group: of entry points: the name of a part, and its module.
        attribute: what a module holds its part as.
        kind: of the part.

    Raises:
        SpecError: A module cannot be imported or has no such part, its part has another name, or two have one name.
    """
    return cast(Mapping[str, Part], _found(package, group, attribute, kind, tuple(sys.path)))


@cache
def _found(
    package: str, group: str, attribute: str, kind: type[Any], _search_path: tuple[str, ...]
) -> Mapping[str, Any]:
    folder = importlib.import_module(package).__path__
    own = {module.name: f"{package}.{module.name}" for module in pkgutil.iter_modules(folder)}
    parts = {name: _part(module, name, attribute, kind, module) for name, module in sorted(own.items())}
    for plugin in plugins.declared(group):
        if plugin.name in parts:
            raise SpecError(f"{plugin}: the name is taken; rename it, or uninstall one")
        parts[plugin.name] = _part(plugin.value, plugin.name, attribute, kind, str(plugin))
    return parts


def _part(module: str, name: str, attribute: str, kind: type[Any], who: str) -> Any:
    try:
        part = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # foreign code can raise anything
        raise SpecError(f"{who}: cannot be imported: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(part, kind):
        raise SpecError(f"{who}: expected {attribute} of the type {kind.__name__}; found {type(part).__name__}")
    if part.name != name:
        raise SpecError(f"{who}: its {attribute} is called {part.name!r}; expected {name!r}, as it is found")
    return part
