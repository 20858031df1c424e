"""A network is filled from a file: every tensor of it, none left over, nothing of its initialisation left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.models.adapter import Network
from massl_bench.models.content import StateDict, Stored, listed, load
from massl_bench.models.identity import BATCH_COUNTER
from massl_bench.models.outline import CHANGES, DRAWS, Outline, changed_by

_SLACK = 1 << 22
"""Values that a network may have and its file not: tables that are computed, positions for another size."""

_MAKES = frozenset({"rand", "randn", "rand_like", "randn_like", "normal"})


class _Unfilled(TorchFunctionMode):
    """Where random values would be drawn for a new network's tensors, it gets values that are no numbers.

    So what a file does not fill is seen whatever its name, and a network that is filled next costs no draws.
    """

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        drawn = changed_by(args, kwargs) if name in DRAWS else None
        if drawn is not None and drawn.is_floating_point():
            with torch.no_grad():
                return drawn.fill_(torch.nan)
        if args and name in CHANGES and isinstance(args[0], nn.Parameter):
            return args[0]
        made = func(*args, **(kwargs or {}))
        return made.fill_(torch.nan) if name in _MAKES and made.is_floating_point() else made


def fill(described: Network, tensors: StateDict, where: str) -> nn.Module:
    """Returns a described network with a file's tensors.

    Raises:
        RequestError: The sets of names or shapes differ; the text lists what is missing, unexpected or misshapen. Or a
            tensor has values that are not finite, or is constant where training leaves no constant.
    """
    check_outline(described, tensors, where)
    with _Unfilled():
        network = described.build()
    network.eval().requires_grad_(False)
    filled: Mapping[str, Tensor] = load(tensors, where)
    if described.rename is not None:
        # As the file has them: joined with others under one name, it would not be seen.
        _refuse_constants([name for name, values in filled.items() if is_constant(values)], where)
        filled = renamed(described, dict(filled), network, where)
    load_exactly(network, filled, where)
    others = {name: value for name, value in network.state_dict().items() if name not in filled}
    empty = [name for name, value in others.items() if not is_finite(value) and value.isnan().any()]
    if empty:  # a buffer or a tied tensor that no name reaches
        raise RequestError(f"{where}: tensors that the file does not fill: {listed(empty)}")
    return network


def check_outline(described: Network, tensors: StateDict, where: str) -> None:
    """Compares the network with the file before it takes memory: a few bytes can name a network of any size.

    Raises:
        RequestError: Their names or shapes differ, or, where names change, the network is much larger than the file.
    """
    with torch.device("meta"), Outline():
        outline = described.build().state_dict()
    problems = mismatches(outline, tensors) if described.rename is None else []
    if problems:
        raise RequestError(f"{where}: its tensors are not those of the architecture: {'; '.join(problems)}")
    needed, held = (sum(each.numel() for each in state.values()) for state in (outline, tensors))
    if needed > 2 * held + _SLACK:
        raise RequestError(
            f"{where}: its tensors are not those of {described.architecture}, which has {needed:,} values: it holds "
            f"{held:,}"
        )


def renamed(described: Network, tensors: dict[str, Tensor], network: nn.Module, where: str) -> Mapping[str, Tensor]:
    """Returns a file's tensors under the network's names.

    Raises:
        RequestError: They do not fit what the layout's renaming expects.
    """
    assert described.rename is not None
    try:
        return described.rename(tensors, network)
    except (KeyError, IndexError, ValueError, RuntimeError, AssertionError, AttributeError, TypeError) as error:
        raise RequestError(
            f"{where}: its tensors are not those of {described.architecture}: {type(error).__name__}: {one_line(error)}"
        ) from None


def load_exactly(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies `tensors` into `network`: every tensor of the network filled, none left over, every shape equal.

    Raises:
        RequestError: As `fill`.
    """
    wanted = network.state_dict(keep_vars=True)
    problems = mismatches(wanted, tensors)
    if problems:
        raise RequestError(f"{where}: its tensors are not those of the architecture: {'; '.join(problems)}")
    broken, constant, strange = [], [], []
    with torch.no_grad():
        for name, target in wanted.items():
            if name not in tensors:
                continue
            values = tensors[name]
            if target.is_floating_point() != values.is_floating_point():
                strange.append(f"{name} ({str(values.dtype).removeprefix('torch.')})")
            elif not is_finite(values):
                broken.append(name)
            elif is_constant(values):
                constant.append(name)
            target.copy_(values)
    if strange:
        raise RequestError(f"{where}: tensors of another kind of numbers than the network's: {listed(strange)}")
    if broken:
        raise RequestError(f"{where}: tensors with values that are not finite: {listed(broken)}")
    _refuse_constants(constant, where)


def _refuse_constants(names: Sequence[str], where: str) -> None:
    if names:
        raise RequestError(
            f"{where}: weights whose values are all the same: {listed(names)}: they were never trained, or lost"
        )


def is_finite(values: Tensor) -> bool:
    """Returns whether no value is infinite or no number; whole numbers are not."""
    if not values.is_floating_point() or bool(values.sum().isfinite()):  # a sum hides neither
        return True
    return bool(values.isfinite().all())  # or it was too large itself


def is_constant(values: Tensor) -> bool:
    """Returns whether the weights of a layer are all one value: vectors (biases, norms, scales) may be."""
    if not values.is_floating_point() or not values.numel() or sum(side > 1 for side in values.shape) < 2:
        return False
    flat = values.reshape(-1)
    return bool((flat[:64] == flat[0]).all()) and bool((flat == flat[0]).all())


def mismatches(wanted: Mapping[str, Stored], tensors: StateDict) -> list[str]:
    """Returns in which names and shapes `tensors` differ from the `wanted` ones, in words; nothing where they fit."""
    # Older checkpoints lack batch norm's counter, which no forward pass in evaluation reads.
    missing = [name for name in wanted if name not in tensors and not name.endswith(BATCH_COUNTER)]
    unexpected = [name for name in tensors if name not in wanted]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tuple(tensors[name].shape) != tuple(wanted[name].shape)
    ]
    return [
        f"{len(names)} {kind} ({listed(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
