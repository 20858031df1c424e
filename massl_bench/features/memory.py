"""Features that stay in memory: of images that no key names, since nobody but their owner knows them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.settings import Preprocessing
from massl_bench.core.values import FeatureBank
from massl_bench.datasets.handed import HandedSplit
from massl_bench.features.banks import Reporting
from massl_bench.features.extraction import Extracted, Target, extract
from massl_bench.features.options import ExtractionOptions
from massl_bench.models.encoder import Encoder


def extract_handed(
    encoder: Encoder,
    split: HandedSplit,
    preprocessing: Preprocessing,
    options: ExtractionOptions,
    reporting: Reporting,
    *,
    label: str,
    limit: int | None = None,
) -> FeatureBank:
    """Returns the bank of images that were handed in; labels that are words become indices in sorted order.

    Raises:
        RequestError: An item is no image, or only some have labels.
        CellError: An image or a feature is broken.
    """
    count = len(split) if limit is None else min(limit, len(split))
    if count == 0:
        raise RequestError("dataset: it has no images")
    # The labels are read with the images: in this process, where they are found again.
    in_this_process = replace(options, num_workers=0)
    pieces: list[Extracted] = []
    with reporting.progress(label, count) as progress:
        target = Target(encoder=encoder, preprocessing=preprocessing, deliver=pieces.append)
        extract([target], split, in_this_process, pieces=[range(count)], progress=progress)
    (found,) = pieces
    if not len(found.kept):
        raise CellError(f"no image could be decoded; the first: {found.skipped[0]}")
    labels = split.labels_of(found.kept.tolist())
    names = split.class_names
    if labels is not None and labels.dtype.kind == "U":
        values, labels = np.unique(labels, return_inverse=True)
        names = tuple(values.tolist())
    try:
        bank = FeatureBank.from_arrays(found.features, labels)
    except ValueError as error:
        raise RequestError(f"dataset: {error}") from None
    if bank.num_classes is not None and names is not None and len(names) >= bank.num_classes:
        bank = replace(bank, class_names=names, num_classes=len(names))
    return replace(bank, skipped=tuple(found.skipped))
