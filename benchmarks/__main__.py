"""Runs benchmarks by name.

python -m benchmarks                     # what there is
python -m benchmarks knn linear --quick
python -m benchmarks all --json benchmarks/records/laptop.json
python -m benchmarks page FILE.json > docs/performance.md
python -m benchmarks scaling > docs/scaling.md
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from tabulate import tabulate

from benchmarks import scaling
from benchmarks.measure import Bar, Comparison, machine


def modules() -> dict[str, ModuleType]:
    """Returns the benchmarks by name: every module of this package that has a `SUMMARY`."""
    package = Path(__file__).parent
    names = [module.name for module in pkgutil.iter_modules([str(package)]) if not module.name.startswith("_")]
    found = {name: importlib.import_module(f"benchmarks.{name}") for name in sorted(names)}
    return {name: module for name, module in found.items() if hasattr(module, "SUMMARY")}


def table(comparisons: list[Comparison], quick: bool) -> str:
    """Returns the rows of each call, ours first, and below them the bars (of the full sizes only) and the notes."""
    parts = []
    for each in comparisons:
        rows = [
            [
                name,
                f"{times.median:.3f}",
                f"± {50 * times.spread:.0f} %",
                f"{each.ratio(name):.2f}",
                f"{each.peak_mb[name]:,.0f}" if name in each.peak_mb else "",
            ]
            for name, times in each.times.items()
        ]
        header = [each.what, "median s", "spread", "× ours", "peak MB"]
        bars = [
            f"{'kept  ' if each.kept(bar) else 'MISSED'}  {_in_words(bar)}: {each.measured(bar):.2f}"
            for bar in each.bars
            if not quick
        ]
        parts.append("\n".join([tabulate(rows, header, disable_numparse=True), *bars, *each.notes]))
    return "\n\n".join(parts)


def _in_words(bar: Bar) -> str:
    if bar.kind == "faster":
        return f"at least {bar.ratio} × as fast as {bar.call}"
    return f"at most {bar.ratio} × the time of {bar.call}"


def page(files: list[Path]) -> str:
    """Returns the page of the measurements in `files`, each with its machine and date."""
    lines = [
        "# Performance",
        "",
        "Written by `python -m benchmarks page`; every figure is from one run, in which the calls took turns.",
        "`× ours` above 1: this project is faster.",
    ]
    for file in files:
        record = json.loads(file.read_text(encoding="utf-8"))
        where = record["machine"]
        device = where["gpu"] or f"{where['processor']}, {where['threads']} threads"
        lines += ["", f"## {device}", "", f"{record['date']}, torch {where['torch']}, `{record['command']}`"]
        for name, comparisons in record["benchmarks"].items():
            for each in comparisons:
                rows = [
                    [
                        call,
                        f"{statistics.median(times['seconds']):.3f}",
                        f"{each['ratios'][call]:.2f}" if call in each["ratios"] else "",
                        f"{each['peak_mb'][call]:,.0f}" if call in each["peak_mb"] else "",
                    ]
                    for call, times in each["times"].items()
                ]
                header = [f"`{name}`: {each['what']}", "median s", "× ours", "peak MB"]
                lines += ["", tabulate(rows, header, tablefmt="github", disable_numparse=True)]
                lines += ["", *(f"- {note}" for note in each["notes"])] if each["notes"] else []
    return "\n".join(lines) + "\n"


def main() -> int:
    """Returns 0, or 1 where a bar was missed (`--quick` judges none)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="benchmarks, `all`, or `page FILE…`")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether everything runs, not how fast")
    parser.add_argument("--json", type=Path, help="also write everything there")
    options = parser.parse_args()
    if options.names[:1] == ["page"]:
        sys.stdout.write(page([Path(name) for name in options.names[1:]]))
        return 0
    if options.names == ["scaling"]:
        sys.stdout.write(scaling.page())
        return 0
    there = modules()
    if not options.names:
        print(tabulate([[name, module.SUMMARY] for name, module in there.items()], tablefmt="plain"))
        return 0
    names = list(there) if options.names == ["all"] else options.names
    unknown = [name for name in names if name not in there]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(there)}")
    measured: dict[str, list[Comparison]] = {}
    for name in names:
        measured[name] = there[name].run(options.quick)
        print(f"\n{table(measured[name], options.quick)}", flush=True)
        if options.json is not None:  # after each, so that what was measured is kept
            record = {
                "date": datetime.now(UTC).date().isoformat(),
                "command": f"python -m benchmarks {' '.join(options.names)}{' --quick' if options.quick else ''}",
                "machine": machine(),
                "benchmarks": {key: [each.as_json() for each in value] for key, value in measured.items()},
            }
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(
        not options.quick
        and any(not each.kept(bar) for value in measured.values() for each in value for bar in each.bars)
    )


if __name__ == "__main__":
    sys.exit(main())
