"""`massl-bench verify`: records computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from massl_bench.cli.options import CacheDir, DataRoot, IncludePath, Offline, WeightsDir, cache_directory, open_registry


def verify(
    results: Annotated[list[Path], typer.Argument(help="Result records.")],
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    cached: Annotated[
        bool, typer.Option("--cached", help="Take features from the cache where they are there.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Compute records again, from the images, and compare identity and every metric. Exit 1 where one differs."""
    from massl_bench.datasets import DataOptions
    from massl_bench.progress import reporting
    from massl_bench.results import read_record
    from massl_bench.verification import verify as recompute

    registry = open_registry(include_path, weights_dir)
    data = DataOptions(cache_dir=cache_directory(cache_dir), data_root=data_root, offline=offline)
    records = [(path, read_record(path)) for path in results]
    failed = False
    for path, record in records:
        verdict = recompute(record, registry, data, device=device, use_cached_features=cached, reporting=reporting())
        differences = [*verdict.identity_differences, *verdict.metric_differences]
        failed |= bool(differences)
        print(f"{path}: {'differs' if differences else 'reproduced exactly'}")
        for difference in differences:
            print(f"  {difference}")
    if failed:
        raise typer.Exit(1)
