"""Charts as SVG, the same bytes for the same numbers; drawn by matplotlib, which is an extra."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from numpy.typing import NDArray

_NUMBERED = 12
"""Classes of a matrix whose numbers have room."""
_MARKED = 10
"""Points of an axis that are each marked."""
_FAR = 3
"""Ratio of the largest to the smallest from which an axis is logarithmic."""
_INK = "#7d8590"
"""Readable on light and on dark."""
_COLOURS = ("#1b9e9e", "#d9782d", "#7570b3", "#d6408f", "#66a61e", "#b8860b", "#8c6d46", "#6a7f94")
_RC: dict[Any, Any] = {
    "svg.hashsalt": "massl-bench",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.2,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value with what it may vary by.

    Attributes:
        x: where it stands.
        y: the value.
        low: lower end of its interval, or None.
        high: upper end.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart.

    Attributes:
        title: what it shows.
        source: the address of the image: the image itself.
        text: the numbers in words, for those who do not see it.
        wide: whether it needs a line of the page.
    """

    title: str
    source: str
    text: str
    wide: bool = False


def check_there() -> None:
    """Raises `RequestError` where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        raise RequestError(
            "charts need matplotlib, which is not installed: pip install 'massl-bench[report]'"
        ) from None


def colours_of(names: Sequence[str]) -> Mapping[str, str]:
    """Returns a colour for each name; of more than eight some share one."""
    return {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}


def curves(
    title: str,
    series: Mapping[str, Sequence[Point]],
    colours: Mapping[str, str],
    x: str,
    y: str,
    *,
    log: bool = False,
    log_y: bool = False,
) -> Picture:
    """Returns a chart of one line a model, with bars where values have intervals.

    Args:
        title: of the chart.
        series: points by name, by rising x.
        colours: of each name, the same in every chart of a page (`colours_of`).
        x: what the horizontal axis shows.
        y: what the vertical one shows.
        log: whether the horizontal axis is logarithmic, and then, for few points, has a mark at each.
        log_y: whether the vertical axis is logarithmic.
    """

    def draw(axes: Axes) -> None:
        for name, points in series.items():
            xs, ys = [point.x for point in points], [point.y for point in points]
            colour = colours[name]
            axes.plot(xs, ys, color=colour, marker="o" if len(points) < 30 else None, markersize=4, label=_name(name))
            for point in points:
                if point.low is not None and point.high is not None:
                    axes.plot([point.x, point.x], [point.low, point.high], color=colour, alpha=0.6)
        if log:
            axes.set_xscale("log")
            _plain_numbers(axes.xaxis)
        if log_y:
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis)
        ticks = sorted({point.x for points in series.values() for point in points})
        if log and len(ticks) <= _MARKED:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(axes, colours)

    words = [f"{name}: {', '.join(f'{p.x:g}: {p.y:.2f}' for p in points[:12])}" for name, points in series.items()]
    return _picture(title, draw, words)


def scatter(title: str, points: Mapping[str, Point], colours: Mapping[str, str], x: str, y: str) -> Picture:
    """Returns a chart of one named point a model, the horizontal axis logarithmic where they lie far apart."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator

        for name, point in points.items():
            colour = colours[name]
            if point.low is not None and point.high is not None:
                axes.plot([point.x, point.x], [point.low, point.high], color=colour, alpha=0.6)
            axes.plot([point.x], [point.y], "o", color=colour, label=_name(name))
        places = [point.x for point in points.values()]
        if max(places) > _FAR * min(places) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            _plain_numbers(axes.xaxis)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(axes, colours)

    return _picture(title, draw, [f"{name}: {point.y:.2f} at {point.x:g}" for name, point in points.items()])


def parallel(
    title: str, columns: Sequence[str], series: Mapping[str, Sequence[float | None]], colours: Mapping[str, str]
) -> Picture:
    """Returns a chart of one line a model over cells; a cell that is missing interrupts it."""

    def draw(axes: Axes) -> None:
        for name, values in series.items():
            shown = [value if value is not None else float("nan") for value in values]
            axes.plot(range(len(columns)), shown, marker="o", color=colours[name], label=_name(name))
        axes.set_xticks(range(len(columns)), [_name(column) for column in columns], rotation=30, ha="right")
        axes.set_ylabel("%")
        _legend(axes, colours)

    words = [
        f"{name}: {', '.join(f'{c} {v:.2f}' for c, v in zip(columns, values, strict=True) if v is not None)}"
        for name, values in series.items()
    ]
    return replace(_picture(title, draw, words, width=min(12.0, max(6.4, 0.65 * len(columns)))), wide=True)


def matrix(title: str, names: Sequence[str], values_CC: NDArray[np.float64], x: str, y: str) -> Picture:
    """Returns a square of percentages, the rows adding up to 100; with its numbers where they have room."""
    count = len(names)
    side = max(3.4, min(9.0, 1.6 + 0.3 * count))

    def draw(axes: Axes) -> None:
        shown = axes.imshow(values_CC, cmap="cividis", vmin=0, vmax=100)
        axes.grid(visible=False)
        axes.set_xticks(range(count), [_name(name) for name in names], rotation=90)
        axes.set_yticks(range(count), [_name(name) for name in names])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if count <= _NUMBERED:
            for row, column in np.ndindex(count, count):
                value = values_CC[row, column]
                ink = "black" if value > 55 else "white"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=7)
        else:
            assert axes.figure is not None
            axes.figure.colorbar(shown, ax=axes, shrink=0.7, label="% of a class")

    wrong = sorted(
        ((float(values_CC[a, b]), names[a], names[b]) for a, b in np.ndindex(count, count) if a != b), reverse=True
    )
    words = [f"{one} taken for {other}: {value:.1f} %" for value, one, other in wrong[:10] if value > 0]
    return _picture(title, draw, words or ["nothing is confused"], width=side, height=side)


def bars(
    title: str, names: Sequence[str], series: Mapping[str, Sequence[float]], colours: Mapping[str, str], x: str
) -> Picture:
    """Returns a chart of horizontal bars, a group for each name, the first on top."""

    def draw(axes: Axes) -> None:
        height = 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            places = [row + (number - (len(series) - 1) / 2) * height for row in range(len(names))]
            axes.barh(places, values, height=height, color=colours[name], label=_name(name))
        axes.set_yticks(range(len(names)), [_name(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel(x)
        _legend(axes, colours)

    words = [
        f"{model}: {', '.join(f'{name} {value:.1f}' for name, value in zip(names, values, strict=True))}"
        for model, values in series.items()
    ]
    return _picture(title, draw, words, height=0.9 + 0.24 * len(names) * max(1, len(series) ** 0.5))


def _legend(axes: Axes, colours: Mapping[str, str]) -> None:
    """Names the colours above the chart, where they hide nothing; a page of one model needs no names."""
    if len(colours) > 1:
        assert axes.figure is not None
        axes.figure.legend(loc="outside upper left", ncols=2)


def _plain_numbers(axis: Axis) -> None:
    """Gives a logarithmic axis plain numbers: matplotlib's own are commands of TeX."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")


def _name(text: str) -> str:
    """Returns a name that is short enough, and no command of a legend (a leading underscore hides an entry)."""
    text = printable(text)
    text = text if len(text) <= 32 else f"{text[:20]}…{text[-11:]}"
    return f"\u200c{text}" if text.startswith("_") else text


def _picture(
    title: str, draw: Callable[[Axes], None], words: Sequence[str], width: float = 4.6, height: float = 3.0
) -> Picture:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(title=title, source=f"data:image/svg+xml;base64,{encoded}", text="; ".join(words))
