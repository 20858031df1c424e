"""Pickles read by a machine of our own, which calls nothing: what a file names is described, never imported.

Python's unpickler gives a file the means to call what it names, and has to be held back. This one has no such means:
each of the opcodes builds a plain value, and what a pickle calls is looked up in a table (`values.CALLS`) or becomes a
`StandIn`, which keeps what it was told and does nothing. Time, memory and depth are bounded by constants and by the
length of the pickle: no value is ever larger than the bytes that it was made of.
"""

from __future__ import annotations

import argparse
import pickletools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import IO, Any, Protocol, cast

from massl_bench.models.reading.bounds import DamagedError, RefusedError, Stream, check_depth, checked_key, would_run
from massl_bench.models.reading.globals import is_inert, makes_state, normal_module
from massl_bench.models.reading.tensors import LazyTensor, StandIn

MAX_STEPS = 3_000_000
"""Of reading a pickle: enough for a hundred thousand tensors, or a list of all images of ImageNet; a second or two."""
_SET = 4
"""Steps of making a set, which is that much larger than what other opcodes make."""
_LONGEST_INTEGER = 256
"""Bytes: Python prints numbers of 4,300 digits and no longer ones."""


class World(Protocol):
    """What a pickle's container adds to it: its storages, and the values of what it calls."""

    def persistent(self, identity: Any) -> Any:
        """Returns what lies outside the pickle under an identity."""

    def named(self, qualified: str) -> Any:
        """Returns a plain value that has this name, a type of numbers; None for other names."""

    def call(self, qualified: str) -> Callable[..., Any] | None:
        """Returns what makes the value of a call that is known; None for other names."""


class Machine:
    """Reads one pickle.

    Args:
        stream: from where the pickle begins.
        world: of the container.

    Attributes:
        asked: how often each name was asked for.
        unknown: how many values were made by each name for which a stand-in had to do.
    """

    def __init__(self, stream: Stream, world: World) -> None:
        self._stream, self._world = stream, world
        self.asked: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._globals: dict[str, Any] = {}
        self._budget = MAX_STEPS

    def run(self) -> Any:
        """Returns the value of the pickle.

        Raises:
            RefusedError: It names code, or is deeper or longer than any checkpoint.
            Exception: Of nearly any kind, where the bytes are damaged.
        """
        opcode = None
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], self._stream)):
            self.spend(1)
            _OPCODES[opcode.name](self, argument)
        value = self._stack.pop()
        if self._stack or self._below:
            raise DamagedError("values are left over")
        check_depth(value)
        return value

    def spend(self, steps: int) -> None:
        """Counts work that is done."""
        self._budget -= steps
        if self._budget < 0:
            raise RefusedError(f"it takes more than {MAX_STEPS:,} steps to read, which no checkpoint does")

    # The stack: what lies above the last mark is in `_stack`, the rest in `_below`.

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Takes the topmost value."""
        return self._stack.pop()

    def mark(self) -> None:
        """Begins a series of values."""
        self._below.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        """Takes the values since the last mark."""
        values, self._stack = self._stack, self._below.pop()
        return values

    def discard(self) -> None:
        """Drops the topmost value, or an empty series."""
        if self._stack:
            self._stack.pop()
        else:
            self._stack = self._below.pop()

    def store(self, index: int | None) -> None:
        """Remembers the topmost value."""
        self._memo[len(self._memo) if index is None else int(index)] = self._stack[-1]

    def recall(self, index: int) -> None:
        """Puts a remembered value on the stack again."""
        self._stack.append(self._memo[int(index)])

    # Containers

    def append(self, values: Iterable[Any]) -> None:
        """Adds to the list below, or to the stand-in of one."""
        owner = self._stack[-1]
        if isinstance(owner, StandIn):
            owner.items.extend(values)
        elif isinstance(owner, list):
            owner.extend(values)
        else:
            raise DamagedError("a list of another type")

    def set_items(self, values: list[Any]) -> None:
        """Adds keys and values in turn to the dictionary below, or to the stand-in of one."""
        owner = self._stack[-1]
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(owner, StandIn):
            owner.items.extend(pairs)
        elif isinstance(owner, dict):
            owner.update((checked_key(key), value) for key, value in pairs)
        else:
            raise DamagedError("a dictionary of another type")

    def add(self, values: list[Any]) -> None:
        """Adds to the set below."""
        owner = self._stack[-1]
        if not isinstance(owner, set):
            raise DamagedError("a set of another type")
        owner.update(map(checked_key, values))

    # Names, and what is made with them

    def name(self, module: str, name: str) -> None:
        """Puts what a name stands for on the stack; nothing is imported.

        Raises:
            RefusedError: It is the name of code.
        """
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedError("a name that is no text")
        qualified = f"{normal_module(module)}.{name}"
        self.asked[qualified] += 1
        if qualified not in self._globals:
            value = self._world.named(qualified)
            if value is None:
                known = self._world.call(qualified) is not None
                if not known and not is_inert(normal_module(module), name):
                    raise RefusedError(would_run(f"{module}.{name}"))
                value = StandIn(qualified)
            self._globals[qualified] = value
        self._stack.append(self._globals[qualified])

    def make(self, callee: Any, arguments: Any) -> None:
        """Puts on the stack what a call would return: a plain value where it is known, else a stand-in."""
        if not isinstance(callee, StandIn) or callee.made or not isinstance(arguments, tuple):
            raise DamagedError("a call of what is no name")
        self.spend(len(arguments))
        known = self._world.call(callee.name)
        if known is not None:
            self._stack.append(known(self, *arguments))
            return
        if callee.name == "builtins.getattr":  # of an enumeration's class, as some loggers are saved
            self._stack.append(_attribute(*arguments))
            return
        if not makes_state(callee.name):
            raise RefusedError(would_run(callee.name))
        self.unknown[callee.name] += 1
        self._stack.append(StandIn(callee.name, made=True, args=arguments))

    def build(self, state: Any) -> None:
        """Gives the topmost value its state."""
        owner = self._stack[-1]
        if isinstance(owner, StandIn) and owner.made:
            owner.state = state
        elif isinstance(owner, argparse.Namespace):
            if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
                raise DamagedError("a Namespace without names")
            self.spend(len(state))
            vars(owner).update(state)
        elif hasattr(owner, "set_state"):
            owner.set_state(self, state)
        elif not isinstance(owner, dict | list | set | LazyTensor) or not isinstance(state, dict | tuple):
            raise DamagedError("the state of what has none")
        elif isinstance(owner, LazyTensor) and not isinstance(state, dict):
            owner.problem = "a state of another kind"
        # The attributes of a dictionary (a state dict's versions) or of a parameter (weight decay or not) are left.


def _attribute(owner: Any = None, name: Any = None, *rest: Any) -> StandIn:
    if not isinstance(owner, StandIn) or not isinstance(name, str):
        raise RefusedError(would_run("builtins.getattr"))
    place, _, last = owner.name.rpartition(".")
    if not is_inert(place, last) or owner.name.startswith("builtins") or not is_inert(owner.name, name):
        raise RefusedError(would_run("builtins.getattr"))
    return StandIn(f"{owner.name}.{name}")


def _integer(machine: Machine, value: int) -> None:
    if value.bit_length() > 8 * _LONGEST_INTEGER:
        raise RefusedError("a number of more digits than any checkpoint's")
    machine.push(value)


def _dictionary(values: list[Any]) -> dict[Any, Any]:
    return {checked_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _empty_set(machine: Machine, _: Any) -> None:
    machine.spend(_SET)
    machine.push(set())


def _frozen_set(machine: Machine, _: Any) -> None:
    machine.spend(_SET)
    machine.push(frozenset(map(checked_key, machine.since_mark())))


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _append(machine: Machine, _: Any) -> None:
    value = machine.pop()
    machine.append([value])


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    def make(machine: Machine, argument: Any) -> None:
        machine.push(tuple([machine.pop() for _ in range(count)][::-1]))

    return make


def _reduce(machine: Machine, _: Any) -> None:
    arguments, callee = machine.pop(), machine.pop()
    machine.make(callee, arguments)


def _new_with_keywords(machine: Machine, _: Any) -> None:
    keywords, arguments, callee = machine.pop(), machine.pop(), machine.pop()
    if not isinstance(keywords, dict) or not isinstance(arguments, tuple):
        raise DamagedError("a call of another kind")
    machine.make(callee, (*arguments, keywords) if keywords else arguments)


def _instance(machine: Machine, argument: str) -> None:
    values = machine.since_mark()
    module, _, name = argument.partition(" ")
    machine.name(module, name)
    machine.make(machine.pop(), tuple(values))


def _object(machine: Machine, _: Any) -> None:
    callee, *values = machine.since_mark()
    machine.make(callee, tuple(values))


def _stack_name(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _refuse_extension(machine: Machine, argument: Any) -> None:
    raise RefusedError("it uses an extension of pickles, which no checkpoint does")


def _persistent(machine: Machine, _: Any) -> None:
    machine.push(machine._world.persistent(machine.pop()))


def _text(machine: Machine, value: Any) -> None:
    machine.push(value)


_OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    **{name: lambda machine, _: None for name in ("PROTO", "FRAME", "STOP")},
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8"), _text),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _text),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _text),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _integer),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.store),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.recall),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID"), _refuse_extension),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.discard(),
    "POP_MARK": lambda machine, _: (machine.since_mark(), None)[1],
    "DUP": lambda machine, _: machine.push(machine._stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": _empty_set,
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": lambda machine, _: machine.push(_dictionary(machine.since_mark())),
    "FROZENSET": _frozen_set,
    "APPEND": _append,
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.since_mark()),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": _stack_name,
    "INST": _instance,
    "OBJ": _object,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "REDUCE": _reduce,
    "BUILD": lambda machine, _: machine.build(machine.pop()),
    "BINPERSID": _persistent,
}
