"""One bank that is being made by this process and maybe others, piece by piece (`pieces.Pieces`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from massl_bench.core.errors import CellError, one_line
from massl_bench.datasets import Dataset, ImageSplit
from massl_bench.features.cache import BankKey, FeatureCache, read_meta
from massl_bench.features.options import ExtractionOptions
from massl_bench.features.pieces import Piece, Pieces

if TYPE_CHECKING:
    from massl_bench.features.extraction import Extracted, Target
    from massl_bench.models.encoder import Encoder


@dataclass(frozen=True)
class Wanted:
    """A bank that is wanted, and what it is made of."""

    key: BankKey
    encoder: Callable[[], Encoder]
    """Called only where features have to be extracted; returns the encoder on its device."""
    dataset: Dataset
    """Where the images are."""


class Making:
    """A bank in the making."""

    def __init__(
        self, cache: FeatureCache, wanted: Wanted, options: ExtractionOptions, say: Callable[[str], None]
    ) -> None:
        self._cache, self._wanted, self._key, self._dataset = cache, wanted, wanted.key, wanted.dataset
        self._options, self._say = options, say
        self._given_up = False

    @cached_property
    def split(self) -> ImageSplit:
        """The images, and those behind a limit."""
        return self._dataset.split(self._key.split)

    @property
    def where(self) -> str:
        """The images, for people."""
        return f"{self._dataset.name}/{self._key.split}"

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.split) if self._key.limit is None else min(self._key.limit, len(self.split))

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded when it is first asked for."""
        return self._wanted.encoder()

    @cached_property
    def pieces(self) -> Pieces:
        """Its pieces."""
        return self._cache.pieces(self._key, self.count, self._options)

    def is_there(self) -> bool:
        """Tells whether the bank is there, and whole where it must be; damage is seen when it is read."""
        if self._key not in self._cache:
            return False
        with suppress(OSError, ValueError):
            return self._options.skip_corrupt or not read_meta(self._cache.path(self._key)).skipped
        return True

    def claim(self, number: int) -> bool:
        """Takes a piece that this process is to make; tells whether it is: not there, and nobody else's."""
        if self._given_up:
            return False
        with self._cache.writing():
            return self.pieces.claim(number, self.is_there)

    def target(self, *, required: bool) -> Target:
        """Returns what is made of the images; where it is not required, it is given up when it fails."""
        # Only here: a run whose features are all cached imports no torch.
        from massl_bench.features.extraction import Target

        def deliver(piece: Extracted) -> None:
            with self._cache.writing():
                self.pieces.put(piece, self.encoder.card.name)

        give_up = None if required else self.give_up
        return Target(encoder=self.encoder, preprocessing=self._key.preprocessing, deliver=deliver, give_up=give_up)

    def release(self) -> None:
        """Gives up the pieces that this process was to make and did not."""
        if "pieces" in vars(self):  # otherwise there are none, and the images may not be there
            self.pieces.release()

    def give_up(self) -> None:
        """Leaves all that is not made to others."""
        self._given_up = True
        self.release()

    @contextmanager
    def given_up_where_it_fails(self) -> Iterator[None]:
        """For a bank that only comes along: whoever wants it alone is told what is wrong."""
        try:
            yield
        except Exception:
            self.give_up()

    def write_if_whole(self) -> None:
        """Puts the bank together where all pieces are there, unless somebody else does."""
        if self.pieces.missing() or self.is_there():
            return
        with self._cache.claimed(self._key.digest) as holder:
            if holder is None and not self.is_there():
                self.write()

    def write(self) -> bool:
        """Puts the bank together, in place of one that is there; tells whether all pieces were, undamaged.

        Raises:
            CellError: No image could be decoded, or the cache cannot be written.
        """
        if self.pieces.missing():
            return False
        try:
            self._write()
        except _SpoiledError as error:
            self._say(f"damaged cache entry, extracting again: {error}")
            return False
        self.pieces.remove()
        return True

    def _write(self) -> None:
        pieces, split, dataset = self.pieces, self.split, self._dataset
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
                self._say(f"{dataset.name}/{self._key.split}: {_orientation(num_oriented, split)}")
            first = dataset.validation_from(self._key.split)
            # Counted among the images that were kept; --limit may end before it, or all of it be corrupt.
            validation_from = int(np.searchsorted(items, first)) if first is not None else None
            if validation_from == len(items):
                validation_from = None
            writer.finish(
                labels=split.labels[items] if split.labels is not None else None,
                ids=split.ids(self.count)[items],
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
            return self.pieces.read(number)
        except (OSError, ValueError) as error:
            with self._cache.writing():
                self.pieces.spoil(number)
            raise _SpoiledError(one_line(error)) from None


class _SpoiledError(Exception):
    """A piece is not what was written, and has to be made again."""


def _orientation(count: int, split: ImageSplit) -> str:
    """Returns what is done with images that have an EXIF orientation."""
    what = f"{count:,} {'image has' if count == 1 else 'images have'} an EXIF orientation"
    if split.decoding.upright:
        return f"{what} and {'is' if count == 1 else 'are'} turned upright, as viewers do"
    return f"{what} and {'is' if count == 1 else 'are'} read as stored, as the published evaluations do"
