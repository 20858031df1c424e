"""Networks of torch as shapes alone: built on the device `meta`, without the work of an initialisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

DRAWS = frozenset({"uniform_", "normal_", "erfinv_", "log_normal_", "exponential_", "bernoulli_", "kaiming_uniform_"})
"""Functions that fill a tensor with random values; those of `torch.nn.init` that a mode sees are among them."""
INITIALISES = DRAWS | {"add_", "clamp_", "div_", "mul_", "sub_", "fill_", "zero_", "constant_"}
"""These, what an initialisation does to the values that it drew, and constants."""


def changed_by(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Tensor | None:
    """Returns the tensor that a call changes in place: its first argument, which `torch.nn.init` passes by name."""
    target = args[0] if args else (kwargs or {}).get("tensor")
    return target if isinstance(target, Tensor) else None


class Outline(TorchFunctionMode):
    """A new network has its shapes, and nothing is done for values that it has not."""

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        target = changed_by(args, kwargs)
        if target is not None and name in INITIALISES:
            return target
        return func(*args, **(kwargs or {}))
