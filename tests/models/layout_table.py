"""The table of layouts in docs/weights.md, from the adapters: `python -m tests.models.layout_table` writes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from massl_bench.core.settings import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from massl_bench.models.adapter import Adapter, Network
from massl_bench.models.adapters import adapters
from massl_bench.models.checkpoints import describe_content
from massl_bench.models.files import open_content
from massl_bench.models.networks.features import WORDS
from tests.models.layouts import layouts

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
START, END = "| adapter | whose files |", "\n\n"
HEAD = f"{START} taken (twins, on request) | feature | fed | read in |\n|---|---|---|---|---|---|"


def table() -> str:
    """Returns the table: a row for each adapter, by its layouts' files."""
    return "\n".join([HEAD, *(_row(adapter) for _, adapter in sorted(adapters().items()))])


def _row(adapter: Adapter) -> str:
    taken, features, fed = ({} for _ in range(3))  # type: ignore[var-annotated]  # as ordered sets
    for layout in layouts().values():
        if layout.adapter == adapter.name:
            with tempfile.TemporaryDirectory() as folder:
                made = layout.make(Path(folder))
                content = open_content(made.path)
                described = describe_content(content, made.settings, "x")
            first, *twins = adapter.sets(content)
            names = ", ".join(f"`{twin.name}`" for twin in twins)
            taken[f"`{first.name}`" + (f" ({names})" if names else "")] = None
            features[_feature(described.network)] = None
            fed[_fed(described.network.preprocessing)] = None
    cells = ["; ".join(cell) for cell in (taken, features, fed)] if taken else ["refused by name", "", ""]
    return f"| `{adapter.name}` | {adapter.summary} | {' | '.join(cells)} | {adapter.read_in} |"


def _feature(network: Network) -> str:
    feature = network.feature or network.own_feature
    if network.feature is None and not network.architecture.startswith(("vit", "xcit", "eva")):
        return "pooled map"
    return WORDS[feature] if feature is not None else "what the network itself returns"


def _fed(preprocessing: Preprocessing) -> str:
    how = "squashed" if preprocessing.resize_mode == "squash" else "short side and centre crop"
    usual = (preprocessing.mean, preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    unit = (preprocessing.mean, preprocessing.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    whose = "ImageNet's mean" if usual else "values in [0, 1]" if unit else "a mean or deviation of its own"
    return f"{how}, {preprocessing.interpolation}, {whose}"


if __name__ == "__main__":
    page = PAGE.read_text()
    start = page.index(START)
    PAGE.write_text(page[:start] + table() + page[page.index(END, start) :])
