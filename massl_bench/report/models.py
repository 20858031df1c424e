"""The page of a few models: values over k, shots, cells and sizes, the worst classes, and how they were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.files import parse_json, read_regular
from massl_bench.core.galleries import Gallery, Look
from massl_bench.records.outcomes import OutcomesOf
from massl_bench.records.record import ResultRecord
from massl_bench.records.rows import Row
from massl_bench.report import html
from massl_bench.report.confusion import confusions
from massl_bench.report.looks import shown_gallery, shown_look
from massl_bench.report.pictures import Picture, Point, bars, check_there, colours_of, curves, parallel, scatter

_WORST = 15
_TRAINING = {
    "loss": "loss",
    "knn": "online k-NN, held-out training images",
    "lr": "learning rate",
    "teacher_temp": "temperature of the teacher",
    "entropy_of_mean": "entropy of the mean assignment",
    "rankme": "RankMe of a batch",
}
"""Keys of a pretraining log that are shown."""


def models_page(
    models: Mapping[str, Sequence[Row]],
    logs: Mapping[str, Path],
    looks: Mapping[str, Sequence[Look]] = MappingProxyType({}),
    views: Mapping[str, Gallery] = MappingProxyType({}),
) -> str:
    """Returns the page.

    Args:
        models: the current records of each model, by its name.
        logs: the pretraining logs that are there, by model.
        looks: what there is to see of a model's features and images.
        views: images of a pretraining with the views that are cut of them, by model.

    Raises:
        RequestError: matplotlib is not installed, or a log is none.
    """
    check_there()
    colours = colours_of(list(models))
    sections = [
        ("Over the cells", "Fractions, in percent, of the cells that were measured.", _cells(models, colours)),
        (
            "Against the size",
            "Values over the number of parameters.",
            _against(models, colours, "million parameters", _size),
        ),
        (
            "Against the time",
            "Values over the time of an image, of records whose images went through the model when "
            "they were measured: reading, decoding and the network, on the machine that the record names.",
            _against(models, colours, "milliseconds an image", _milliseconds),
        ),
        ("Over k, and over the images a class", "Bars are 95 % intervals.", _by_parameter(models, colours)),
        (
            "Selection of the strength",
            "What each strength C reached on the data held out for its choice.",
            _selection(models, colours),
        ),
        ("Classes", "The classes that come out worst, from what each test item got.", _classes(models, colours)),
        (
            "Confusions",
            "Percent of the test items of a class (row) that were given a class (column).",
            confusions(models, colours),
        ),
        (
            "Spectrum of the features",
            "The share of the variance that each principal axis holds; a feature that uses "
            "few of its dimensions falls early.",
            _spectra(looks, colours),
        ),
        ("Pretraining", "From the logs beside the weights.", _training(logs, colours)),
    ]
    facts = [(name, _facts(rows)) for name, rows in models.items()]
    shown = [(title, text, pictures) for title, text, pictures in sections if pictures]
    return html.render(
        "models.html",
        models=list(models),
        facts=facts,
        sections=shown,
        looks=[shown_look(name, look) for name, own in looks.items() for look in own],
        views=[(name, shown_gallery(gallery)) for name, gallery in views.items()],
        num_images=sum(look.num_images for own in looks.values() for look in own)
        + sum(gallery.num_images for gallery in views.values()),
    )


def _facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    record = max(rows, key=lambda row: row.record.created_at).record
    model, facts = record.identity.model, record.model_facts
    size = f"{facts.num_parameters / 1e6:.2f} M" if facts.num_parameters else None
    epochs = str(facts.epochs) if facts.epochs is not None else None
    pairs = [
        ("Method", facts.method),
        ("Architecture", model.architecture),
        ("Feature", f"{model.pooling}, {model.embed_dim} numbers"),
        ("Parameters", size),
        ("Epochs", epochs),
        ("Weights", record.weights_origin),
        ("sha256", model.weights_sha256),
        ("Cells measured", str(len(rows))),
    ]
    return [(key, value) for key, value in pairs if value]


def _cells(models: Mapping[str, Sequence[Row]], colours: Mapping[str, str]) -> list[Picture]:
    """Returns the values of every model over the cells that are fractions, where there are three or more."""
    rows = {name: {row.cell: row for row in own if row.record.headline_scale == 100} for name, own in models.items()}
    cells = sorted({cell for own in rows.values() for cell in own})
    if len(cells) < 3:
        return []
    series = {
        name: [100 * own[cell].shown.value if cell in own else None for cell in cells] for name, own in rows.items()
    }
    return [parallel("Every cell", [" ".join(cell) for cell in cells], series, colours)]


def _against(
    models: Mapping[str, Sequence[Row]],
    colours: Mapping[str, str],
    axis: str,
    what: Callable[[ResultRecord], float | None],
) -> list[Picture]:
    """Returns the values over something of the record, for each cell with two models or more of which it is known."""
    found: dict[tuple[str, str], dict[str, Point]] = {}
    for name, rows in models.items():
        for row in rows:
            x = what(row.record)
            if x and row.record.headline_scale == 100:
                ends = row.shown.ci95 or (None, None)
                low, high = (100 * end if end is not None else None for end in ends)
                found.setdefault(row.cell, {})[name] = Point(x=x, y=100 * row.shown.value, low=low, high=high)
    return [
        scatter(" ".join(cell), points, colours, axis, "%")
        for cell, points in sorted(found.items())
        if len({point.x for point in points.values()}) > 1
    ]


def _size(record: ResultRecord) -> float | None:
    size = record.model_facts.num_parameters
    return size / 1e6 if size else None


def _milliseconds(record: ResultRecord) -> float | None:
    """Returns the time of an image; None where features came from the cache, in part or all, or others with them."""
    images = record.num_extracted
    whole = images is not None and images >= sum(record.num_items.values()) > 0 and not record.extracted_along
    return 1000 * record.timings.extract / images if whole and images else None


def _selection(models: Mapping[str, Sequence[Row]], colours: Mapping[str, str]) -> list[Picture]:
    found: dict[tuple[tuple[str, str], str, str], dict[str, list[Point]]] = {}
    for name, rows in models.items():
        for row in rows:
            scale = row.record.headline_scale
            on = "the test images" if row.record.selection_split == "test" else "what was held out"
            pairs = sorted((float(value), reached) for value, reached in row.record.selection_curve.items())
            what = "learning rate" if "lr" in row.record.identity.task.params else "C"
            if len(pairs) > 1:
                found.setdefault((row.cell, what, on), {})[name] = [Point(x=x, y=scale * value) for x, value in pairs]
    return [
        curves(" ".join(cell), series, colours, what, f"% of {on}", log=True)
        for (cell, what, on), series in sorted(found.items())
    ]


def _spectra(looks: Mapping[str, Sequence[Look]], colours: Mapping[str, str]) -> list[Picture]:
    found: dict[str, dict[str, list[Point]]] = {}
    for name, own in looks.items():
        for look in own:
            points = [Point(x=place, y=share) for place, share in enumerate(look.spectrum, 1) if share > 1e-12]
            if len(points) > 1:
                found.setdefault(look.dataset, {})[name] = points
    return [
        curves(dataset, series, colours, "principal axis", "share of the variance", log=True, log_y=True)
        for dataset, series in sorted(found.items())
    ]


def _by_parameter(models: Mapping[str, Sequence[Row]], colours: Mapping[str, str]) -> list[Picture]:
    """Returns the headline metric over its parameter, for each cell where it has several: k, images a class."""
    found: dict[tuple[tuple[str, str], str, str], dict[str, list[Point]]] = {}
    for name, rows in models.items():
        for row in rows:
            metric, _, _ = row.metric.partition("@")
            for what, points in _points(row.record, metric).items():
                found.setdefault((row.cell, metric, what), {})[name] = points
    return [
        curves(" ".join(cell), series, colours, what, f"{metric}, %", log=what != "block")
        for (cell, metric, what), series in sorted(found.items())
    ]


_OVER = {"s": "images a class", "b": "block"}
"""What the number of a metric's parameter counts, by the letter before it; without one it counts neighbours."""


def _points(record: ResultRecord, metric: str) -> dict[str, list[Point]]:
    """Returns the values of a metric by what its parameter is, where there are several: `top1@20`, `top1@s16`."""
    found: dict[str, list[Point]] = {}
    for name, value in record.metrics.items():
        own, at, parameter = name.partition("@")
        number, scale = parameter.lstrip("".join(_OVER)), record.headline_scale
        if own == metric and at and number.isdecimal():
            low, high = (scale * end for end in value.ci95) if value.ci95 is not None else (None, None)
            point = Point(x=int(number), y=scale * value.value, low=low, high=high)
            found.setdefault(_OVER.get(parameter[0], "k"), []).append(point)
    return {what: sorted(points, key=lambda point: point.x) for what, points in found.items() if len(points) > 1}


def _classes(models: Mapping[str, Sequence[Row]], colours: Mapping[str, str]) -> list[Picture]:
    """Returns the classes that are worst in the mean of the models, for each cell whose records have items."""
    outcomes = OutcomesOf()
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for name, rows in models.items():
        for row in rows:
            kept = outcomes.of(row)
            if kept is not None and len(kept.classes) > 1:
                found.setdefault(row.cell, {})[name] = {label: 100 * part for label, part, _ in kept.classes}
    pictures = []
    for cell, series in sorted(found.items()):
        shared = sorted(set.intersection(*(set(own) for own in series.values())))
        worst = sorted(shared, key=lambda label: sum(own[label] for own in series.values()))[:_WORST]
        if worst:
            values = {name: [own[label] for label in worst] for name, own in series.items()}
            pictures.append(bars(" ".join(cell), worst, values, colours, "%"))
    return pictures


def _training(logs: Mapping[str, Path], colours: Mapping[str, str]) -> list[Picture]:
    entries = {name: _log(path) for name, path in logs.items()}
    pictures = []
    for key, title in _TRAINING.items():
        series = {
            name: [Point(x=line["step"], y=line[key]) for line in lines if isinstance(line.get(key), int | float)]
            for name, lines in entries.items()
        }
        series = {name: points for name, points in series.items() if len(points) > 1}
        if series:
            pictures.append(curves(title, series, colours, "step", title))
    return pictures


def _log(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log that have a step; the last one may be cut off, as after a kill.

    Raises:
        RequestError: Another line is no JSON.
    """
    lines = []
    texts = read_regular(path).decode("utf-8", errors="replace").splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text)
        except ValueError:
            if number == len(texts):
                break
            raise RequestError(f"{path}: line {number}: not JSON: the log was damaged") from None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
