"""Where a call from Python looks: the registry with directories of the user's, and the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from massl_bench.core.files import default_cache_dir
from massl_bench.specs.registry import Registry


def registry_with(include_path: Sequence[str | Path]) -> Registry:
    """Returns the registry with the user's directories, and with the manifests in `./weights`."""
    return Registry(include=[Path(each) for each in include_path], weights_dir=Path("weights"))


def cache_path(cache_dir: str | Path | None) -> Path:
    """Returns the directory that was given, or the user's cache directory."""
    return Path(cache_dir) if cache_dir is not None else default_cache_dir()
