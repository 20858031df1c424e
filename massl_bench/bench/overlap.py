"""Is the test in the training set? Equal and nearly equal images of two datasets.

Equal images have equal files, or equal pixels. Nearly equal ones are looked for among the nearest neighbours by a
model's features, and taken where one picture is a piece of the other one (`learners.alignment`): the threshold lies
between what copies reach that the suite itself makes of some of the images, and what other images reach.

Shapes: N images of A, M of B, K candidates each, S the side of a small picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.bench.duplicates import Calibration, Item, Kind, Overlap, Pair, Side
from massl_bench.bench.galleries import jpeg_of
from massl_bench.core.devices import resolve_device
from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.galleries import Gallery, Neighbour, Query, Thumbnail
from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.datasets import DataOptions, Dataset, ImageSplit, open_dataset
from massl_bench.datasets.alterations import crop, jpeg
from massl_bench.datasets.duplicates import hashes_of, picture, pictures_of
from massl_bench.features import ExtractionOptions, FeatureCache, Reporting, Wanted, bank_key, load_or_extract
from massl_bench.learners.faiss_backend import resolve_backend
from massl_bench.learners.neighbours import cosine_neighbours
from massl_bench.models import ModelOptions, open_model
from massl_bench.specs.registry import Registry

_CANDIDATES = 10
_SEED = 0
_CALIBRATED_ON = 200
"""Images, of which copies are made; of fewer, all."""
_FOUND_SHARE = 0.98
"""Of the copies that the suite makes: what these reach. The threshold lies between there and what is reached by …"""
_OTHERS_SHARE = 0.99
"""… this share of the images, with the most similar other one: a few may have a copy among them."""
_NEAR_COPIES = 0.9
"""Where between the two: near the copies, as of other images there are many more pairs than were seen. Chosen on 500
photographs, as near as leaves 97 % of their crops above it; then measured on 500 others (docs/protocols.md)."""
_LEAST = 0.75
"""No threshold is below this correlation."""
_CROP_KEPT, _JPEG_QUALITY = 80.0, 50
"""The copies: a crop that keeps so many percent of the area, and a JPEG of this quality."""
_SHOWN = 60
"""Pairs of a gallery."""


class _Images:
    """The images of a dataset's splits, one after the other."""

    def __init__(self, dataset: Dataset, roles: Sequence[str]) -> None:
        self.dataset, self.roles = dataset, list(roles)
        self.splits: list[ImageSplit] = [dataset.split(role) for role in self.roles]
        self.starts = np.cumsum([0, *map(len, self.splits)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, row: int) -> tuple[ImageSplit, int, str]:
        """Returns the split of an image, its row there, and the split's role."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.splits[number], row - int(self.starts[number]), self.roles[number]

    def item(self, row: int) -> Item:
        split, own, role = self.place(row)
        return Item(split=role, row=own, name=split.locate(own))

    def pictures(self, rows: Sequence[int], side: int) -> NDArray[np.float32]:
        """Returns small pictures of some images, each made once, float32 [n, S, S]."""
        wanted = sorted(set(rows))
        made: dict[int, NDArray[np.float32]] = {}
        for number, split in enumerate(self.splits):
            first, end = int(self.starts[number]), int(self.starts[number + 1])
            own = [row for row in wanted if first <= row < end]
            made |= dict(zip(own, pictures_of(split, [row - first for row in own], side), strict=True))
        return np.stack([made[row] for row in rows]) if rows else np.empty((0, side, side), dtype=np.float32)

    def side(self) -> Side:
        sizes = {role: len(split) for role, split in zip(self.roles, self.splits, strict=True)}
        return Side(dataset=self.dataset.name, fingerprint=self.dataset.fingerprint, sizes=sizes)


@dataclass(frozen=True, kw_only=True)
class OverlapRequest:
    """What is compared, and with what."""

    a: str
    b: str
    model: str
    data: DataOptions
    settings: ModelSettings = NO_SETTINGS
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    device: str = "auto"
    splits: tuple[Sequence[str], Sequence[str]] = ((), ())
    """Of A and of B; none: all of them (of a dataset with itself: test against the others)."""
    calibrate_on: str | None = None
    """The dataset whose images copies are made of; None: B."""


def find_overlap(request: OverlapRequest, registry: Registry, reporting: Reporting) -> Overlap:
    """Returns the pairs of equal and nearly equal images; of an image of A the equal ones, or else the nearest.

    Raises:
        RequestError: A dataset is not there, has no such split, or the two are the same images.
        CellError: An image is broken.
    """
    first, second = _opened(request, registry)
    exact = _exact_pairs(first, second, reporting)
    taken = {(pair.a.split, pair.a.row) for pair in exact}
    features = _Features(request, registry, reporting)
    calibration_images = second
    if request.calibrate_on is not None:
        dataset = open_dataset(request.calibrate_on, registry, request.data)
        calibration_images = _Images(dataset, list(dataset.sources))
    a_ND, b_MD = features.of(first), features.of(second)
    calibration = _calibrated(calibration_images, features)
    near = list(_near_pairs(first, second, features.neighbours(a_ND, b_MD), calibration.threshold, taken, reporting))
    pairs = sorted([*exact, *near], key=lambda pair: (first.roles.index(pair.a.split), pair.a.row))
    return Overlap(a=first.side(), b=second.side(), model=features.name, calibration=calibration, pairs=pairs)


def _opened(request: OverlapRequest, registry: Registry) -> tuple[_Images, _Images]:
    datasets = [open_dataset(name, registry, request.data) for name in (request.a, request.b)]
    same = datasets[0].fingerprint == datasets[1].fingerprint
    roles = []
    for number, (dataset, wanted) in enumerate(zip(datasets, request.splits, strict=True)):
        unknown = [role for role in wanted if role not in dataset.sources]
        if unknown:
            raise RequestError(f"{dataset.name}: no {unknown[0]} split; it has: {', '.join(dataset.sources)}")
        tests = [role for role in dataset.sources if (role == "test") == (number == 0)]
        roles.append(list(wanted) or (tests if same else list(dataset.sources)))
    if same and (not all(roles) or set(roles[0]) & set(roles[1])):
        raise RequestError(
            f"{request.a} and {request.b} are the same images: every one would be its own duplicate; give two splits "
            f"of it, of {', '.join(datasets[0].sources)}"
        )
    return _Images(datasets[0], roles[0]), _Images(datasets[1], roles[1])


def _exact_pairs(first: _Images, second: _Images, reporting: Reporting) -> list[Pair]:
    """Returns every image of A with the first image of B that is equal to it."""
    kinds: tuple[Kind, Kind] = ("file", "pixels")
    places: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for number, split in enumerate(second.splits):
        with reporting.progress(f"{second.dataset.name}/{second.roles[number]}: hashes", len(split)) as progress:
            hashes = hashes_of(split, progress)
        for known, found in zip(places, (hashes.files, hashes.pixels), strict=True):
            for row, digest in enumerate(found):
                known.setdefault(digest, int(second.starts[number]) + row)
    pairs = []
    for number, split in enumerate(first.splits):
        with reporting.progress(f"{first.dataset.name}/{first.roles[number]}: hashes", len(split)) as progress:
            hashes = hashes_of(split, progress)
        for row, digests in enumerate(zip(hashes.files, hashes.pixels, strict=True)):
            where = [known.get(digest) for known, digest in zip(places, digests, strict=True)]
            kind = next((kind for kind, place in zip(kinds, where, strict=True) if place is not None), None)
            if kind is not None:
                other = where[kinds.index(kind)]
                assert other is not None
                item = first.item(int(first.starts[number]) + row)
                pairs.append(Pair(kind=kind, a=item, b=second.item(other), correlation=None))
    return pairs


class _Features:
    """The features of a model, in which candidates are looked for."""

    def __init__(self, request: OverlapRequest, registry: Registry, reporting: Reporting) -> None:
        data = request.data
        options = ModelOptions(cache_dir=data.cache_dir, settings=request.settings, download=not data.offline)
        self._model = open_model(request.model, registry, options)
        reporting.say(self._model.card.describe())
        self._request, self._reporting = request, reporting
        self._device = resolve_device(request.device)
        self._cache = FeatureCache(data.cache_dir)
        self._backend = resolve_backend(self._device)
        self.name = self._model.card.name

    def of(self, images: _Images) -> NDArray[np.float32]:
        """Returns the features of all images, float32 [N, D]; as of a run, and kept as these are."""
        options, card = self._request.extraction, self._model.card
        banks = []
        for role in images.roles:
            preprocessing = card.preprocessing
            if images.dataset.spec is not None and images.dataset.spec.cropped:
                preprocessing = preprocessing.of_crops()
            key = bank_key(card, preprocessing, images.dataset, role, None, options)
            wanted = Wanted(key, self._encoder, images.dataset)
            banks.append(load_or_extract(self._cache, wanted, options, self._reporting).features)
        return np.concatenate(banks)

    def _encoder(self) -> Any:
        return self._model.encoder("cpu").to(self._device)

    def neighbours(self, a_ND: NDArray[np.float32], b_MD: NDArray[np.float32]) -> NDArray[np.int64]:
        """Returns the rows of B that are most similar to each of A, [N, K]."""
        count = min(_CANDIDATES, len(b_MD))
        return cosine_neighbours(a_ND, b_MD, count, backend=self._backend).indices_QK


def _near_pairs(
    first: _Images,
    second: _Images,
    rows_NK: NDArray[np.int64],
    threshold: float,
    taken: set[tuple[str, int]],
    reporting: Reporting,
) -> Iterator[Pair]:
    """Yields each image of A that is not among the `taken` with the candidate that fits best, where that is enough."""
    with reporting.progress(f"{first.dataset.name}: nearly equal", len(first)) as progress:
        for start in range(0, len(first), 256):
            rows = [row for row in range(start, min(start + 256, len(first))) if _key(first.item(row)) not in taken]
            fits_nK = _correlations(first, second, rows, rows_NK[rows])
            for row, fit_K in zip(rows, fits_nK, strict=True):
                best = int(fit_K.argmax())
                if fit_K[best] >= threshold:
                    other = second.item(int(rows_NK[row, best]))
                    yield Pair(kind="near", a=first.item(row), b=other, correlation=float(fit_K[best]))
            progress(min(256, len(first) - start))


def _key(item: Item) -> tuple[str, int]:
    return item.split, item.row


def _correlations(
    first: _Images, second: _Images, rows: Sequence[int], candidates_nK: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Returns how well each image of A fits each of its candidates, [n, K]."""
    import torch

    from massl_bench.learners.alignment import SIDE, correlation, details

    count = candidates_nK.shape[1]
    if not rows:
        return np.empty((0, count), dtype=np.float32)
    own = details(torch.from_numpy(first.pictures(rows, SIDE)))
    others = details(torch.from_numpy(second.pictures(candidates_nK.ravel().tolist(), SIDE)))
    fits: NDArray[np.float32] = correlation(own.repeat_interleave(count, dim=0), others).numpy()
    return fits.reshape(len(rows), count)


def _calibrated(images: _Images, features: _Features) -> Calibration:
    """Returns the threshold between what copies reach that are made of some of the images, and what others reach."""
    import torch

    from massl_bench.learners.alignment import LEAST_DETAIL, SIDE, correlation, details

    drawn = np.sort(np.random.default_rng(_SEED).permutation(len(images))[:_CALIBRATED_ON]).tolist()
    copies = {"jpeg": [], "crop": []}  # type: dict[str, list[NDArray[np.float32]]]
    for row in drawn:
        split, own, _ = images.place(row)
        image = split.decode(split.encoded([own])[0])
        copies["jpeg"].append(picture(jpeg(image, _JPEG_QUALITY, "4:2:0"), SIDE))
        copies["crop"].append(picture(crop(image, _CROP_KEPT, Random(f"{_SEED} {row}")), SIDE))
    originals = details(torch.from_numpy(images.pictures(drawn, SIDE)))
    told = originals.flatten(1).std(dim=1) >= LEAST_DETAIL
    if not told.any():
        raise CellError(f"none of {len(drawn)} images of {images.dataset.name} has any detail: copies look like others")
    fits = {
        name: correlation(details(torch.from_numpy(np.stack(made))), originals)[told].numpy()
        for name, made in copies.items()
    }
    low = min(float(np.quantile(fit, 1 - _FOUND_SHARE)) for fit in fits.values())
    best_other_N = _best_others(images, drawn, features)
    high = float(np.quantile(best_other_N, _OTHERS_SHARE)) if len(best_other_N) else low
    threshold = max(_LEAST, _NEAR_COPIES * low + (1 - _NEAR_COPIES) * min(low, high))
    others = float((best_other_N >= threshold).mean()) if len(best_other_N) else 0.0
    return Calibration(
        threshold=threshold,
        num_images=int(told.sum()),
        found_jpeg=float((fits["jpeg"] >= threshold).mean()),
        found_crop=float((fits["crop"] >= threshold).mean()),
        others=others,
    )


def _best_others(images: _Images, drawn: Sequence[int], features: _Features) -> NDArray[np.float32]:
    """Returns how well each of the drawn images fits the other one of them that it fits best, [n]; none for one."""
    if len(drawn) < 2:
        return np.empty(0, dtype=np.float32)
    own_ND = features.of(images)[drawn]
    rows_NK = features.neighbours(own_ND, own_ND)
    fit_NK = _correlations(images, images, drawn, np.array(drawn)[rows_NK])
    fit_NK[rows_NK == np.arange(len(drawn))[:, None]] = -1
    best_N: NDArray[np.float32] = fit_NK.max(axis=1)
    return best_N


def overlap_galleries(found: Overlap, request: OverlapRequest, registry: Registry) -> list[Gallery]:
    """Returns the pairs to look at, by kind: each image of A beside the one of B, the least similar ones first."""
    first, second = _opened(request, registry)
    titles: dict[Kind, str] = {"near": "Nearly equal", "pixels": "Equal pixels", "file": "Equal files"}

    def thumbnail(images: _Images, item: Item) -> Thumbnail:
        split = images.dataset.split(item.split)
        return Thumbnail(jpeg=jpeg_of(split.decode(split.encoded([item.row])[0])), label=f"{item.split}: {item.name}")

    galleries = []
    for kind, title in titles.items():
        pairs = sorted((pair for pair in found.pairs if pair.kind == kind), key=lambda pair: pair.correlation or 0)
        queries = []
        for pair in pairs[:_SHOWN]:
            beside = Neighbour(image=thumbnail(second, pair.b), right=True, similarity=pair.correlation)
            queries.append(Query(image=thumbnail(first, pair.a), note=pair.a.name, neighbours=[beside]))
        text = f"{len(queries)} of {len(pairs):,} pairs, {found.a.dataset} before {found.b.dataset}"
        galleries.append(Gallery(title=title, text=f"{text}; the least similar first", queries=queries))
    return [gallery for gallery in galleries if gallery.queries]
