"""What two datasets have in common: pairs of equal and nearly equal images, and the file that they are kept in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import parse_json, read_regular
from massl_bench.core.strict import first_problem

_SCHEMA = 1

Kind = Literal["file", "pixels", "near"]
"""Equal files; other files of equal pixels; nearly equal pictures."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image of a dataset."""

    split: str
    row: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image of A, and one of B that is equal to it or nearly."""

    kind: Kind
    a: Item
    b: Item
    correlation: float | None
    """Of one picture with a piece of the other; None for equal ones."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the threshold was found."""

    threshold: float
    num_images: int
    """Of which copies were made; those without any detail are not counted."""
    found_jpeg: float
    """The share of the JPEG copies that reach the threshold."""
    found_crop: float
    others: float
    """The share of these images whose most similar other one among them reaches it."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two datasets."""

    dataset: str
    fingerprint: str
    sizes: Mapping[str, int]
    """By split."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two datasets have in common."""

    a: Side
    b: Side
    model: str
    calibration: Calibration
    pairs: Sequence[Pair]

    def rows(self, kind: Kind | None = None) -> dict[str, list[int]]:
        """Returns the rows of A that have a duplicate in B, by split, ascending; of one kind, where it is given."""
        found: dict[str, set[int]] = {}
        for pair in self.pairs:
            if kind in (None, pair.kind):
                found.setdefault(pair.a.split, set()).add(pair.a.row)
        return {split: sorted(rows) for split, rows in found.items()}


@dataclass(frozen=True, kw_only=True)
class LeftAside:
    """Items that a cell leaves out of what it measures."""

    role: str
    rows: tuple[int, ...]
    names: tuple[str, ...]
    departure: str


def overlap_as_json(found: Overlap) -> dict[str, Any]:
    """Returns an overlap as plain values, as `read_overlap` reads it."""
    return {"schema_version": _SCHEMA, **asdict(found)}


def read_overlap(path: Path) -> Overlap:
    """Returns what `datasets overlap` wrote; raises `RequestError`, naming the file, for anything else."""
    try:
        content = parse_json(read_regular(path))
        if not isinstance(content, dict) or content.pop("schema_version", None) != _SCHEMA:
            raise RequestError(f"{path}: not the JSON of an overlap of two datasets")
        return TypeAdapter(Overlap).validate_python(content)
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or one_line(error)}") from None
    except ValidationError as error:
        raise RequestError(f"{path}: {first_problem(error)}") from None
    except ValueError as error:
        raise RequestError(f"{path}: not JSON: {one_line(error)}") from None
