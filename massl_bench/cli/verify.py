"""`massl-bench verify`: records computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from massl_bench.cli.options import (
    CacheDir,
    DataRoot,
    IncludePath,
    Json,
    Offline,
    WeightsDir,
    cache_directory,
    open_registry,
)
from massl_bench.cli.output import print_json


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
    as_json: Json = False,
) -> None:
    """Compute records again, from the images, and compare.

    Identity and every metric must be the same: exit 1 where one differs.

    --json prints a list of {path, reproduced, identity_differences, metric_differences}.
    """
    from massl_bench.bench.progress import reporting
    from massl_bench.bench.verification import verify as recompute
    from massl_bench.datasets import DataOptions
    from massl_bench.records.record import read_record

    registry = open_registry(include_path, weights_dir)
    data = DataOptions(cache_dir=cache_directory(cache_dir), data_root=data_root, offline=offline)
    records = [(path, read_record(path)) for path in results]
    verdicts = []
    for path, record in records:
        verdict = recompute(record, registry, data, device=device, use_cached_features=cached, reporting=reporting())
        differences = [*verdict.identity_differences, *verdict.metric_differences]
        verdicts.append({"path": path, "reproduced": not differences, **vars(verdict)})
        if not as_json:
            print(f"{path}: {'differs' if differences else 'reproduced exactly'}")
            for difference in differences:
                print(f"  {difference}")
    if as_json:
        print_json(verdicts)
    if not all(verdict["reproduced"] for verdict in verdicts):
        raise typer.Exit(1)
