"""How a text names what its reader can say: `limit={'train': 100}` in Python, `--limit train=100` on the command line.

Whoever raises an error knows the setting by its Python name alone. Python is what is assumed; the command line says,
once for its process, that its user reads options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_OPTIONS = {"num_workers": "workers", "params": "set", "settings": "set", "splits": "split"}
"""Where an option is called otherwise than the Python argument. `settings` are those of a pretraining."""

_FLAGS = frozenset({"force", "offline", "resume", "skip_corrupt"})
_MAPPINGS = frozenset({"limit", "params", "preprocessing", "sample", "settings", "splits"})
"""Options of the form KEY=VALUE, each of which is an entry of a mapping in Python."""

_AS_IT_IS = re.compile(r"[A-Z…][A-Z…]*|-?[0-9.]+(e-?[0-9]+)?|\[.*\]")
"""Placeholders (N, NAME) and numbers, which need no quotes."""

_options_are_read = False


@contextmanager
def options_are_read(are_they: bool = True) -> Iterator[None]:
    """Inside, whoever reads this process's texts gives options, and not arguments of functions."""
    global _options_are_read  # noqa: PLW0603  # of the process, like its language
    before, _options_are_read = _options_are_read, are_they
    try:
        yield
    finally:
        _options_are_read = before


def reads_options() -> bool:
    """Tells whether the reader gives options; a process that works for this one is told."""
    return _options_are_read


def option(name: str, value: object = None) -> str:
    """Returns a setting as an option, whoever reads it: in commands, and in what a record keeps (`--limit train=9`)."""
    written = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
    return written if value is None else f"{written} {value}"


def asked(name: str, value: object = None) -> str:
    """Returns a setting as the reader gives it.

    Args:
        name: of the Python argument.
        value: as the command line takes it: `vit_small`, `train=100`, `knn.k=10,20`; None names the setting alone.
    """
    if _options_are_read:
        return option(name, value)
    if value is None:
        return f"{name}=True" if name in _FLAGS else name
    key, equals, text = str(value).partition("=")
    if name not in _MAPPINGS:
        return f"{name}={_literal(str(value))}"
    if not equals:
        return f"{name} {value}"
    if name == "params":
        task, _, key = key.partition(".")
        return f"{name}={{{task!r}: {{{key!r}: {_literal(text)}}}}}"
    return f"{name}={{{key!r}: {_literal(text)}}}"


def parameters(**values: object) -> str:
    """Returns parameters of the task at hand: `k=10, headline='top1@10'`, or `--set k=10 --set headline=top1@10`.

    A protocol does not know its task's name, which the option needs: `of_task` adds it.
    """
    if _options_are_read:
        return " ".join(option("params", f"{name}={value}") for name, value in values.items())
    return ", ".join(f"{name}={_literal(str(value))}" for name, value in values.items())


def parameter(name: str) -> str:
    """Returns the name of a parameter of the task at hand."""
    return option("params", name) if _options_are_read else name


def of_task(text: str, task: str) -> str:
    """Returns a protocol's text with its parameters as those of a task: `--set k=10` becomes `--set knn.k=10`."""
    start = f"{option('params')} "
    return text.replace(start, f"{start}{task}.") if _options_are_read else text


def _literal(text: str) -> str:
    if text in ("true", "false"):
        return text.title()
    if _AS_IT_IS.fullmatch(text):
        return text
    parts = text.split(",")
    return f"[{', '.join(map(_literal, parts))}]" if len(parts) > 1 else repr(text)
