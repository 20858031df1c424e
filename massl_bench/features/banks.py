"""From the cache or from the images: the bank of one split."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from massl_bench.core.errors import CellError, one_line
from massl_bench.core.settings import Preprocessing
from massl_bench.core.values import FeatureBank
from massl_bench.datasets import Dataset, ImageSplit
from massl_bench.features.cache import BankKey, FeatureCache, read_meta
from massl_bench.features.options import ExtractionOptions
from massl_bench.features.pieces import Piece, Pieces
from massl_bench.models import ModelCard

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder

ProgressFactory = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(label, number of images) to a context that yields a function to call with each number of images done."""


_POLL_S = 0.05
"""How often a process looks whether others have finished the pieces that it waits for."""


# Named, so that a `Reporting` can be pickled.
def _say_nothing(_text: str) -> None:
    pass


def _count_nothing(_count: int) -> None:
    pass


def _show_nothing(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(_count_nothing)


def _begin_nothing(_model: str, _task: str, _dataset: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where messages and progress go; by default nowhere."""

    say: Callable[[str], None] = _say_nothing
    progress: ProgressFactory = _show_nothing
    started: Callable[[str, str, str], None] = _begin_nothing
    """Model, task and dataset of a cell that is begun."""


def bank_key(
    card: ModelCard,
    preprocessing: Preprocessing,
    dataset: Dataset,
    role: str,
    limit: int | None,
    options: ExtractionOptions,
) -> BankKey:
    """Returns the content key of a bank; nothing of the model or the images is opened for it."""
    return BankKey(
        weights_sha256=card.weights_sha256,
        network_sha256=card.network_sha256,
        pooling=card.pooling,
        preprocessing=preprocessing.of_split(role),
        dataset_fingerprint=dataset.fingerprint_of(role),
        split=role,
        limit=limit,
        precision=options.precision,
    )


def _orientation(count: int, split: ImageSplit) -> str:
    """Returns what is done with images that have an EXIF orientation."""
    what = f"{count:,} {'image has' if count == 1 else 'images have'} an EXIF orientation"
    if split.decoding.upright:
        return f"{what} and {'is' if count == 1 else 'are'} turned upright, as viewers do"
    return f"{what} and {'is' if count == 1 else 'are'} read as stored, as the published evaluations do"


def load_or_extract(
    cache: FeatureCache,
    key: BankKey,
    encoder: Callable[[], Encoder],
    dataset: Dataset,
    options: ExtractionOptions,
    reporting: Reporting,
) -> FeatureBank:
    """Returns the bank of `key`, extracting it where the cache does not hold it undamaged.

    Processes that want the same bank at the same time share the work, piece by piece (`pieces.Pieces`).

    Args:
        cache: where banks are kept.
        key: what is wanted.
        encoder: called only where features have to be extracted; returns the encoder on its device.
        dataset: where the images are.
        options: of the extraction.
        reporting: where messages and progress go.

    Raises:
        CellError: Extraction failed; what is left in the cache are whole pieces.
        RequestError: The dataset is not what it must be.
    """
    bank, _ = cache.read(key)
    if _serves(bank, options):
        return bank
    making = _Making(cache, key, dataset, options, reporting)
    while True:
        with cache.held(key, reporting.say):
            bank, damage = cache.read(key)  # again: another process may have made it meanwhile
            if _serves(bank, options):
                return bank
            if damage is not None:
                reporting.say(f"damaged cache entry, extracting again: {damage}")
                cache.discard(key)
            if making.write_bank():
                bank, damage = cache.read(key)
                if bank is None:
                    reason = damage or "it was removed meanwhile"
                    raise CellError(f"the bank that was just written cannot be read: {reason}")
                return bank
        making.extract(encoder)


def help_to_extract(
    cache: FeatureCache,
    key: BankKey,
    encoder: Callable[[], Encoder],
    dataset: Dataset,
    options: ExtractionOptions,
    reporting: Reporting,
) -> None:
    """Makes pieces of a bank that another process wants, as long as there are any that nobody makes.

    Args and errors as of `load_or_extract`.
    """
    _Making(cache, key, dataset, options, reporting).extract(encoder, wait=False)


def _serves(bank: FeatureBank | None, options: ExtractionOptions) -> TypeGuard[FeatureBank]:
    """Tells whether a bank is there, and whole where it must be."""
    return bank is not None and (options.skip_corrupt or not bank.skipped)


class _Making:
    """A bank that is being made by this process and maybe others."""

    def __init__(
        self, cache: FeatureCache, key: BankKey, dataset: Dataset, options: ExtractionOptions, reporting: Reporting
    ) -> None:
        self._cache, self._key, self._dataset = cache, key, dataset
        self._options, self._reporting = options, reporting

    @cached_property
    def _split(self) -> ImageSplit:
        return self._dataset.split(self._key.split)

    @property
    def _count(self) -> int:
        return len(self._split) if self._key.limit is None else min(self._key.limit, len(self._split))

    @cached_property
    def _pieces(self) -> Pieces:
        return self._cache.pieces(self._key, self._count, self._options)

    def extract(self, encoder: Callable[[], Encoder], *, wait: bool = True) -> None:
        """Makes the pieces that are not there, and that no other process makes.

        Args:
            encoder: called where there is a piece to make.
            wait: for the pieces of others, and make those that they do not end, until all are there, or the bank is.

        Raises:
            CellError: An image or a feature is broken, or the cache cannot be written.
        """
        pieces, waits = self._pieces, False
        try:
            while (missing := pieces.missing()) and not self._is_there():
                claims = self._claims(missing)
                first = next(claims, None)
                if first is not None:
                    self._make(encoder(), missing, chain([first], claims))
                elif not wait:
                    return
                elif not waits:
                    waits = True
                    if self._options.shard.count == 1:
                        makers = pieces.makers(missing)
                        self._reporting.say(f"another process extracts these features, waiting for it: {makers}")
                else:
                    time.sleep(_POLL_S)
        finally:
            pieces.release()

    def _claims(self, missing: Sequence[int]) -> Iterator[range]:
        """Yields the items of pieces that are this process's to make."""
        for number in self._options.shard.first(missing):
            with self._cache.writing():
                claimed = self._pieces.claim(number, self._is_there)
            if claimed:
                yield self._pieces.range_of(number)

    def _is_there(self) -> bool:
        """Tells whether the bank is there, and whole where it must be; damage is seen when it is read."""
        if self._key not in self._cache:
            return False
        with suppress(OSError, ValueError):
            return self._options.skip_corrupt or not read_meta(self._cache.path(self._key)).skipped
        return True

    def _make(self, encoder: Encoder, missing: Sequence[int], claimed: Iterable[range]) -> None:
        """Makes pieces, and shows how far that is among the missing ones."""
        # Only here: a run whose features are all cached imports no torch.
        from massl_bench.features.extraction import Extracted, extract

        pieces, split, where = self._pieces, self._split, f"{self._dataset.name}/{self._key.split}"
        total = sum(len(pieces.range_of(number)) for number in missing)
        if total < self._count and self._options.shard.count == 1:
            self._reporting.say(f"{where}: {self._count - total:,} of {self._count:,} images are there from before")
        made: set[int] = set()

        def put(piece: Extracted) -> None:
            with self._cache.writing():
                pieces.put(piece, encoder.card.name)
            made.add(piece.items.start)

        with self._reporting.progress(f"{encoder.card.name} on {where}", total) as progress:
            extract(
                encoder,
                split,
                self._key.preprocessing,
                self._options,
                pieces=claimed,
                deliver=put,
                progress=progress,
            )
            if self._options.shard.count == 1:  # otherwise every process says what it does, and no more
                ended = set(missing) - set(pieces.missing())
                ranges = [pieces.range_of(number) for number in ended]
                progress(sum(len(each) for each in ranges if each.start not in made))

    def write_bank(self) -> bool:
        """Puts the bank together, in place of one that is there; tells whether all pieces were, undamaged.

        Raises:
            CellError: No image could be decoded, or the cache cannot be written.
        """
        if self._pieces.missing():
            return False
        try:
            self._write_bank()
        except _SpoiledError as error:
            self._reporting.say(f"damaged cache entry, extracting again: {error}")
            return False
        self._pieces.remove()
        return True

    def _write_bank(self) -> None:
        pieces, split, dataset = self._pieces, self._split, self._dataset
        first_piece = self._read(0)
        replaces = self._key in self._cache  # a bank of a run that left images out which can now be read
        kept, skipped, num_oriented = [], [], 0
        dim, model = first_piece.features.shape[1], first_piece.model
        with self._cache.writer(self._key, dim, model=model, dataset=dataset.name) as writer:
            for number in range(len(pieces)):
                piece = self._read(number)
                writer.append(piece.features)
                kept.append(piece.kept)
                skipped += piece.skipped
                num_oriented += piece.num_oriented
            items = np.concatenate(kept)
            if not len(items):
                raise CellError(f"no image could be decoded; the first: {skipped[0]}")
            if num_oriented:
                self._reporting.say(f"{dataset.name}/{self._key.split}: {_orientation(num_oriented, split)}")
            first = dataset.validation_from(self._key.split)
            # Counted among the images that were kept; --limit may end before it, or all of it be corrupt.
            validation_from = int(np.searchsorted(items, first)) if first is not None else None
            if validation_from == len(items):
                validation_from = None
            writer.finish(
                labels=split.labels[items] if split.labels is not None else None,
                ids=split.ids(self._count)[items],
                class_names=dataset.class_names,
                num_classes=dataset.num_classes if split.labels is not None else None,
                skipped=skipped,
                validation_from=validation_from,
            )
            if replaces:
                self._cache.discard(self._key)

    def _read(self, number: int) -> Piece:
        """Returns a piece; removes one that is damaged, and raises `_SpoiledError`."""
        try:
            return self._pieces.read(number)
        except (OSError, ValueError) as error:
            with self._cache.writing():
                self._pieces.spoil(number)
            raise _SpoiledError(one_line(error)) from None


class _SpoiledError(Exception):
    """A piece is not what was written, and has to be made again."""
