"""The presets: configurations by name, one TOML file each. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from massl_bench.core.errors import RequestError, unknown_name

PRESETS = Path(__file__).parent


def preset_files() -> dict[str, Path]:
    """Returns the files of the presets by name."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.toml"))}


def preset_name(preset: str) -> str:
    """Returns what a preset is called: a file by its name without the ending."""
    return Path(preset).stem if preset.endswith(".toml") else preset


def preset_file(preset: str) -> Path:
    """Returns the file of a preset: of that name here, or a TOML file of the user's.

    Raises:
        RequestError: There is none; the text has near names.
    """
    files = preset_files()
    if preset in files:
        return files[preset]
    if preset.endswith(".toml"):
        if not (path := Path(preset)).is_file():
            remedy = "give one, or a name that massl-bench list presets shows"
            raise RequestError("no such file", field="preset", found=preset, remedy=remedy)
        return path
    raise unknown_name("preset", preset, files, "or a TOML file of yours")


def read_preset(preset: str) -> dict[str, Any]:
    """Returns the content of a preset, unchecked; raises `RequestError` where there is none, or it is no TOML."""
    from massl_bench.specs.toml import load_toml  # for the help text, which names the presets, there is no need of it

    file = preset_file(preset)
    try:
        return load_toml(file)
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: cannot be read: {error}", field="preset", found=preset) from None
