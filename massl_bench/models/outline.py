"""Networks of torch as shapes alone: built on the device `meta`, without the work of an initialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode
from typing_extensions import override

DRAWS = frozenset({"uniform_", "normal_", "erfinv_", "log_normal_", "exponential_", "bernoulli_"})
CHANGES = frozenset({"add_", "clamp_", "div_", "mul_", "sub_"})
"""What an initialisation does to the values that it drew."""


class Outline(TorchFunctionMode):
    """A new network has its shapes, and nothing is done for values that it has not."""

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if args and (name in DRAWS or name in CHANGES or name in ("fill_", "zero_")):
            return args[0]
        return func(*args, **(kwargs or {}))
