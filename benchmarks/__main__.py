"""Runs benchmarks by name.

python -m benchmarks                     # what there is
python -m benchmarks knn linear --quick
python -m benchmarks all --json benchmarks/records/laptop.json   # all but gpu
python -m benchmarks gpu --json benchmarks/records/card.json
python -m benchmarks page benchmarks/records/*.json > docs/performance.md
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
from typing import Any

from tabulate import tabulate

from benchmarks import gpu, measure, scaling
from benchmarks.measure import Comparison, machine


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
        bars = [f"{'kept  ' if kept else 'MISSED'}  {bar}" for bar, kept in each.judged() if not quick]
        parts.append("\n".join([tabulate(rows, header, disable_numparse=True), *bars, *each.notes]))
    return "\n\n".join(parts)


def page(files: list[Path]) -> str:
    """Returns the page of the measurements in `files`, those of CPUs first, each with its machine and date."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    records = [record for record in found if "benchmarks" in record]
    lines = [
        "# Performance",
        "",
        "Written by `python -m benchmarks page` from `benchmarks/records`. In a table the calls took turns in one run,",
        "on the same data and threads; `× ours` above 1 means that this project is faster. The bars are those that the",
        "project sets itself; one that is missed is shown. `python -m benchmarks all` repeats it on another machine.",
    ]
    for record in sorted(records, key=lambda record: (record["machine"]["gpu"] is not None, record["date"])):
        where = record["machine"]
        device = where["gpu"] or f"{where['processor']}, {where['threads']} threads"
        kind = "GPU" if where["gpu"] else "CPU"
        small = ", small sizes only" if record.get("quick") else ""
        clock = ", in CPU seconds, as the machine did other work too" if record.get("clock") == "CPU seconds" else ""
        lines += ["", f"## {kind}: {device}", "", f"{record['date']}, torch {where['torch']}{small}{clock}"]
        for name, comparisons in sorted(record["benchmarks"].items()):
            for each in comparisons:
                lines += ["", *_section(name, each)]
    for kind, command in (("CPU", "all"), ("GPU", "gpu")):
        if not any((record["machine"]["gpu"] is not None) == (kind == "GPU") for record in records):
            lines += ["", f"## {kind}", "", f"Nothing is on record yet; `python -m benchmarks {command}` measures."]
    return "\n".join(lines) + "\n"


def _section(name: str, measured: dict[str, Any]) -> list[str]:
    """Returns the table of one comparison, its bars and its notes."""
    rows = []
    for call, times in measured["times"].items():
        seconds = times["seconds"]
        middle = statistics.median(seconds)
        spread = f"± {50 * (max(seconds) - min(seconds)) / middle:.0f} %" if len(seconds) > 1 else ""
        ratio = f"{measured['ratios'][call]:.2f}" if call in measured["ratios"] else ""
        peak = f"{measured['peak_mb'][call]:,.0f}" if call in measured["peak_mb"] else ""
        rows.append([call, f"{middle:.3g}", spread, ratio, peak])
    header = [f"`{name}`: {measured['what']}", "median s", "spread", "× ours", "peak MB"]
    said = [f"- {'kept' if each['kept'] else '**missed**'}: {each['bar']}" for each in measured.get("judged", ())]
    said += [f"- {note}" for note in measured["notes"]]
    return [tabulate(rows, header, tablefmt="github", disable_numparse=True), *(["", *said] if said else [])]


def keep(file: Path, name: str, measured: list[Comparison], quick: bool) -> None:
    """Writes a benchmark to a record, beside the others of the same day and machine that are there."""
    record: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "clock": "CPU seconds" if measure.CLOCK is measure.cpu_seconds else "seconds",
        "machine": machine(),
        "benchmarks": {},
    }
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if all(before.get(key) == record[key] for key in ("date", "quick", "clock", "machine")):
            record["benchmarks"] = before["benchmarks"]
    record["benchmarks"][name] = [each.as_json() for each in measured]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Returns 0, or 1 where a bar was missed (`--quick` judges none)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="benchmarks, `all`, or `page FILE…`")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether everything runs, not how fast")
    parser.add_argument("--rounds", type=int, help="time no call more often: quicker, and less sure")
    parser.add_argument("--cpu-seconds", action="store_true", help="in place of the clock, on a busy machine")
    parser.add_argument("--seconds", type=float, help="how long all parts of `gpu` together may take")
    parser.add_argument("--json", type=Path, help="also write everything there")
    options = parser.parse_args()
    if options.names[:1] == ["page"]:
        sys.stdout.write(page([Path(name) for name in options.names[1:]]))
        return 0
    if options.names == ["scaling"]:
        sys.stdout.write(scaling.page())
        return 0
    if options.rounds is not None:
        measure.MOST_ROUNDS = max(1, options.rounds)
    if options.seconds is not None:
        gpu.SECONDS = options.seconds
    if options.cpu_seconds:
        measure.CLOCK = measure.cpu_seconds
    there = modules()
    if not options.names:
        print(tabulate([[name, module.SUMMARY] for name, module in there.items()], tablefmt="plain"))
        return 0
    names = [name for name in there if name != "gpu"] if options.names == ["all"] else options.names
    unknown = [name for name in names if name not in there]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(there)}")
    measured: dict[str, list[Comparison]] = {}
    for name in names:
        measured[name] = []
        for each in there[name].run(options.quick):
            measured[name].append(each)
            print(f"\n{table([each], options.quick)}", flush=True)
            if options.json is not None:  # after each, so that what was measured is kept
                keep(options.json, name, measured[name], options.quick)
    return int(
        not options.quick
        and any(not kept for value in measured.values() for each in value for _, kept in each.judged())
    )


if __name__ == "__main__":
    sys.exit(main())
