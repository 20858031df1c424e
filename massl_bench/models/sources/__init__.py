"""One module for each form of `--model`, found by its name; `massl_bench.models.source` says what one is.

Beside these, an installed package can bring sources: entry points of the group `massl_bench.sources`, each the name of
a source and the module that has it as `SOURCE`.
"""

from __future__ import annotations

from collections.abc import Mapping

from massl_bench.models.source import Source
from massl_bench.specs.found import found_parts
from massl_bench.specs.plugins import SOURCES_GROUP


def sources() -> Mapping[str, Source]:
    """Returns all sources by name.

    Raises:
        SpecError: A module has no `SOURCE`, or two have one name.
    """
    return found_parts(__name__, SOURCES_GROUP, Source)


def usages() -> list[str]:
    """Returns how references with a prefix are written, in order."""
    own = [source.usage for source in sources().values() if source.prefixed or "." in source.usage]
    return sorted(own, key=str.lower)
