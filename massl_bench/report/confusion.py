"""Which classes are taken for which, from the class that each test item was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.records.items import Items, read_items
from massl_bench.records.rows import Row
from massl_bench.report.pictures import Picture, bars, matrix

_MOST_CLASSES = 40
"""Of a matrix; of more, the pairs that are confused most are shown."""
_PAIRS = 20


def confusions(models: Mapping[str, Sequence[Row]], colours: Mapping[str, str]) -> list[Picture]:
    """Returns a picture for each model and cell whose items say which class they were given."""
    return [
        picture
        for name, rows in models.items()
        for row in rows
        if (picture := _confusion(name, row, colours)) is not None
    ]


def _confusion(name: str, row: Row, colours: Mapping[str, str]) -> Picture | None:
    try:
        items = read_items(row.file, row.record) if row.file is not None and row.record.items is not None else None
    except RequestError:
        return None  # a leaderboard says of such a record that its intervals have to do
    if items is None or items.labels is None or row.metric not in items.predicted:
        return None
    count_CC = _counts(items, row.metric)
    names = items.class_names or tuple(map(str, range(len(count_CC))))
    title = f"{' '.join(row.cell)}, {name}"
    if len(count_CC) > _MOST_CLASSES:
        return _most_confused(title, name, count_CC, names, colours)
    share_CC = count_CC / np.maximum(count_CC.sum(axis=1, keepdims=True), 1)
    return matrix(title, names, 100 * share_CC, "class given", "class")


def _counts(items: Items, metric: str) -> NDArray[np.int64]:
    """Returns how often a class (row) was taken for a class (column); items that were given none are left out."""
    labels, predicted = items.labels, items.predicted[metric]
    assert labels is not None
    size = 1 + int(max(labels.max(initial=0), predicted.max(initial=0)))
    count_CC = np.zeros((size, size), dtype=np.int64)
    given = predicted >= 0
    np.add.at(count_CC, (labels[given], predicted[given]), 1)
    return count_CC


def _most_confused(
    title: str, name: str, count_CC: NDArray[np.int64], names: Sequence[str], colours: Mapping[str, str]
) -> Picture | None:
    wrong_CC = count_CC - np.diag(np.diagonal(count_CC))
    order = np.argsort(-wrong_CC, axis=None, kind="stable")[:_PAIRS]
    pairs = [(int(flat) // len(names), int(flat) % len(names)) for flat in order]
    pairs = [(true, given) for true, given in pairs if wrong_CC[true, given]]
    if not pairs:
        return None
    words = [f"{names[true]} → {names[given]}" for true, given in pairs]
    values = {name: [float(wrong_CC[pair]) for pair in pairs]}
    return bars(f"{title}: confused most", words, values, colours, "test items")
