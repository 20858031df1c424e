"""TOML files to types, and plain values to TOML. Every error names the file and the key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError

from massl_bench.core.errors import SpecError, how_they_differ, look_alike, one_line
from massl_bench.core.files import SEAL, check_depth, read_regular, sealed, unsealed
from massl_bench.core.strict import StrictModel, first_problem

Spec = TypeVar("Spec", bound=StrictModel)


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
        content = tomllib.loads(read_regular(path).decode())
    except RecursionError:
        raise ValueError("lists and tables nested too deeply") from None
    check_depth(content)
    return content


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
    return tomli_w.dumps({SEAL: sealed(content)[SEAL], **content})


def parse_setting(text: str) -> Any:
    """Returns the value of a `--set`: written as in TOML, but that words need no quotes and lists no brackets."""
    for spelling in (text, f"[{text}]"):
        try:
            value = tomllib.loads(f"value = {spelling}")["value"]
            check_depth([value])
            return value
        except (ValueError, RecursionError):
            continue
    return text
