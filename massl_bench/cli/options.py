"""Options that several commands share, and what their values stand for."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from massl_bench.core.errors import RequestError

if TYPE_CHECKING:
    from massl_bench.specs.registry import Registry

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="MASSL_BENCH_DATA", help="Directory with one folder for each dataset.", show_envvar=True),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(envvar="MASSL_BENCH_CACHE", help="Features and downloads [default: the user's cache directory]."),
]
ResultsDir = Annotated[Path, typer.Option(help="Where records are written and read.")]
IncludePath = Annotated[
    list[Path] | None, typer.Option(metavar="DIR", help="Directory with tasks/, tasks/datasets/, … of your own.")
]
WeightsDir = Annotated[Path, typer.Option(help="Where manifests of models are looked for first, and written.")]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="Images of more pixels are refused [default: 89478485, as Pillow warns].")
]
Rehash = Annotated[bool, typer.Option("--rehash", help="Read all files again, also those whose hash is remembered.")]
Devices = Annotated[
    str | None,
    typer.Option(help="Several, as 0,1 or cuda:0,cuda:1: a process on each [default: all GPUs of the machine]."),
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="So many processes on this machine share the work [default: one a device]."),
]
Offline = Annotated[bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Never download.")]


_OF_A_MODEL: dict[str, Any] = {
    "arch": Annotated[str | None, typer.Option(help="timm architecture of a checkpoint whose shapes leave it open.")],
    "num_heads": Annotated[
        int | None, typer.Option(min=1, help="Attention heads of a checkpoint that does not tell them.")
    ],
    "checkpoint_key": Annotated[
        str | None,
        typer.Option(help="Which of a checkpoint's sets of weights [default: the one that its authors evaluate]."),
    ],
    "img_size": Annotated[int | None, typer.Option(min=1, help="Side of the images that the model is fed, in pixels.")],
    "pooling": Annotated[
        str | None, typer.Option(help="What becomes the feature: token, avg, token+avg, token-before-norm or last4.")
    ],
    "preprocessing": Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="resize, resize_mode, crop, interpolation, mean or std, in place of the model's own; repeatable.",
        ),
    ],
}
"""What a user can say of a model beyond its name, by the names of `core.model_settings`."""


NONE_GIVEN: Any = None
"""The default of `settings`: `model_options` always hands them over."""


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of a model, in the place of its parameter `settings`, which it gets made of them."""

    @functools.wraps(command)
    def with_settings(*arguments: Any, **options: Any) -> None:
        from massl_bench.core.model_settings import parse_settings

        given = {name: options.pop(name) for name in _OF_A_MODEL}
        command(*arguments, settings=parse_settings(**given), **options)

    hints = get_type_hints(command, localns={"ModelSettings": Any}, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "settings":
            for name, annotation in _OF_A_MODEL.items():
                parameters.append(inspect.Parameter(name, parameter.kind, default=None, annotation=annotation))
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
    with_settings.__annotations__ = {each.name: each.annotation for each in parameters}
    with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_settings


def open_registry(include: list[Path] | None, weights_dir: Path | None = None) -> Registry:
    """Returns the registry with the user's own directories before the packaged one."""
    from massl_bench.specs.registry import Registry

    return Registry(include or [], weights_dir)


def cache_directory(cache_dir: Path | None) -> Path:
    """Returns what `--cache-dir` gave, or the default."""
    from massl_bench.core.files import default_cache_dir

    return cache_dir.expanduser() if cache_dir is not None else default_cache_dir()


def split_names(option: str, values: list[str] | None) -> list[str]:
    """Returns the names of a repeatable option whose values may also be lists with commas.

    A comma that belongs to a path that is there, or that stands between braces, separates nothing.

    Raises:
        RequestError: The option was given, and there is no name in it.
    """
    names = [name for value in values or [] for name in _separated(value)]
    if values and not names:
        raise RequestError(f"{option} {' '.join(values)!r}: expected a name, or several with commas between them")
    return list(dict.fromkeys(names))


def _separated(value: str) -> list[str]:
    """Returns the names in one value."""
    prefix, colon, rest = value.partition(":")
    path = Path(rest.rpartition("@")[2] if prefix == "torchvision" else rest if colon else value)
    # Of a pattern of shards only the folder can be there.
    whole = _is_there(path) or ("," in str(path.parent) and _is_there(path.parent))
    names = [value] if whole else [name.strip() for name in re.split(r",(?![^{]*\})", value)]
    # folder:x and folder:x/ are one dataset
    return [f"folder:{Path(name[7:])}" if name.startswith("folder:") else name for name in names if name]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a path can be, or with a zero byte in it
        return False


def parse_sample(sample: str | None) -> tuple[dict[str, int], int]:
    """Returns `train=N,test=M,seed=S` as ({"train": N, "test": M}, S); the seed is 0 where none is given."""
    counts: dict[str, int] = {}
    for part in sample.split(",") if sample is not None else []:
        split, _, number = part.rpartition("=")
        lowest = 0 if split == "seed" else 1
        if not split or not re.fullmatch(r"[0-9]{1,18}", number) or int(number) < lowest or split in counts:
            raise RequestError(
                f"--sample {sample}: expected train=N,test=M, with numbers from 1, and seed=S for another draw"
            )
        counts[split] = int(number)
    seed = counts.pop("seed", 0)
    if sample is not None and not counts:
        raise RequestError(f"--sample {sample}: a seed alone draws nothing; expected train=N,test=M,seed=S")
    return counts, seed


def parse_bytes(memory: str | None) -> int | None:
    """Returns `8G`, `500M` as bytes (powers of 1,024)."""
    if memory is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([MGT])B?", memory.strip().upper())
    if found is None or int(found[1]) == 0:
        raise RequestError(f"--memory {memory}: expected a number of megabytes, gigabytes or terabytes, as 500M or 8G")
    return int(found[1]) << {"M": 20, "G": 30, "T": 40}[found[2]]


def parse_devices(devices: str | None) -> list[str]:
    """Returns `0,1` and `cuda:0,cuda:1` as ["cuda:0", "cuda:1"]."""
    found = [f"cuda:{name}" if name.isdecimal() else name for name in devices.split(",")] if devices is not None else []
    for name in found:
        if not re.fullmatch(r"cpu|cuda:\d+", name):
            raise RequestError(f"--devices {devices}: expected numbers of GPUs, as 0,1; found {name!r}")
    return found


def parse_limits(limit: str | None) -> dict[str, int]:
    """Returns `N` as {"": N} and `train=N,test=M` as {"train": N, "test": M}."""
    limits = {}
    for part in limit.split(",") if limit is not None else []:
        split, equals, number = part.rpartition("=")
        if not number.isdecimal() or int(number) < 1 or (equals and not split) or split in limits:
            raise RequestError(f"--limit {limit}: expected a number from 1, or train=N,test=M")
        limits[split] = int(number)
    if "" in limits and len(limits) > 1:
        raise RequestError(f"--limit {limit}: expected one number for all splits, or one for each, not both")
    return limits


def parse_overrides(settings: list[str] | None) -> dict[str, dict[str, Any]]:
    """Returns `knn.k=10,20` as {"knn": {"k": [10, 20]}}."""
    from massl_bench.specs.toml import parse_setting

    overrides: dict[str, dict[str, Any]] = {}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        task, dot, name = key.partition(".")
        if not (equals and dot and task and name and text):
            raise RequestError(f"--set {setting}: expected TASK.PARAMETER=VALUE, as in knn.k=10,20")
        overrides.setdefault(task, {})[name] = parse_setting(text)
    return overrides


def parse_splits(split: str | None) -> dict[str, str]:
    """Returns `train=NAME,test=NAME` as a dictionary."""
    sources: dict[str, str] = {}
    for part in split.split(",") if split is not None else []:
        role, _, source = part.partition("=")
        if not role or not source or role in sources:
            raise RequestError(f"--split {split}: expected train=NAME,test=NAME")
        sources[role] = source
    return sources
