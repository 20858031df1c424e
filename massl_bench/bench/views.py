"""Samples of the views that a model was pretrained on, as its manifest tells them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from massl_bench.bench.galleries import jpeg_of
from massl_bench.core.errors import MasslBenchError
from massl_bench.core.galleries import Gallery, Neighbour, Query, Thumbnail
from massl_bench.datasets import DataOptions, ImageSplit, open_dataset
from massl_bench.specs.registry import Registry

_IMAGES = 4


def views_of(name: str, registry: Registry, data: DataOptions, say: Callable[[str], None]) -> Gallery | None:
    """Returns some training images with the views that are cut of them; None where nobody knows which views.

    Args:
        name: of a model with a manifest.
        registry: holds it.
        data: where the training images are.
        say: told why there are none, where the manifest has a configuration.
    """
    training = registry.manifest(name).training if name in registry.manifests else {}
    config, dataset = training.get("config"), training.get("dataset")
    if not isinstance(config, dict) or "views" not in config or not isinstance(dataset, str):
        return None
    try:
        found = open_dataset(dataset, registry, data)
        role = "train" if "train" in found.sources else next(iter(found.sources))
        queries = _cut(found.split(role), config["views"], int(config.get("seed", 0)))
    except (MasslBenchError, ValueError) as error:
        say(f"{name}: no samples of its views: {error}")
        return None
    count = len(found.split(role))
    text = f"{len(queries)} of {count:,} {role} images of {dataset}, drawn, each with its global and local views"
    return Gallery(title="What the network saw", text=text, queries=queries)


def _cut(split: ImageSplit, views: object, seed: int) -> list[Query]:
    import torch
    from PIL import Image

    from massl_bench.pretrain.config import ViewsConfig
    from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages
    from massl_bench.pretrain.data.views import photometric_views

    config = ViewsConfig.model_validate(views)
    rows = np.sort(np.random.default_rng(seed).permutation(len(split))[:_IMAGES]).tolist()
    batch = MultiCropImages(split, config, seed=seed, rank=0)[BatchRequest(0, 0, rows)]
    if batch.problem is not None:
        raise ValueError(batch.problem)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    shown: list[list[Neighbour]] = [[] for _ in rows]
    names = iter(["global 1", "global 2", *(f"local {number}" for number in range(1, config.num_local + 1))])
    for group in batch.groups:
        images = photometric_views(group.pixels, group.photometric, config) * std + mean
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for view in range(group.num_views):
            label = next(names)
            for place in range(len(rows)):
                image = Thumbnail(jpeg=jpeg_of(Image.fromarray(pixels[view * len(rows) + place])), label=label)
                shown[place].append(Neighbour(image=image, right=None, similarity=None))
    queries = []
    for row, neighbours in zip(rows, shown, strict=True):
        image = Thumbnail(jpeg=jpeg_of(split.decode(split.encoded([row])[0])), label=split.locate(row))
        queries.append(Query(image=image, note=split.locate(row), neighbours=neighbours))
    return queries
