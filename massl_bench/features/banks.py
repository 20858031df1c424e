"""From the cache or from the images: the bank of one split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from massl_bench.core.errors import CellError
from massl_bench.core.settings import Preprocessing
from massl_bench.core.values import FeatureBank
from massl_bench.datasets import Dataset, ImageSplit
from massl_bench.features.cache import BankKey, FeatureCache
from massl_bench.features.options import ExtractionOptions
from massl_bench.models import ModelCard

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder

ProgressFactory = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(label, number of images) to a context that yields a function to call with each number of images done."""


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
        dataset_fingerprint=dataset.fingerprint,
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

    Args:
        cache: where banks are kept.
        key: what is wanted.
        encoder: called only where features have to be extracted; returns the encoder on its device.
        dataset: where the images are.
        options: of the extraction.
        reporting: where messages and progress go.

    Raises:
        CellError: Extraction failed; nothing of the bank is left in the cache.
        RequestError: The dataset is not what it must be.
    """
    bank, _ = cache.read(key)
    if _serves(bank, options):
        return bank
    with cache.held(key, reporting.say):
        bank, damage = cache.read(key)  # again: another process may have made it meanwhile
        if _serves(bank, options):
            return bank
        if damage is not None:
            reporting.say(f"damaged cache entry, extracting again: {damage}")
            cache.discard(key)
        _extract_bank(cache, key, encoder(), dataset, options, reporting, replaces=bank is not None)
        bank, damage = cache.read(key)
    if bank is None:
        raise CellError(f"the bank that was just written cannot be read: {damage or 'it was removed meanwhile'}")
    return bank


def _serves(bank: FeatureBank | None, options: ExtractionOptions) -> TypeGuard[FeatureBank]:
    """Tells whether a bank is there, and whole where it must be."""
    return bank is not None and (options.skip_corrupt or not bank.skipped)


def _extract_bank(
    cache: FeatureCache,
    key: BankKey,
    encoder: Encoder,
    dataset: Dataset,
    options: ExtractionOptions,
    reporting: Reporting,
    *,
    replaces: bool,
) -> None:
    """Puts the bank of `key` into the cache, in place of one that is there where it `replaces` that.

    Raises as `load_or_extract`.
    """
    # Only here: a run whose features are all cached imports no torch.
    from massl_bench.features.extraction import extract

    split = dataset.split(key.split)
    count = len(split) if key.limit is None else min(key.limit, len(split))
    with cache.writer(key, encoder.card.embed_dim, model=encoder.card.name, dataset=dataset.name) as writer:
        with reporting.progress(f"{encoder.card.name} on {dataset.name}/{key.split}", count) as progress:
            found = extract(
                encoder, split, key.preprocessing, options, writer=writer, limit=key.limit, progress=progress
            )
        kept, skipped = found.kept, found.skipped
        if found.num_oriented:
            reporting.say(f"{dataset.name}/{key.split}: {_orientation(found.num_oriented, split)}")
        first = dataset.validation_from(key.split)
        # Counted among the images that were kept; --limit may end before it, or all of it be corrupt.
        validation_from = int(np.searchsorted(kept, first)) if first is not None else None
        if validation_from == len(kept):
            validation_from = None
        writer.finish(
            labels=split.labels[kept] if split.labels is not None else None,
            ids=split.ids(count)[kept],
            class_names=dataset.class_names,
            num_classes=dataset.num_classes if split.labels is not None else None,
            skipped=skipped,
            validation_from=validation_from,
        )
        if replaces:  # of a run that left images out which can now be read
            cache.discard(key)
