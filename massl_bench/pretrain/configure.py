"""From a preset and the changes of a command line to a checked configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.strict import StrictModel, first_problem
from massl_bench.core.wording import asked
from massl_bench.pretrain import methods
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.presets import read_preset
from massl_bench.specs.toml import parse_setting


def load_config(preset: str, settings: Sequence[str] = (), method: str | None = None) -> PretrainConfig:
    """Returns a preset with the changes of `--set key=value`, checked.

    Args:
        preset: a name among `presets/*.toml`, or a TOML file of the user's.
        settings: changes as `section.key=value` with values as in TOML; words and lists need no quotes or brackets.
            `method=NAME` takes the section of the preset's method away: that of the new one is to be given.
        method: what the user asked for; must be the preset's.

    Raises:
        RequestError: An unknown preset, method or key (with near names), a wrong value, or numbers that do not fit
            together.
    """
    content = read_preset(preset)
    own = str(content.get("method"))
    if method is not None and method != own:
        raise RequestError(
            f"preset {preset} is of the method {own}",
            field="method",
            found=method,
            remedy=f"leave {asked('method')} out, or give {asked('settings', f'method={method}')} and its parameters "
            f"as {asked('settings', f'{method}.KEY=VALUE')}",
        )
    changes = [_change(setting) for setting in settings]
    chosen = next((value for keys, value in reversed(changes) if keys == ["method"]), own)
    parameters = methods.load(str(chosen)).Parameters
    if chosen != own:
        content.pop(own, None)
    known = [*_keys(PretrainConfig), *_keys(parameters, f"{chosen}.")]
    for keys, value in changes:
        if (key := ".".join(keys)) not in known:
            if keys[0] in methods.names():
                raise RequestError(f"{keys[0]} is not used by the method {chosen}", field="settings", found=key)
            raise unknown_name("configuration key", key, known)
        _write(content, keys, value)
    changed = f" with {asked('settings')}" if settings else ""
    return checked_config(content, f"preset {preset}{changed}")


def checked_config(content: Mapping[str, Any], where: str) -> PretrainConfig:
    """Returns the configuration that nested tables describe; the method's section has the method's name.

    Args:
        content: as TOML or `model_dump` return it.
        where: it comes from, for errors.

    Raises:
        RequestError: A wrong key or value, or numbers that do not fit together.
    """
    method = methods.load(str(content.get("method")))
    name = content["method"]
    try:
        # The method's section is checked first by itself, so that an error has its keys as the user knows them.
        parameters = _section(method.Parameters, content.get(name), name)
        rest = {key: value for key, value in content.items() if key != name}
        config = PretrainConfig.model_validate({**rest, "parameters": parameters})
        method.check(config)
        if config.compute.objective == "attention" and (problem := method.attention_problem(config)):
            raise ValueError(f"compute.objective: attention, but {problem}; give float32 or auto")
    except ValidationError as error:
        problem = first_problem(error)
        if problem == "batch_size: is missing":
            problem += f": the publication does not tell it; give {asked('settings', 'batch_size=N')}"
        raise RequestError(f"{where}: {problem}") from None
    except ValueError as error:
        raise RequestError(f"{where}: {error}") from None
    return config


def _section(parameters: type[StrictModel], values: Any, name: str) -> StrictModel:
    if values is None:
        keys = ", ".join(f"{name}.{key}" for key in parameters.model_fields)
        raise ValueError(f"{name}: is missing, and the method needs it: {keys}")
    try:
        return parameters.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{name}.{first_problem(error)}") from None


def _change(setting: str) -> tuple[list[str], Any]:
    """Returns the keys and the value of one `--set`."""
    key, equals, text = setting.partition("=")
    if not (equals and text):
        allowed = "key=value, as in optimiser.lr=0.001"
        raise RequestError(field="settings", found=setting, allowed=allowed)
    return key.split("."), parse_setting(text)


def _write(content: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Writes one change into a preset's content."""
    *sections, name = keys
    for section in sections:
        content = content.setdefault(section, {})
    if value == "none":
        content.pop(name, None)  # back to "not used", which TOML cannot write
    else:
        content[name] = value


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Returns the dotted keys of a configuration that hold values; a method's own are not among them."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        parts = getattr(field.annotation, "__args__", (field.annotation,))
        sections = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if not sections:
            keys.append(f"{prefix}{name}")
        elif sections[0] is not StrictModel:
            keys += _keys(sections[0], f"{prefix}{name}.")
    return keys
