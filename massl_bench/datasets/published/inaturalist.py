"""iNaturalist 2018: two JSON files over one tree of images (Van Horn et al., 2018)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from massl_bench.core.files import parse_json, read_regular
from massl_bench.datasets.published.reader import Listing, listed

_TABLES = {"train": "train2018.json", "val": "val2018.json"}


def _inat2018(root: Path, source: str) -> Listing:
    """Returns the listing of one JSON file; the images are in its order.

    Training and validation images lie in the same folders, so the folders define no split. Images and annotations are
    two lists that are joined by the image's id: that they have the same order is promised nowhere.
    """
    content = parse_json(read_regular(root / _TABLES[source]))
    category_of = {row["image_id"]: row["category_id"] for row in content["annotations"]}
    names = {row["id"]: str(row["name"]) for row in content["categories"]}
    return Listing(
        files=[str(image["file_name"]) for image in content["images"]],
        labels=np.array([category_of[image["id"]] for image in content["images"]], dtype=np.int64),
        class_names=tuple(names[number] for number in range(len(names))),
    )


INAT2018 = listed(
    marker=_TABLES["train"], tables={source: (name,) for source, name in _TABLES.items()}, parse=_inat2018
)
