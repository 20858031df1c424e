"""A network is filled from a file: every tensor of it, none left over, nothing of its initialisation left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from massl_bench.core.errors import RequestError, one_line
from massl_bench.models.adapter import Network
from massl_bench.models.content import StateDict, Stored, listed, load
from massl_bench.models.identity import BATCH_COUNTER
from massl_bench.models.outline import DRAWS, INITIALISES, Outline, changed_by

_SLACK = 1 << 22
"""Values that a network may have and its file not: tables that are computed, positions for another size."""

_MAKES = frozenset({"rand", "randn", "rand_like", "randn_like", "normal"})


class _Unfilled(TorchFunctionMode):
    """A new network's parameters get no values, and random ones anywhere else become values that are no numbers.

    So what a file does not fill is seen whatever its name, and a network that is filled next costs no draws.
    """

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        changed = changed_by(args, kwargs)
        if changed is not None and changed.is_meta and name in INITIALISES:
            return changed
        if changed is not None and name in DRAWS and changed.is_floating_point():
            with torch.no_grad():
                return changed.fill_(torch.nan)
        made = func(*args, **(kwargs or {}))
        return made.fill_(torch.nan) if name in _MAKES and made.is_floating_point() else made


@contextmanager
def _without_parameters() -> Iterator[None]:
    """What is built here has its parameters as shapes alone; buffers, stored or not, and other values are computed."""
    builder = threading.get_ident()

    def as_shape(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != builder:
            return None  # as it is
        return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(as_shape)  # type: ignore[arg-type]  # it may return a parameter
    try:
        with _Unfilled():
            yield
    finally:
        hook.remove()


def fill(described: Network, tensors: StateDict, where: str) -> nn.Module:
    """Returns a described network with a file's tensors.

    Raises:
        RequestError: The sets of names or shapes differ; the text lists what is missing, unexpected or misshapen. Or a
            tensor has values that are not finite, or is constant where training leaves no constant.
    """
    check_outline(described, tensors, where)
    with _without_parameters():
        network = described.build()
    network.eval()
    filled: Mapping[str, Tensor] = load(tensors, where)
    if described.rename is not None:
        # As the file has them: joined with others under one name, it would not be seen.
        _refuse_constants([name for name, values in filled.items() if is_constant(values)], where)
        filled = renamed(described, dict(filled), network, where)
    load_exactly(network, filled, where)
    _refuse_unfilled(network, filled, where)
    return network


def _refuse_unfilled(network: nn.Module, filled: Collection[str], where: str) -> None:
    """Raises `RequestError` where a tensor came neither from the file nor from a computation."""
    others = {
        name: tensor
        for name, tensor in chain(network.named_parameters(), network.named_buffers())
        if name not in filled and not name.endswith(BATCH_COUNTER)
    }
    empty = [
        name for name, tensor in others.items() if tensor.is_meta or (not is_finite(tensor) and tensor.isnan().any())
    ]
    if empty:  # a buffer that was drawn, or a tensor that no name reaches
        raise RequestError(f"{where}: tensors that the file does not fill: {listed(empty)}")


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
    """Puts `tensors` into `network`: every tensor of the network filled, none left over, every shape equal.

    They take the place of the network's own, which need no values; only types, orders of values, and memory that is
    shared with others are changed, by a copy.

    Raises:
        RequestError: As `fill`.
    """
    wanted = network.state_dict(keep_vars=True)
    problems = mismatches(wanted, tensors)
    if problems:
        raise RequestError(f"{where}: its tensors are not those of the architecture: {'; '.join(problems)}")
    broken, constant, strange = [], [], []
    for name, target in wanted.items():
        if name not in tensors:
            continue
        values = _by_itself(tensors[name], target.dtype)
        if target.is_floating_point() != tensors[name].is_floating_point():
            strange.append(f"{name} ({str(tensors[name].dtype).removeprefix('torch.')})")
        elif not is_finite(values):
            broken.append(name)
        elif is_constant(values):
            constant.append(name)
        module, _, own_name = name.rpartition(".")
        is_parameter = isinstance(target, nn.Parameter)
        setattr(
            network.get_submodule(module),
            own_name,
            nn.Parameter(values, requires_grad=False) if is_parameter else values,
        )
    if strange:
        raise RequestError(f"{where}: tensors of another kind of numbers than the network's: {listed(strange)}")
    if broken:
        raise RequestError(f"{where}: tensors with values that are not finite: {listed(broken)}")
    _refuse_constants(constant, where)


def _by_itself(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns values of a type in memory of their own, row after row: these ones where they are so already."""
    values = values.detach().to(dtype)
    if values.is_contiguous() and values.untyped_storage().nbytes() == values.nbytes:
        return values
    return values.clone(memory_format=torch.contiguous_format)


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
