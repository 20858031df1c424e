"""One module for each layout of checkpoints, found by its name; `massl_bench.models.adapter` says what one is.

Beside these, an installed package can bring adapters: entry points of the group `massl_bench.adapters`, each the name
of an adapter and the module that has it as `ADAPTER`.
"""

from __future__ import annotations

from collections.abc import Mapping

from massl_bench.models.adapter import Adapter
from massl_bench.specs.found import found_parts
from massl_bench.specs.plugins import ADAPTERS_GROUP


def adapters() -> Mapping[str, Adapter]:
    """Returns all adapters by name.

    Raises:
        SpecError: A module has no `ADAPTER`, or two have one name.
    """
    return found_parts(__name__, ADAPTERS_GROUP, Adapter)
