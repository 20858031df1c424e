"""From the cache or from the images: the banks of one split."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import TypeGuard

from massl_bench.core.errors import CellError
from massl_bench.core.progress import Report, report_nothing
from massl_bench.core.settings import Preprocessing
from massl_bench.core.values import FeatureBank
from massl_bench.datasets import Dataset
from massl_bench.features.cache import BankKey, FeatureCache
from massl_bench.features.making import Making, Wanted
from massl_bench.features.options import ExtractionOptions
from massl_bench.models import ModelCard

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


def _watch_nothing(_label: str) -> AbstractContextManager[Report]:
    return nullcontext(report_nothing)


def _begin_nothing(_model: str, _task: str, _dataset: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where messages and progress go; by default nowhere."""

    say: Callable[[str], None] = _say_nothing
    progress: ProgressFactory = _show_nothing
    working: Callable[[str], AbstractContextManager[Report]] = _watch_nothing
    """A label to a context that yields what takes the progress of a computation on features."""
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


def load_or_extract(
    cache: FeatureCache,
    wanted: Wanted,
    options: ExtractionOptions,
    reporting: Reporting,
    also: Callable[[], Sequence[Wanted]] = list,
) -> FeatureBank:
    """Returns a bank, extracting it where the cache does not hold it undamaged.

    Processes that want the same bank at the same time share the work, piece by piece (`pieces.Pieces`).

    Args:
        cache: where banks are kept.
        wanted: the bank.
        options: of the extraction.
        reporting: where messages and progress go.
        also: asked only where features have to be extracted: returns other banks of the same images, which are made
            along with this one, from one decoding of each image; what fails of them is left to who wants them.

    Raises:
        CellError: Extraction failed; what is left in the cache are whole pieces.
        RequestError: The dataset is not what it must be.
    """
    key = wanted.key
    bank, _ = cache.read(key)
    if _serves(bank, options):
        return bank
    making = _Pass(cache, [wanted, *also()], options, reporting)
    while True:
        with cache.held(key, reporting.say):
            bank, damage = cache.read(key)  # again: another process may have made it meanwhile
            if _serves(bank, options):
                return bank
            if damage is not None:
                reporting.say(f"damaged cache entry, extracting again: {damage}")
                cache.discard(key)
            if making.first.write():
                bank, damage = cache.read(key)
                if bank is None:
                    reason = damage or "it was removed meanwhile"
                    raise CellError(f"the bank that was just written cannot be read: {reason}")
                return bank
        making.extract()


def help_to_extract(
    cache: FeatureCache,
    wanted: Wanted,
    options: ExtractionOptions,
    reporting: Reporting,
    also: Callable[[], Sequence[Wanted]] = list,
) -> None:
    """Makes pieces of a bank that another process wants, as long as there are any that nobody makes.

    Args and errors as of `load_or_extract`.
    """
    _Pass(cache, [wanted, *also()], options, reporting).extract(wait=False)


def _serves(bank: FeatureBank | None, options: ExtractionOptions) -> TypeGuard[FeatureBank]:
    """Tells whether a bank is there, and whole where it must be."""
    return bank is not None and (options.skip_corrupt or not bank.skipped)


class _Pass:
    """One decoding of the images of a split, for one bank and for others that come along with it."""

    def __init__(
        self, cache: FeatureCache, banks: Sequence[Wanted], options: ExtractionOptions, reporting: Reporting
    ) -> None:
        self._alone, self._options, self._reporting = options.shard.count == 1, options, reporting
        self._said: set[str] = set()
        self.first, *self._others = [Making(cache, wanted, options, self._say) for wanted in banks]

    def _say(self, text: str) -> None:
        """Says once what is true of each bank, as all are of the same images."""
        if text not in self._said:
            self._said.add(text)
            self._reporting.say(text)

    def extract(self, *, wait: bool = True) -> None:
        """Makes the pieces of the first bank that are not there, and that no other process makes; of the others, those
        of the same images.

        Args:
            wait: for the pieces of others, and make those that they do not end, until all are there, or the bank is.

        Raises:
            CellError: An image or a feature is broken, or the cache cannot be written.
        """
        first, waits = self.first, False
        try:
            while (missing := first.pieces.missing()) and not first.is_there():
                claims = self._claims(missing)
                claimed = next(claims, None)
                if claimed is not None:
                    self._make(missing, chain([claimed], claims))
                elif not wait:
                    break
                elif not waits:
                    waits = True
                    if self._alone:
                        makers = first.pieces.makers(missing)
                        self._say(f"another process extracts these features, waiting for it: {makers}")
                else:
                    time.sleep(_POLL_S)
        finally:
            for making in (first, *self._others):
                making.release()
        for other in self._others:
            with other.given_up_where_it_fails():
                other.write_if_whole()

    def _claims(self, missing: Sequence[int]) -> Iterator[tuple[int, list[Making]]]:
        """Yields the numbers of pieces that are this process's to make, each with the banks that it is to make it of.

        Nobody waits for a lock here: processes that want the same banks in another order do not wait for each other.
        """
        for number in self._options.shard.first(missing):
            if self.first.claim(number):
                yield number, [self.first, *(other for other in self._others if self._claimed(other, number))]

    @staticmethod
    def _claimed(other: Making, number: int) -> bool:
        with other.given_up_where_it_fails():
            return other.claim(number)
        return False

    def _make(self, missing: Sequence[int], claimed: Iterable[tuple[int, list[Making]]]) -> None:
        """Makes pieces, and shows how far that is among the missing ones."""
        # Only here: a run whose features are all cached imports no torch.
        from massl_bench.features.extraction import extract

        first, pieces = self.first, self.first.pieces
        total = sum(len(pieces.range_of(number)) for number in missing)
        if total < first.count and self._alone:
            self._say(f"{first.where}: {first.count - total:,} of {first.count:,} images are there from before")
        made: set[int] = set()

        def ranges(of_the_same: Iterable[tuple[int, list[Making]]]) -> Iterator[range]:
            for number, _ in of_the_same:
                made.add(number)
                yield pieces.range_of(number)

        with self._reporting.progress(f"{first.encoder.card.name} on {first.where}", total) as progress:
            for makings, of_the_same in groupby(claimed, key=itemgetter(1)):
                targets = [first.target(required=True)]
                for other in makings[1:]:
                    with other.given_up_where_it_fails():
                        targets.append(other.target(required=False))
                extract(targets, first.split, self._options, pieces=ranges(of_the_same), progress=progress)
            if self._alone:  # otherwise every process says what it does, and no more
                ended = set(missing) - set(pieces.missing()) - made
                progress(sum(len(pieces.range_of(number)) for number in ended))
