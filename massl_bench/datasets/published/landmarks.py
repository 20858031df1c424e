"""Revisited Oxford and Paris (Radenović et al., CVPR 2018): photographs of landmarks, and a pickle that says the rest.

The pickle holds the names of the database's images in their order (`imlist`), those of the queries (`qimlist`), and for
each query (`gnd`) the box of its landmark and the rows of the database by how well they show it. The images lie in one
folder, or as Paris's archives have them, in one folder a landmark.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.values import QueryTruth
from massl_bench.datasets.folders import image_files
from massl_bench.datasets.published.pickles import read_plain_pickle
from massl_bench.datasets.published.reader import Listing, PublishedReader, listed

_LISTS = {"database": "imlist", "queries": "qimlist"}
_DISTRACTORS, _MILLION = "distractors", "revisitop1m"
_FOLDERS = ("paris", "jpg")
"""Where both hold an image, that of the last one counts."""


@dataclass(frozen=True, kw_only=True)
class _Landmarks:
    """The content of a pickle, checked."""

    names: dict[str, list[str]]
    """Of the images, by source, without suffix."""
    boxes_Q4: NDArray[np.float64]
    truth: list[QueryTruth]


def _read(path: Path) -> _Landmarks:
    """Returns the content of a pickle; raises `RequestError` where it is not as published."""
    content = read_plain_pickle(path)
    try:
        names = {source: [_checked_name(name) for name in content[key]] for source, key in _LISTS.items()}
        queries = content["gnd"]
        if len(queries) != len(names["queries"]):
            raise ValueError(f"{len(names['queries'])} queries, and gnd describes {len(queries)}")
        boxes_Q4 = np.array([_checked_box(query["bbx"]) for query in queries], dtype=np.float64).reshape(-1, 4)
        truth = [_query_truth(index, query, len(names["database"])) for index, query in enumerate(queries)]
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise RequestError(f"{path}: not as published: {type(error).__name__}: {one_line(error)}") from None
    return _Landmarks(names=names, boxes_Q4=boxes_Q4, truth=truth)


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or PurePosixPath(name).name != name:
        raise ValueError(f"expected the name of an image, got {name!r}")
    return name


def _checked_box(box: Any) -> list[float]:
    left, top, right, bottom = (float(side) for side in box)
    if not (0 <= left < right and 0 <= top < bottom):
        raise ValueError(f"bbx: expected left, top, right and bottom of a box, got {list(box)}")
    return [left, top, right, bottom]


def _query_truth(index: int, query: Any, num_rows: int) -> QueryTruth:
    rows = {name: np.array(query[name]) for name in ("easy", "hard", "junk")}
    for name, found in rows.items():
        if len(found) and (found.ndim != 1 or not np.issubdtype(found.dtype, np.integer)):
            raise ValueError(f"query {index}: {name}: expected rows of imlist, got {found.dtype} {list(found.shape)}")
        wrong = found[(found < 0) | (found >= num_rows)]
        if len(wrong):
            raise ValueError(
                f"query {index}: {name} names image {wrong[0]}, which is not in imlist; allowed: 0 to {num_rows - 1}"
            )
    return QueryTruth(**{name: found.astype(np.int64) for name, found in rows.items()})


def _listing(root: Path, source: str, table: str) -> Listing:
    landmarks = _read(root / table)
    found = (path for folder in _FOLDERS for path in image_files(root / folder))
    places = {path.name: path.relative_to(root).as_posix() for path in found}
    return Listing(
        # Under the usual folder where there is none: the check of all files then names it.
        files=[places.get(f"{name}.jpg", f"jpg/{name}.jpg") for name in landmarks.names[source]],
        labels=None,
        boxes=landmarks.boxes_Q4 if source == "queries" else None,
    )


def _landmarks(name: str) -> PublishedReader:
    table = f"gnd_{name}.pkl"
    return listed(
        marker=table,
        tables=dict.fromkeys(_LISTS, (table,)),
        parse=partial(_listing, table=table),
        sole=True,
        truth=lambda root: _read(root / table).truth,
    )


def _listing_beside(root: Path, source: str, name: str) -> Listing:
    if source == _DISTRACTORS:
        found = image_files(root / _MILLION / "jpg")
        if not found:
            raise RequestError(f"{root / _MILLION / 'jpg'}: no image in it; unpack the archives of distractors there")
        return Listing(files=[path.relative_to(root).as_posix() for path in found], labels=None)
    listing = _listing(root / name, source, f"gnd_{name}.pkl")
    return replace(listing, files=[f"{name}/{file}" for file in listing.files])


def _with_distractors(name: str) -> PublishedReader:
    """Returns the reader of landmarks beside the distractors, each in its folder, as their publishers lay them out."""
    table = f"{name}/gnd_{name}.pkl"
    return listed(
        marker=_MILLION,
        tables={**dict.fromkeys(_LISTS, (table,)), _DISTRACTORS: ()},
        parse=partial(_listing_beside, name=name),
        sole=True,
        truth=lambda root: _read(root / table).truth,
        shared=(_DISTRACTORS,),
    )


ROXFORD5K = _landmarks("roxford5k")
RPARIS6K = _landmarks("rparis6k")
ROXFORD5K_1M = _with_distractors("roxford5k")
RPARIS6K_1M = _with_distractors("rparis6k")
