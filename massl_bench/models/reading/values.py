"""What the known names of a checkpoint stand for: containers, numbers of numpy, and descriptions of tensors.

Nothing is imported by a name that a file gives, and no class gets a state that a file gives: numpy's own types take
flags from a pickle and then read any bytes as pointers. Numbers and arrays are made of their bytes here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from massl_bench.models.reading.bounds import DamagedError, RefusedError, checked_key, would_run
from massl_bench.models.reading.machine import Machine
from massl_bench.models.reading.tensors import LazyTensor, StandIn, Storage

_NUMBERS = re.compile(r"[<>|=]?(b1|[biuf][1248]|f16|c8|c16)")

_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "QInt8": torch.qint8,
    "QInt32": torch.qint32,
    "QUInt8": torch.quint8,
}
STORAGES: Mapping[str, torch.dtype] = {f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()} | {
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
}
"""The type of the numbers by the name of a storage's class; a storage without a type counts bytes."""


def named(qualified: str) -> Any:
    """Returns the type of numbers that has this name in torch; None for other names."""
    place, _, name = qualified.partition(".")
    value = getattr(torch, name, None) if place == "torch" and name.isidentifier() else None
    return value if isinstance(value, torch.dtype) else None


class NumpyType:
    """Stands for a `numpy.dtype`."""

    def __init__(self, code: Any, *_: Any) -> None:
        if isinstance(code, StandIn):  # a class, as in dtype(numpy.float32)
            code = np.dtype(code.name.rpartition(".")[2].rstrip("_")).str
        if not isinstance(code, str):
            raise DamagedError("a type of numbers without a name")
        self.code = code
        self.dtype = np.dtype(code) if _NUMBERS.fullmatch(code) else None

    def __repr__(self) -> str:
        return f"numpy.dtype({self.code[:20]!r})"

    def set_state(self, machine: Machine, state: Any) -> None:
        """Takes the order of the bytes; a type that is made of several is one of no numbers."""
        _, order, *parts = state[:5]
        if self.dtype is not None and parts == [None, None, None] and order in ("<", ">", "|", "="):
            self.dtype = self.dtype.newbyteorder(order)
        else:
            self.dtype = None

    def values(self, content: Any) -> np.ndarray[Any, Any]:
        """Returns the numbers of bytes, [N]; pickles of Python 2 hold bytes as a string."""
        assert self.dtype is not None
        return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, self.dtype)


class NumpyArray:
    """Stands for a `numpy.ndarray`.

    Attributes:
        array: its numbers, read-only; None for one of objects, texts or records.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: np.ndarray[Any, Any] | None = None) -> None:
        self.array = array

    def __repr__(self) -> str:
        if self.array is None:
            return "numpy array of objects"
        return f"numpy array of {self.array.dtype}, {list(self.array.shape)}"

    def set_state(self, machine: Machine, state: Any) -> None:
        """Takes shape, type and bytes."""
        _, shape, dtype, fortran, content = state
        self.array = _shaped(dtype, content, shape, "F" if fortran else "C")


def _shaped(dtype: NumpyType, content: Any, shape: Any, order: Any) -> np.ndarray[Any, Any] | None:
    if dtype.dtype is None or not isinstance(content, bytes | bytearray | str):
        return None
    array = dtype.values(content)
    # A view: no bytes are copied, and a shape that the bytes do not fill is an error.
    return array.reshape(shape, order=order) if order in ("C", "F") else array.reshape(shape)


def _numpy_array(machine: Machine, *_: Any) -> NumpyArray:
    return NumpyArray()


def _numpy_from_buffer(
    machine: Machine, content: Any, dtype: NumpyType, shape: Any, order: Any, axes: Any = None
) -> NumpyArray:
    array = _shaped(dtype, content, shape, order)
    return NumpyArray(array.transpose(axes) if axes is not None and array is not None else array)


def _numpy_number(machine: Machine, dtype: NumpyType, content: Any = b"") -> Any:
    if dtype.dtype is None:
        return StandIn("numpy.generic", made=True, args=(dtype, content))
    (value,) = dtype.values(content).tolist()
    return value


def _latin1(machine: Machine, text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocols 0 to 2 write them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(would_run("codecs.encode"))
    machine.spend(len(text) >> 6)  # else one text in the memo makes any number of copies
    return text.encode("latin1")


def _bytes(machine: Machine, content: Any = b"", encoding: str | None = None) -> bytes:
    if isinstance(content, str):
        return _latin1(machine, content, encoding or "latin1")
    if isinstance(content, list):
        machine.spend(len(content))
        return bytes(content)
    if not isinstance(content, bytes):
        raise DamagedError("bytes made of something else")
    return content


def _listed(machine: Machine, values: Any = ()) -> Iterable[Any]:
    if not isinstance(values, list | tuple | set | frozenset | dict):
        raise DamagedError("a container made of something else")
    machine.spend(len(values))
    return values


def _list(machine: Machine, values: Any = (), *_: Any) -> list[Any]:
    return list(_listed(machine, values))


def _tuple(machine: Machine, values: Any = ()) -> tuple[Any, ...]:
    return tuple(_listed(machine, values))


def _set(machine: Machine, values: Any = ()) -> set[Any]:
    return set(map(checked_key, _listed(machine, values)))


def _dict(machine: Machine, values: Any = ()) -> dict[Any, Any]:
    listed = _listed(machine, values)
    pairs = listed.items() if isinstance(listed, dict) else listed
    return {checked_key(key): value for key, value in pairs}


def _default_dict(machine: Machine, factory: Any = None, values: Any = ()) -> dict[Any, Any]:
    return _dict(machine, values)


def _number(kind: type) -> Callable[..., Any]:
    def make(machine: Machine, value: Any = 0) -> Any:
        if not isinstance(value, int | float):
            raise DamagedError("a number made of something else")
        return kind(value)

    return make


def _namespace(machine: Machine, *_: Any) -> argparse.Namespace:
    return argparse.Namespace()


def _reconstructed(machine: Machine, cls: Any, base: Any = None, state: Any = None) -> Any:
    """What protocols 0 and 1 call for an instance of any class."""
    machine.make(cls, () if state is None else (state,))
    return machine.pop()


def _new(machine: Machine, cls: Any, *arguments: Any) -> Any:
    machine.make(cls, arguments)
    return machine.pop()


def _device(machine: Machine, kind: Any, index: Any = None) -> torch.device:
    return torch.device(kind) if index is None else torch.device(kind, index)


def _layout(machine: Machine, name: Any) -> StandIn:
    return StandIn(str(name))


def _first(machine: Machine, value: Any, *_: Any) -> Any:
    return value


# Tensors: nothing of their values is read.


def _tensor(
    machine: Machine, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any, dtype: Any = None
) -> LazyTensor:
    if not isinstance(storage, Storage):
        raise DamagedError("a tensor without a storage")
    metadata = rest[2] if len(rest) > 2 else None
    tensor = storage.tensor(dtype, checked_shape(shape), checked_shape(stride), *checked_shape((offset,)))
    if metadata:
        tensor.problem = "negated or conjugated when it is read"
    return tensor


def _tensor_with_type(machine: Machine, *arguments: Any) -> LazyTensor:
    storage, offset, shape, stride, _, _, dtype, *metadata = arguments
    if not isinstance(dtype, torch.dtype):
        raise DamagedError("a tensor without a type")
    return _tensor(machine, storage, offset, shape, stride, None, None, *metadata, dtype=dtype)


def checked_shape(values: Any) -> tuple[int, ...]:
    """Returns sizes or steps, as many as a tensor can have; raises `DamagedError` for anything else."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        raise DamagedError("a tensor without a shape")
    if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise DamagedError("a tensor of a shape that there is not")
    return tuple(values)


def _strange(what: str, shape: int | None = None) -> Callable[..., LazyTensor]:
    """What a tensor of another kind becomes: it is counted and named, and cannot be loaded."""

    def make(machine: Machine, *arguments: Any) -> LazyTensor:
        dtype = next((each for each in arguments if isinstance(each, torch.dtype)), None)
        found = arguments[shape] if shape is not None else ()
        inside = next((each for each in arguments if isinstance(each, LazyTensor | Storage)), None)
        kind = dtype or (inside.dtype if inside is not None else torch.float32)
        return LazyTensor(None, kind, checked_shape(found), (), 0, problem=what)

    return make


def _sparse(machine: Machine, layout: Any, data: Any) -> LazyTensor:
    values = next((each for each in reversed(data) if isinstance(each, LazyTensor)), None)
    sizes = next((each for each in data if isinstance(each, tuple)), ())
    kind = values.dtype if values is not None else torch.float32
    return LazyTensor(None, kind, checked_shape(sizes), (), 0, problem="sparse")


def _parameter(machine: Machine, data: Any, *_: Any) -> Any:
    if not isinstance(data, LazyTensor):
        raise DamagedError("a parameter without a tensor")
    return data


_PLAIN_SUBCLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.nn.Parameter")


def _of_type(machine: Machine, function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    machine.make(function, arguments)
    made = machine.pop()
    if isinstance(made, LazyTensor) and not (isinstance(kind, StandIn) and kind.name in _PLAIN_SUBCLASSES):
        made.problem = f"of the class {kind.name if isinstance(kind, StandIn) else 'unknown'}"
    return made


def _from_cpu(machine: Machine, data: Any, dtype: Any, *_: Any) -> Any:
    if isinstance(data, LazyTensor) and data.dtype != dtype:
        data.problem = "on another device in another type"
    return data if isinstance(data, LazyTensor) else LazyTensor(None, dtype, (), (), 0, problem="of another device")


CALLS: Mapping[str, Callable[..., Any]] = {
    "argparse.Namespace": _namespace,
    "builtins.bool": _number(bool),
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "builtins.dict": _dict,
    "builtins.float": _number(float),
    "builtins.frozenset": _set,
    "builtins.int": _number(int),
    "builtins.list": _list,
    "builtins.set": _set,
    "builtins.tuple": _tuple,
    "codecs.encode": _latin1,
    "_codecs.encode": _latin1,
    "collections.Counter": _dict,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "collections.deque": _list,
    "copyreg.__newobj__": _new,
    "copyreg._reconstructor": _reconstructed,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy.core.numeric._frombuffer": _numpy_from_buffer,
    "numpy.dtype": lambda machine, *arguments: NumpyType(*arguments),
    "torch.Size": _tuple,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_cpu,
    "torch._utils._rebuild_xla_tensor": _from_cpu,
    "torch._utils._rebuild_meta_tensor_no_storage": _strange("meta: without values", 1),
    "torch._utils._rebuild_nested_tensor": _strange("nested"),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _strange("quantised", 2),
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_type,
    "torch._utils._rebuild_wrapper_subclass": _strange("of a class of its own", 2),
}
"""What is made of a call, by the name that is called; the name alone is never imported."""
