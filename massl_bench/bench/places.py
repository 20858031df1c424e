"""Where a call from Python looks: the registry with directories of the user's, and the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from massl_bench.core.files import default_cache_dir
from massl_bench.datasets import MAX_PIXELS, Columns, DataOptions
from massl_bench.specs.registry import Registry


def registry_with(include_path: Sequence[str | Path]) -> Registry:
    """Returns the registry with the user's directories, and with the manifests in `./weights`."""
    return Registry(include=[Path(each) for each in include_path], weights_dir=Path("weights"))


def cache_path(cache_dir: str | Path | None) -> Path:
    """Returns the directory that was given, or the user's cache directory."""
    return Path(cache_dir) if cache_dir is not None else default_cache_dir()


def data_options(
    *,
    cache_dir: str | Path | None,
    data_root: str | Path | None,
    offline: bool,
    image_column: str | None = None,
    label_column: str | None = None,
    splits: Mapping[str, str] | None = None,
    config: str | None = None,
    split_share: float | None = None,
    sample: Mapping[str, int] | None = None,
    sample_seed: int = 0,
    max_pixels: int | None = None,
) -> DataOptions:
    """Returns where datasets are looked for, and how those without a spec are read; raises as `DataOptions`."""
    return DataOptions(
        cache_dir=cache_path(cache_dir),
        data_root=Path(data_root) if data_root is not None else None,
        offline=offline,
        columns=Columns(image_column, label_column),
        splits=dict(splits or {}),
        config=config,
        split_share=split_share,
        sample=dict(sample or {}),
        sample_seed=sample_seed,
        max_pixels=max_pixels if max_pixels is not None else MAX_PIXELS,
    )
