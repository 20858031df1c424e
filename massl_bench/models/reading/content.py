"""What a file of tensors holds, whatever its container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Container = Literal["zip", "legacy", "safetensors", "torchscript"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file holds.

    Attributes:
        container: how it is packed.
        value: nested plain values.
        globals: how often each name was asked for by a pickle.
        stand_ins: how many values a stand-in had to replace, by the name that makes them.
        metadata: texts that a safetensors file carries.
    """

    container: Container
    value: Any
    globals: Mapping[str, int] = field(default_factory=dict)
    stand_ins: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
