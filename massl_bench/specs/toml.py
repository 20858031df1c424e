"""TOML files to types, and plain values to TOML. Every error names the file and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from massl_bench.core.errors import SpecError, how_they_differ, look_alike, one_line
from massl_bench.core.files import SEAL, check_depth, read_regular, sealed, unsealed
from massl_bench.core.strict import StrictModel, first_problem

Spec = TypeVar("Spec", bound=StrictModel)

_MOST_BYTES = 4 << 20
"""Of a file that somebody writes by hand."""

_MOST_PARTS = 64
"""Of a dotted key. The memory of `tomllib` grows with their square: 20,000 take 2 GB."""

_TOKEN = re.compile(r"""(?P<part>"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?|[A-Za-z0-9_-]++)|[ \t]++|(?P<dot>\.)|.""", re.DOTALL)


def read_toml(path: Path, model: type[Spec]) -> Spec:
    """Reads one file of the registry.

    Raises:
        SpecError: The file cannot be read or is not TOML, a key is missing, unknown or of the wrong type, the name
            inside differs from the file's, or it carries a hash of its content that is of another content.
    """
    try:
        content = load_toml(path)
        spec = model.model_validate(content)
        if SEAL in content:
            _check_seal(path, content)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:  # a ValueError too
        raise SpecError(f"{path}: {first_problem(error)}") from None
    except ValueError as error:
        raise SpecError(f"{path}: not valid TOML: {one_line(error)}") from None
    name = getattr(spec, "name", path.stem)
    if name != path.stem:
        differ = f", {how_they_differ(name, path.stem)}" if look_alike(name, path.stem) else ""
        raise SpecError(f"{path}: name: expected {path.stem!r}, as the file is called, got {name!r}{differ}")
    return spec


def load_toml(path: Path) -> dict[str, Any]:
    """Returns the content of a TOML file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no TOML, or nested deeper than any file of this project.
    """
    try:
        return _parsed(read_regular(path, _MOST_BYTES).decode())
    except RecursionError:
        raise ValueError("lists and tables nested too deeply") from None


def _parsed(text: str) -> dict[str, Any]:
    if text.count(".") >= _MOST_PARTS and _most_parts(text) > _MOST_PARTS:
        raise ValueError(f"a key of more than {_MOST_PARTS} parts")
    content = tomllib.loads(text)
    check_depth(content)
    return content


def _most_parts(text: str) -> int:
    """Returns of how many parts, with dots between them, the longest key is."""
    most = parts = 0
    follows_dot = False
    for token in _TOKEN.finditer(text):
        if token["part"] is not None:
            parts = parts + 1 if follows_dot else 1
            most = max(most, parts)
        if not token[0].isspace() or token[0] == "\n":
            follows_dot = token["dot"] is not None
    return most


def _check_seal(path: Path, content: Mapping[str, Any]) -> None:
    try:
        unsealed(content)
    except ValueError:
        raise SpecError(
            f"{path}: {SEAL}: does not match the content: the file was damaged, or changed by hand; if it was you, "
            "remove this line"
        ) from None


def sealed_toml(content: Mapping[str, Any]) -> str:
    """Returns nested tables of plain values as TOML, with the hash of all of it at the top."""
    import tomli_w  # who reads needs it not

    return tomli_w.dumps({SEAL: sealed(content)[SEAL], **content})


def parse_setting(text: str) -> Any:
    """Returns the value of a `--set`: written as in TOML, but that words need no quotes and lists no brackets."""
    for spelling in (text, f"[{text}]"):
        try:
            return _parsed(f"value = {spelling}")["value"]
        except (ValueError, RecursionError):
            continue
    return text
