"""`massl-bench verify`: records computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from massl_bench.cli.options import (
    CacheDir,
    DataRoot,
    Devices,
    IncludePath,
    Json,
    Offline,
    Processes,
    WeightsDir,
    cache_directory,
    open_registry,
    parse_devices,
)
from massl_bench.cli.output import print_json
from massl_bench.core.terminal import show


def verify(
    results: Annotated[list[Path], typer.Argument(help="Result records.")],
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    devices: Devices = None,
    processes: Processes = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="Take features from the cache where they are there.")
    ] = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Compute records again, from the images, and compare.

    Identity and every metric must be the same: exit 1 where one differs.

    The fingerprint of the encoder's features comes first, in seconds. What is named first explains the rest: weights,
    preprocessing, architecture, versions, task, data, features, number.

    A published value of the same weights is shown beside ours, with what to look at where they are far apart.

    --json prints a list of {path, reproduced, identity_differences, metric_differences}, of what differs
    {first_difference, version_differences}, and {fingerprint_differences} and {published} where there are such.
    """
    from massl_bench.bench.progress import reporting
    from massl_bench.bench.verification import verify as recompute
    from massl_bench.datasets import DataOptions
    from massl_bench.records.published import LedgerLine, claims, of_claim
    from massl_bench.records.reading import read_record

    registry = open_registry(include_path, weights_dir)
    data = DataOptions(cache_dir=cache_directory(cache_dir), data_root=data_root, offline=offline)
    records = [(path, read_record(path)) for path in results]
    known = claims(registry)
    verdicts = []
    for path, record in records:
        verdict = recompute(
            record,
            registry,
            data,
            device=device,
            devices=parse_devices(devices),
            processes=processes,
            use_cached_features=cached,
            reporting=reporting(),
        )
        first = verdict.first_difference
        shown: dict[str, Any] = {
            "path": path,
            "reproduced": verdict.reproduced,
            "identity_differences": verdict.identity_differences,
            "metric_differences": verdict.metric_differences,
        }
        if first is not None:
            shown |= {"first_difference": first, "version_differences": verdict.version_differences}
        if verdict.fingerprint_differences:
            shown["fingerprint_differences"] = verdict.fingerprint_differences
        lines = [LedgerLine(claim=claim, record=record) for claim in known if of_claim(claim, [record])]
        if lines:
            shown["published"] = [line.as_values() for line in lines]
        verdicts.append(shown)
        if not as_json:
            show(f"{path}: {f'differs, first in its {first}' if first is not None else 'reproduced exactly'}")
            if first is not None:
                unlike = [*verdict.explanations, *verdict.metric_differences]
            else:
                unlike = list(verdict.fingerprint_differences)
            for difference in unlike:
                show(f"  {difference}")
            for line in lines:
                show(f"  {line.claim.value.metric}: {line.sentence()}")
    if as_json:
        print_json(verdicts)
    if not all(verdict["reproduced"] for verdict in verdicts):
        raise typer.Exit(1)
