"""Galleries, maps and spectra of a record's features, as they lie in the cache, with the images that they are of.

Nothing goes through a model here but the few images whose attention is shown.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.bench.planned import ImageCell
from massl_bench.bench.planner import Planner
from massl_bench.bench.verification import request_of
from massl_bench.core.errors import MasslBenchError, RequestError, one_line
from massl_bench.core.galleries import FeatureMap, Gallery, Look, Neighbour, Query, Thumbnail
from massl_bench.core.values import CopyTruth, FeatureBank, QueryTruth, SearchBackend
from massl_bench.datasets import DataOptions
from massl_bench.datasets.heads import head_test
from massl_bench.features import Reporting
from massl_bench.learners.cosines import cosine_similarities
from massl_bench.learners.neighbours import cosine_neighbours
from massl_bench.learners.planar import WORDS, Method, planar
from massl_bench.protocols import copy_detection
from massl_bench.records.record import ResultRecord
from massl_bench.specs.registry import Registry

_SIDE = 56
"""Pixels of a thumbnail's longer side, at most."""
_QUALITY = 75
_SEED = 0
_QUERIES = 6
"""Of a gallery."""
_NEIGHBOURS = 6
_MOST_CLASSES = 10
"""Of a map: more colours are not told apart."""
_SPECTRUM_ITEMS = 5000
_ATTENTION_IMAGES = 6

_Found = tuple[str, int, bool | None, float]
"""Split and row of what was found, whether it is right, its similarity."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is looked for.

    Attributes:
        map: how features become two dimensions.
        map_items: of a map; 0: no map.
        attention: whether the model is opened for its attention.
    """

    map: Method = "tsne"
    map_items: int = 300
    attention: bool = True


def to_look_at(records: Sequence[ResultRecord], datasets: Sequence[str] | None) -> list[ResultRecord]:
    """Returns the records that are worth a look: one for each dataset, of the task that shows most of it.

    Args:
        records: of one model.
        datasets: only these; None: all.
    """
    order = ("retrieval", "copy_detection", "knn", "class_retrieval", "linear", "kmeans", "few_shot")

    def rank(record: ResultRecord) -> tuple[int, str]:
        protocol = record.identity.task.protocol
        return order.index(protocol) if protocol in order else len(order), record.identity.task.name

    best: dict[str, ResultRecord] = {}
    for record in sorted(records, key=rank):
        name = record.identity.dataset.name
        if (datasets is None or name in datasets) and record.identity.model.weights_hash_of != "features":
            best.setdefault(name, record)
    return list(best.values())


def look_at(record: ResultRecord, registry: Registry, data: DataOptions, wishes: Wishes, reporting: Reporting) -> Look:
    """Returns what there is to see of a record; what is not there is said in it.

    Raises:
        RequestError: UMAP is asked for, and not installed.
    """
    name = record.identity.dataset.name
    try:
        cell, planner = _cell(record, registry, data, reporting)
        banks = {role: _bank(planner, cell, role) for role in cell.bank_roles}
    except MasslBenchError as error:
        return Look(dataset=name, missing={"images and features": str(error)})
    shelf = _Shelf(cell, banks)
    main = "test" if "test" in banks else "queries" if "queries" in banks else next(iter(banks))
    missing: dict[str, str] = {}

    def tried(what: str, find: Callable[[], Any]) -> Any:
        try:
            return find()
        except RequestError:
            raise
        except Exception as error:  # one picture, whatever is wrong with it, takes no page down
            missing[what] = one_line(error)
            return None

    attention = tried("attention", lambda: _attention(shelf, main)) if wishes.attention else None
    return Look(
        dataset=name,
        galleries=tried("galleries", lambda: _galleries(shelf)) or (),
        map=tried("map", lambda: _map(shelf, main, wishes)) if wishes.map_items else None,
        spectrum=_spectrum(banks[main].features),
        attention=attention or (),
        missing=missing,
    )


def _cell(
    record: ResultRecord, registry: Registry, data: DataOptions, reporting: Reporting
) -> tuple[ImageCell, Planner]:
    """Returns the record's cell as it is here; raises where anything of its identity differs."""
    planner = Planner(request_of(record, registry, data), registry, Reporting(say=lambda _: None))
    *_, cell = planner.plan()  # of a record without duplicates, the second
    if not isinstance(cell, ImageCell):
        raise getattr(cell, "problem", None) or RequestError("features that were handed in have no images")
    identity = planner.identity(cell, record.identity.dataset.skipped)
    if identity.digest != record.identity.digest:
        raise RequestError("the data, the weights or the task here are others than the record's")
    if record.identity.dataset.skipped:
        raise RequestError("images were left out, and rows of features are not rows of images")
    return cell, planner


def _bank(planner: Planner, cell: ImageCell, role: str) -> FeatureBank:
    bank, problem = planner.cache.read(cell.key(role))
    if bank is None:
        why = f"are damaged: {problem}" if problem else "are not in the cache"
        raise RequestError(f"the features of {cell.dataset.name}/{role} {why}: measure the cell again")
    return bank


class _Shelf:
    """The images and the features of a cell."""

    def __init__(self, cell: ImageCell, banks: Mapping[str, FeatureBank]) -> None:
        self.cell, self.banks = cell, banks
        self.backend = SearchBackend("faiss-cpu")

    def names(self) -> tuple[str, ...] | None:
        """The names of the classes."""
        return next((bank.class_names for bank in self.banks.values() if bank.class_names is not None), None)

    def label(self, role: str, row: int) -> str:
        """What an item is, in words: its class, or where it lies."""
        labels = self.banks[role].labels
        if labels is None or labels.ndim != 1:
            return self.cell.dataset.holding(role).split(role).locate(row)
        return self.class_name(int(labels[row]))

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        names = self.names()
        return names[number] if names is not None else str(number)

    def image(self, role: str, row: int) -> Thumbnail:
        """The thumbnail of an item."""
        split = self.cell.dataset.holding(role).split(role)
        (encoded,) = split.encoded([row])
        return Thumbnail(jpeg=jpeg_of(split.decode(encoded)), label=self.label(role, row))

    def query(self, role: str, row: int, note: str, found: Sequence[_Found]) -> Query:
        """A query, and what is found for it: (role, row, whether it is right, similarity)."""
        neighbours = [
            Neighbour(image=self.image(other, at), right=right, similarity=similarity)
            for other, at, right, similarity in found
        ]
        return Query(image=self.image(role, row), note=note, neighbours=neighbours)


def jpeg_of(image: Any) -> bytes:
    """Returns an RGB image, made smaller where it is larger, as the content of a JPEG file."""
    image = image.copy()
    image.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def _galleries(shelf: _Shelf) -> list[Gallery]:
    kind = shelf.cell.dataset.kind
    truth = shelf.cell.ground_truth()
    if isinstance(truth, CopyTruth):
        return [_missed_copies(shelf, truth)]
    if truth is not None:
        return [_failed_retrieval(shelf, truth)]
    if kind != "single-label" or "test" not in shelf.banks:
        return []
    test = head_test(shelf.cell.dataset) if "train" in shelf.banks else None
    if test is not None and (test.members is not None or test.any_of_several):
        return []  # its classes are not those of the training split
    return _by_class(shelf, "train" if "train" in shelf.banks else "test")


def _by_class(shelf: _Shelf, role: str) -> list[Gallery]:
    """Returns test items whose nearest item is of another class, and such where it is of theirs."""
    test, database = shelf.banks["test"], shelf.banks[role]
    assert test.labels is not None
    assert database.labels is not None
    own = role == "test"
    found = cosine_neighbours(test.features, database.features, _NEIGHBOURS + own, backend=shelf.backend)
    rows_QK, sims_QK = found.indices_QK, found.similarities_QK
    if own:  # its own image is no neighbour; the last one goes where duplicates pushed it out
        itself_QK = rows_QK == np.arange(len(test))[:, None]
        itself_QK[~itself_QK.any(axis=1), -1] = True
        rows_QK, sims_QK = (each[~itself_QK].reshape(len(test), -1) for each in (rows_QK, sims_QK))
    right_QK = database.labels[rows_QK] == test.labels[:, None]
    galleries = []
    nearest_Q = right_QK[:, 0]
    for title, chosen_Q in (("Nearest is of another class", ~nearest_Q), ("Nearest is of the same class", nearest_Q)):
        rows = np.flatnonzero(chosen_Q)
        drawn = np.sort(np.random.default_rng(_SEED).permutation(rows)[:_QUERIES]).tolist()
        text = f"{len(drawn)} of {len(rows):,} such test items, drawn; {len(test):,} in all; neighbours from {role}"
        queries = []
        for row in drawn:
            each = zip(rows_QK[row].tolist(), right_QK[row].tolist(), sims_QK[row].tolist(), strict=True)
            near: list[_Found] = [(role, at, right, similarity) for at, right, similarity in each]
            queries.append(shelf.query("test", row, shelf.label("test", row), near))
        galleries.append(Gallery(title=title, text=text, queries=queries))
    return [gallery for gallery in galleries if gallery.queries]


def _failed_retrieval(shelf: _Shelf, truth: Sequence[QueryTruth]) -> Gallery:
    """Returns the queries before whose first positive (easy or hard) stand the most others."""
    queries, database = shelf.banks["queries"], shelf.banks["database"]
    found: list[tuple[int, int, list[_Found]]] = []
    for chunk, similarities_qN in cosine_similarities(queries.features, database.features):
        for number, similarity_N in zip(range(len(queries))[chunk], similarities_qN, strict=True):
            query = truth[number]
            positive_N, junk_N = (np.zeros(len(database), dtype=bool) for _ in range(2))
            positive_N[np.concatenate([query.easy, query.hard])] = True
            junk_N[query.junk] = True
            ranking_N = np.argsort(-similarity_N, kind="stable")
            places = np.flatnonzero(positive_N[ranking_N[~junk_N[ranking_N]]])
            if len(places) and places[0] > 0:
                near: list[_Found] = [
                    ("database", int(row), None if junk_N[row] else bool(positive_N[row]), float(similarity_N[row]))
                    for row in ranking_N[:_NEIGHBOURS]
                ]
                found.append((int(places[0]), number, near))
    found.sort(key=lambda each: (-each[0], each[1]))
    return Gallery(
        title="Queries that fail worst",
        text=f"The worst {len(found[:_QUERIES])} of {len(found)} queries that have wrong images before the first right "
        f"one (easy or hard), of {len(truth)}",
        queries=[
            shelf.query("queries", number, f"{ahead:,} wrong images before the first right one", near)
            for ahead, number, near in found[:_QUERIES]
        ],
    )


def _missed_copies(shelf: _Shelf, truth: CopyTruth) -> Gallery:
    """Returns the copies whose original stands farthest behind, with that original as the last neighbour."""
    params = shelf.cell.task.params
    assert isinstance(params, copy_detection.Params)
    database_ND, queries_QD = copy_detection.prepared(shelf.banks, params)
    num_originals = len(shelf.banks["originals"])

    def place(row: int) -> tuple[str, int]:
        return ("originals", row) if row < num_originals else ("distractors", row - num_originals)

    missed: list[tuple[int, int, list[_Found]]] = []
    for chunk, similarities_qN in cosine_similarities(queries_QD, database_ND):
        for number, similarity_N in zip(range(len(queries_QD))[chunk], similarities_qN, strict=True):
            own = int(truth.original[number])
            rank = int((similarity_N > similarity_N[own]).sum()) if own >= 0 else 0
            if rank > 0:
                nearest = np.argsort(-similarity_N, kind="stable")[: _NEIGHBOURS - 1].tolist()
                rows = nearest if own in nearest else [*nearest, own]
                near: list[_Found] = [(*place(row), row == own, float(similarity_N[row])) for row in rows]
                missed.append((rank, number, near))
    missed.sort(key=lambda each: (-each[0], each[1]))
    copies = int((truth.original >= 0).sum())
    return Gallery(
        title="Copies that are missed",
        text=f"The worst {len(missed[:_QUERIES])} of {len(missed):,} copies whose nearest image is not their original, "
        f"of {copies:,} copies; the original stands last",
        queries=[
            shelf.query("queries", number, f"{truth.block[number]}: {rank:,} images before its original", near)
            for rank, number, near in missed[:_QUERIES]
        ],
    )


def _map(shelf: _Shelf, role: str, wishes: Wishes) -> FeatureMap | None:
    """Returns a map of items of at most ten classes, as many of each; None without classes, or of three items."""
    bank = shelf.banks[role]
    if bank.labels is None or bank.labels.ndim != 1:
        return None
    rng = np.random.default_rng(_SEED)
    there = np.unique(bank.labels)
    classes = np.sort(rng.permutation(there)[:_MOST_CLASSES])
    share = max(1, wishes.map_items // len(classes))
    rows = np.concatenate([np.sort(rng.permutation(np.flatnonzero(bank.labels == c))[:share]) for c in classes])
    if len(rows) < 8:
        return None
    place_N2 = planar(np.asarray(bank.features[rows]), wishes.map)
    of_them = f", {len(classes)} of {len(there)} classes, drawn" if len(classes) < len(there) else ""
    return FeatureMap(
        text=f"{WORDS[wishes.map]} of {len(rows)} of {len(bank):,} {role} items{of_them}; "
        "distances between groups say little",
        points=[(round(float(x), 4), round(float(y), 4)) for x, y in place_N2],
        classes=[int(np.searchsorted(classes, label)) for label in bank.labels[rows]],
        class_names=[shelf.class_name(int(number)) for number in classes],
        images=[shelf.image(role, int(row)) for row in rows],
    )


def _spectrum(features_ND: NDArray[np.float32]) -> list[float]:
    """Returns the share of the variance that each principal axis of at most 5,000 items holds."""
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(features_ND))[:_SPECTRUM_ITEMS])
    centred = np.asarray(features_ND[rows], dtype=np.float64)
    centred -= centred.mean(axis=0)
    variance = np.linalg.svd(centred, compute_uv=False) ** 2
    total = float(variance.sum())
    return [float(part) for part in variance / total] if total > 0 else []


def _attention(shelf: _Shelf, role: str) -> list[tuple[Thumbnail, Thumbnail]]:
    from massl_bench.bench.attention import attended

    split = shelf.cell.dataset.holding(role).split(role)
    count = min(_ATTENTION_IMAGES, len(split))
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(split))[:count])
    images = [split.decode(split.encoded([int(row)])[0]) for row in rows]
    model = shelf.cell.model
    pairs = attended(model.encoder("cpu"), images, model.card.preprocessing)
    return [
        tuple(Thumbnail(jpeg=jpeg_of(image), label=shelf.label(role, int(row))) for image in pair)  # type: ignore[misc]
        for row, pair in zip(rows, pairs, strict=True)
    ]
