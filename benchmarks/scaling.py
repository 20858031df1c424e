"""A benchmark of many checkpoints on paper: a model that measured rates feed, and the page that it writes.

python -m benchmarks scaling > docs/scaling.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tabulate import tabulate

from benchmarks import host_rates
from benchmarks.measure import Times
from massl_bench.specs.registry import Registry

_RECORDS = Path(__file__).parent / "records"

DATASETS = (
    *("imagenet-1k", "inat2018", "voc2007", "cifar10", "cifar100", "gtsrb", "dtd", "oxford-pets", "flowers102"),
    *("fgvc-aircraft", "stanford-cars", "country211", "food101", "stl10", "eurosat", "roxford5k", "rparis6k"),
)
CHECKPOINTS, DIM, STRENGTHS = 50, 384, 45
NODE = 8
"""Cards of a node."""
RETRIEVAL_COST = 8.2
"""Of a landmark, in images of 224 × 224: 512 × 384 pixels at the scales 1, 1/√2 and 1/2 are 6.9 times as many, and the
attention between 768 patches instead of 196 makes each of them 1.2 times as dear in a ViT-S."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one card, one core and the shared file system do."""

    network: float
    """Images of 224 × 224 a second, of one card."""
    decoding: float
    """Photographs a second, of one core."""
    cores: float
    """Beside each card."""
    search: float
    """Products of two numbers a second in a search of neighbours, of one card."""
    fit: float
    """Numbers of features × classes a second, in a fit of the whole path of strengths, of one card."""
    hashing: float
    """Bytes a second, of one core."""
    file_system: float
    """Bytes a second that the shared file system gives to all nodes together."""
    image_bytes: float
    """Of a photograph."""
    price: float
    """Dollars an hour, of one card with its cores."""

    @classmethod
    def read(cls, folder: Path = _RECORDS) -> tuple[Self, list[list[str]]]:
        """Returns the rates, and the rows of a table that says where each is from."""
        host = json.loads((folder / "host_rates.json").read_text(encoding="utf-8"))
        (measured,) = host["benchmarks"]["host_rates"]
        times = {name: Times(seconds=tuple(each["seconds"])) for name, each in measured["times"].items()}
        where = f"`python -m benchmarks host_rates`, {host['date']}, {host['machine']['processor']}, spread {{:.0%}}"
        values = {
            name: (amount / times[call].median, where.format(times[call].spread))
            for name, call, amount in (
                ("decoding", "ours", float(host_rates.IMAGES)),
                ("hashing", "hashing", host_rates.ROWS * host_rates.DIM * 4.0),
            )
        }
        for name, entry in json.loads((folder / "scaling.json").read_text(encoding="utf-8")).items():
            values[name] = (float(entry["value"]), f"{entry['kind']}: {entry['from']}")
        rows = [[_WORDS[name][0], _WORDS[name][1].format(values[name][0]), values[name][1]] for name in _WORDS]
        return cls(**{name: value for name, (value, _) in values.items()}), rows


_WORDS = {
    "network": ("network, a card", "{:,.0f} images/s"),
    "decoding": ("decoding, a core", "{:,.0f} images/s"),
    "cores": ("cores beside a card", "{:,.0f}"),
    "search": ("search, a card", "{:.2e} products/s"),
    "fit": ("linear fit, a card", "{:.2e} numbers × classes/s"),
    "hashing": ("hashing, a core", "{:.2e} bytes/s"),
    "file_system": ("shared file system", "{:.2e} bytes/s"),
    "image_bytes": ("a photograph", "{:,.0f} bytes"),
    "price": ("a card with its cores", "{:.2f} $/h"),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of one checkpoint on one dataset."""

    dataset: str
    images: int
    weight: float
    """Of an image, in images of 224 × 224."""
    products: float
    """Of the search."""
    fitted: float
    """Numbers of features × classes."""


def work(registry: Registry) -> Iterator[Work]:
    """Yields what each dataset takes, by the sizes in its file: k-NN and a linear fit, or the ranking of landmarks."""
    for name in DATASETS:
        spec = registry.dataset(name)
        sizes = {role: split.size or 0 for role, split in spec.splits.items()}
        roles = ("database", "queries") if spec.kind == "retrieval" else ("train", "test")
        rows, queries = (sizes[role] for role in roles)
        yield Work(
            dataset=name,
            images=rows + queries,
            weight=RETRIEVAL_COST if spec.kind == "retrieval" else 1.0,
            products=float(rows * queries * DIM) if spec.kind != "multi-label" else 0.0,
            fitted=float(rows * DIM * (spec.num_classes or 0)),
        )


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Hours of each resource, were it alone."""

    cards: int
    hours: Mapping[str, float]
    bytes_read: float
    bytes_written: float
    price: float

    @property
    def bottleneck(self) -> str:
        """The resource that the others wait for."""
        return max(self.hours, key=lambda name: self.hours[name])

    @property
    def total(self) -> float:
        """Hours of the whole: what is hashed, then what is extracted, by the slowest of three, then the cells."""
        extraction = max(self.hours[name] for name in ("network", "decoding", "reading"))
        return self.hours["hashing the data, once"] + extraction + self.hours["evaluation"]

    @property
    def dollars(self) -> float:
        """Of all cards, for the whole time."""
        return self.total * self.cards * self.price


def simulate(cards: int, rates: Rates, registry: Registry) -> Simulated:
    """Returns what the checkpoints take on so many cards.

    Images are divided evenly, as pieces become smaller towards the end; cells are measured side by side, one a card,
    when their features are there. Every checkpoint reads every image again; the hash of the files is made once, by the
    machine that asks first.
    """
    parts = list(work(registry))
    images = sum(part.images for part in parts)
    weighted = sum(part.images * part.weight for part in parts)
    bank = images * (4 * DIM + 8 + 32)  # features, labels and names
    # Images once more for their hash; pieces, their bank, and the bank for its cells.
    read = images * rates.image_bytes * (CHECKPOINTS + 1) + CHECKPOINTS * bank * 3
    seconds = {
        "network": CHECKPOINTS * weighted / (rates.network * cards),
        "decoding": CHECKPOINTS * images / (rates.decoding * rates.cores * cards),
        "reading": read / rates.file_system,
        "evaluation": CHECKPOINTS
        * sum(part.products / rates.search + part.fitted / rates.fit for part in parts)
        / cards,
        "hashing the data, once": images * rates.image_bytes / (rates.hashing * 8),
    }
    return Simulated(
        cards=cards,
        hours={name: each / 3600 for name, each in seconds.items()},
        bytes_read=read,
        bytes_written=CHECKPOINTS * bank * 2,
        price=rates.price,
    )


def page() -> str:
    """Returns docs/scaling.md."""
    registry = Registry()
    rates, sources = Rates.read()
    simulated = [simulate(cards, rates, registry) for cards in (8, 64)]
    images = sum(part.images for part in work(registry))
    names = list(simulated[0].hours)
    head = ["", *(f"{each.cards} cards" for each in simulated)]
    rows = [
        ["**hours**", *(f"**{each.total:,.2f}**" for each in simulated)],
        *[[f"{name}, alone", *(f"{each.hours[name]:,.2f} h" for each in simulated)] for name in names],
        ["bottleneck", *(each.bottleneck for each in simulated)],
        ["bytes read", *(f"{each.bytes_read / 1e12:,.1f} TB" for each in simulated)],
        ["bytes written", *(f"{each.bytes_written / 1e9:,.0f} GB" for each in simulated)],
        ["card hours", *(f"{each.total * each.cards:,.0f}" for each in simulated)],
        ["cost", *(f"{each.dollars:,.0f} $" for each in simulated)],
    ]
    per_dataset = [
        [part.dataset, f"{part.images:,}", f"{CHECKPOINTS * part.images * part.weight / rates.network / 3600:,.2f}"]
        for part in sorted(work(registry), key=lambda part: -part.images * part.weight)
    ]

    def table(rows: list[list[str]], head: list[str]) -> str:
        return tabulate(rows, head, tablefmt="github", disable_numparse=True)

    first, last = simulated
    return f"""# Scale, on paper

{CHECKPOINTS} checkpoints of a ViT-S/16 on the {len(DATASETS)} datasets, {images:,} images each time: k-NN and
a linear fit over {STRENGTHS} strengths where there are classes, the ranking where there are landmarks. Nobody ran it:
this page is what `python -m benchmarks scaling` computes from the rates below, and a test compares the two.

{table(rows, head)}

Network, decoding and reading work at the same time, and the slowest of them is waited for; the files are hashed before
it, by the machine that asks first, and the cells are measured after it. {_conclusion(first, last)}

## Where the hours are

Of the network of one card, for all checkpoints:

{table(per_dataset, ["dataset", "images", "card hours"])}

## Rates

{table(sources, ["", "rate", "from"])}

What is assumed, you may know better: change `benchmarks/records/scaling.json`, and write the page anew.

## What the model leaves out

Starts of processes (some seconds a shard), queues, cards that stand still at the end of a dataset (less than a
batch each), compression and caches of the file system, and evaluation on augmented views, which sends every image
through the network in every epoch. Losing a node costs the pieces that it was at.
"""


def _conclusion(first: Simulated, last: Simulated) -> str:
    """Returns what the figures mean, in words."""
    gain = first.total / last.total
    text = f"{last.cards} cards are {gain:.1f} times as fast as {first.cards}"
    if gain > 0.9 * last.cards / first.cards:
        return f"{text}: nothing but the cards limits it."
    return (
        f"{text} and not {last.cards // first.cards}: {last.bottleneck} limits them. Data on the nodes' own disks, or "
        "one pass over the images for several checkpoints, would lift that."
    )
