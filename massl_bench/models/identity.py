"""What determines a network's features: its tensors by name, and every number that their shapes do not tell."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from massl_bench.core.files import sha256_of
from massl_bench.models.reading import sha256_of_tensors

BATCH_COUNTER = "num_batches_tracked"
"""Of a batch norm: no forward pass in evaluation reads it, and older files lack it."""

_NO_NUMBER = frozenset(
    {
        "training",
        "call_super_init",
        "dump_patches",
        "fused_attn",  # another kernel of the same function, by the machine
        "grad_checkpointing",
        "num_classes",
        "drop_rate",
        "weight_init_mode",
        "fix_init",
    }
)
"""Attributes of modules that change nothing in evaluation."""

_DROPPING = (nn.Dropout, nn.Dropout2d, nn.Identity)


def tensors_sha256(network: nn.Module) -> str:
    """Returns the hex sha256 over the names, shapes and values of all tensors of a network.

    The same values have the same hash whatever file, container or name they came from.
    """
    return sha256_of_tensors({name: t for name, t in network.state_dict().items() if not name.endswith(BATCH_COUNTER)})


def network_sha256(network: nn.Module) -> str:
    """Returns the hex sha256 of every number of a network as it was built, module by module.

    Strides, paddings, heads, scales, eps, activations, orders of parts: all that modules keep as plain values, and what
    classes they are. Values that evaluation does not read (dropout, depth of checkpointing) are not among it.
    """
    return sha256_of([[name, *_module(module)] for name, module in network.named_modules()])


def _module(module: nn.Module) -> list[Any]:
    if isinstance(module, _DROPPING) or type(module).__name__ == "DropPath":
        return ["Identity"]  # all the same in evaluation
    kept = {key: found for key, value in sorted(vars(module).items()) if (found := _plain(key, value)) is not None}
    return [type(module).__name__, kept, module.extra_repr() if type(module).__module__.startswith("torch.") else ""]


def _plain(key: str, value: Any) -> Any:
    """Returns an attribute as JSON can hold it; None for what is no number of a network."""
    if key.startswith("_") or key in _NO_NUMBER or value is None:
        return None
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple | list) and value and all(isinstance(v, bool | int | float | str) for v in value):
        return [repr(v) if isinstance(v, float) else v for v in value]
    return _function(value)


def _function(value: Any) -> Any:
    """Returns a function by its name, with the arguments that are bound to it; None for what is none."""
    if isinstance(value, functools.partial):
        given = {"args": list(value.args), **value.keywords}
        return [_function(value.func), {name: _spelled(each) for name, each in sorted(given.items())}]
    if inspect.ismethod(value):
        owner = value.__self__
        return [f"{type(owner).__name__}.{value.__name__}", owner.extra_repr() if isinstance(owner, nn.Module) else ""]
    if inspect.isfunction(value) or inspect.isbuiltin(value):
        return value.__name__
    return None


def _spelled(value: Any) -> str:
    """Returns a bound argument as a text that is the same in every process."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__


def telling_numbers(network: Any) -> dict[str, int | float | str | bool]:
    """Returns the numbers of a network that its tensors' shapes do not tell, for people, as far as it has them."""
    found: dict[str, int | float | str | bool] = {}
    attention = next((m for m in network.modules() if isinstance(getattr(m, "num_heads", None), int)), None)
    if attention is not None:
        found["heads"] = int(attention.num_heads)
    embed = getattr(network, "patch_embed", None)
    for name, attribute in (("patch", "patch_size"), ("img_size", "img_size")):
        size = getattr(embed, attribute, None)
        if isinstance(size, int) or (isinstance(size, tuple) and size):
            found[name] = int(size if isinstance(size, int) else size[0])
    norm = next((m for m in network.modules() if isinstance(getattr(m, "eps", None), float)), None)
    if norm is not None:
        found["eps"] = float(norm.eps)
    found |= _simple(network)
    convolution = getattr(network, "conv1", None)
    if isinstance(convolution, nn.Conv2d):
        found["stem_padding"], found["stem_stride"] = int(convolution.padding[0]), int(convolution.stride[0])
        found["stem_pooling"] = type(network.maxpool).__name__ != "Identity"
    activations = dict.fromkeys(type(m).__name__ for m in network.modules() if _is_activation(m))
    if activations:
        found["activation"] = ", ".join(activations)
    return found


def _simple(network: Any) -> dict[str, int | float | str | bool]:
    found: dict[str, int | float | str | bool] = {}
    for name in ("position_rule", "global_pool", "num_reg_tokens", "no_embed_class"):
        value = getattr(network, name, None)
        if isinstance(value, str | bool | int):
            found[name] = value
    names = {name.rpartition(".")[2] for name, _ in network.named_parameters()}
    block = next(iter(network.blocks), None) if isinstance(getattr(network, "blocks", None), nn.Sequential) else None
    if block is not None:
        found["layer_scale"] = bool({"gamma", "gamma_1"} & names)
        qkv = getattr(getattr(block, "attn", None), "qkv", None)
        if qkv is not None:
            found["qkv_bias"] = qkv.bias is not None or "q_bias" in names
    return found


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__ == "torch.nn.modules.activation" or "activations" in kind.__module__


def describe_network(network: nn.Module) -> Mapping[str, Any]:
    """Returns the fields of a card that say what a network is: hashes of tensors and numbers, numbers for people."""
    return {
        "weights_sha256": tensors_sha256(network),
        "weights_hash_of": "tensors",
        "network": telling_numbers(network),
        "network_sha256": network_sha256(network),
    }
