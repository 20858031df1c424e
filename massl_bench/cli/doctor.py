"""`massl-bench doctor`: what works on this machine."""

from __future__ import annotations

from pathlib import Path

import typer

from massl_bench.cli.options import (
    CacheDir,
    DataRoot,
    IncludePath,
    Json,
    ResultsDir,
    WeightsDir,
    cache_directory,
    open_registry,
)
from massl_bench.cli.output import print_json
from massl_bench.core.terminal import show


def doctor(
    data_root: DataRoot = None,
    cache_dir: CacheDir = None,
    results_dir: ResultsDir = Path("results"),
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    as_json: Json = False,
) -> None:
    """Say what works here, what is missing, and how to get it."""
    from massl_bench.bench.doctor import examine

    findings = examine(cache_directory(cache_dir), results_dir, data_root, open_registry(include_path, weights_dir))
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            show(
                f"{'ok  ' if finding.ok else 'MISS' if finding.optional else 'BAD '} {finding.subject}: {finding.text}"
            )
    if any(not finding.ok and not finding.optional for finding in findings):
        raise typer.Exit(1)
