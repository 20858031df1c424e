"""In-context segmentation: a patch gets the classes of the patches that are nearest to it, and no decoder is trained.

The dense evaluation of Hummingbird (Balažević et al., NeurIPS 2023), as open-hummingbird-eval runs it. The memory holds
patch features of the training images' augmented views, of unit norm, each with the shares of the classes among its
pixels; of every view as many patches as the memory has room for, rather those of classes that few patches of the view
show. A test patch takes the mean of the shares of its k nearest patches (cosine), weighted by softmax(similarity / T);
the maps are brought to the size of the image bilinearly, and every pixel gets its largest class.

Pixels without a class (the borders of VOC's objects) count as class 0 in the memory, as published, and not at all in
the test; nor do those of a class that the dataset ignores.

Shapes: N images, L patches of an image, D dimensions, M patches in memory, C classes, K neighbours, S side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.settings import JitteredAugmentation
from massl_bench.core.values import IGNORED, DenseBatch, EvaluationData, Scores, ViewPlan
from massl_bench.core.wording import parameters
from massl_bench.learners.cosines import unit_rows
from massl_bench.learners.neighbours import cosine_neighbours
from massl_bench.metrics.segmentation import joined, pixel_counts, segmentation_scores
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.labels import check_not_empty

_ROLES = ("train", "test")
_IMAGES_TOGETHER = 32
"""Views of the memory, which are one batch of the encoder's."""


class Params(JitteredAugmentation):
    """The parameters of the protocol."""

    memory_size: int = Field(gt=0)
    """Patches that the memory has room for."""
    epochs: int = Field(gt=0)
    """Views of each training image."""
    k: int = Field(gt=0)
    """Neighbours of a patch."""
    temperature: float = Field(ge=0.0125)
    bootstrap_resamples: int = Field(gt=0)

    def patches_each(self, num_images: int) -> int:
        """Returns how many patches of a view there is room for."""
        return self.memory_size // (num_images * self.epochs)


def metric_names(params: Params) -> list[str]:
    """Returns the metrics; their names do not depend on the parameters."""
    return ["miou", "pixel_accuracy", "miou_matched"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or a memory without room for a patch of every view."""
    check_not_empty(_ROLES, num_items)
    if params.patches_each(num_items["train"]) < 1:
        needed = num_items["train"] * params.epochs
        raise RequestError(
            f"memory_size = {params.memory_size} has no room for one patch of each of {needed} views: "
            f"{parameters(memory_size=needed)}"
        )


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns the mean IoU, with an interval over the test images, and pixel accuracy.

    Raises:
        RequestError: The memory would hold fewer patches than neighbours are asked.
        CellError: An image or its mask is damaged; patches and pixels do not fit.
    """
    assert data.num_classes is not None
    check_sizes(params, {role: len(data.dense[role]) for role in _ROLES})
    features_MD, shares_MC = _memory(data, params, rng)
    if len(features_MD) < params.k:
        raise RequestError(
            f"k = {params.k} asked, and the memory holds {len(features_MD)} patches: {parameters(k=len(features_MD))}"
        )
    parts = []
    for batch in data.dense["test"].dense(None):
        side, grid = batch.masks.shape[-1], _grid(batch)
        maps = _shares(batch, features_MD, shares_MC, params, data)
        given = np.stack([_classes(shares_LC, side) for shares_LC in maps])
        parts.append(pixel_counts(_that_count(batch.masks, data), given, data.num_classes, IGNORED))
    counts = joined(parts)
    if not counts.true_NC.any():
        raise CellError("no pixel of the test images has a class that counts")
    found = segmentation_scores(counts, params.bootstrap_resamples, rng)
    details: dict[str, float | int | str] = {
        "memory_patches": len(features_MD),
        "memory_mb": round((features_MD.nbytes + shares_MC.nbytes) / 1e6, 1),
        "patches_of_a_view": len(features_MD) // (len(data.dense["train"]) * params.epochs),
        "resolution": side,
        "patches_of_an_image": grid * grid,
        "classes_counted": int((counts.true_NC.sum(0) > 0).sum()),
    }
    return Scores({name: replace(score, details=details) for name, score in found.items()})


def _that_count(masks_BSS: NDArray[np.uint8], data: EvaluationData) -> NDArray[np.uint8]:
    """Returns masks in which pixels that do not count are `IGNORED`; raises `CellError` for an unknown class."""
    assert data.num_classes is not None
    strange = masks_BSS[(masks_BSS >= data.num_classes) & (masks_BSS != IGNORED)]
    if len(strange):
        raise CellError(f"a mask has the class {strange[0]}, and the dataset has {data.num_classes}")
    return np.where(masks_BSS == data.ignored_class, np.uint8(IGNORED), masks_BSS)


def _memory(
    data: EvaluationData, params: Params, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns (features [M, D] of unit norm, the shares of the classes among the pixels of each [M, C])."""
    assert data.num_classes is not None
    num_images = len(data.dense["train"])
    plan = ViewPlan(
        rows=np.arange(num_images),
        num_epochs=params.epochs,
        batch_size=_IMAGES_TOGETHER,
        augmentation=params,
        seed=int(rng.integers(2**62)),
    )
    memory: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    filled = 0
    for batch in data.dense["train"].dense(plan):
        each = min(params.patches_each(num_images), batch.features.shape[1])
        if memory is None:  # its size is known now, and it is never larger
            count = num_images * params.epochs * each
            widths = batch.features.shape[2], data.num_classes
            memory = tuple(np.empty((count, width), dtype=np.float32) for width in widths)  # type: ignore[assignment]
        assert memory is not None
        shares_BLC = patch_shares(batch, data.num_classes)
        for features_LD, shares_LC in zip(batch.features, shares_BLC, strict=True):
            chosen = _rare_first(shares_LC > 0, rng)[:each]
            place = slice(filled, filled + each)
            memory[0][place], memory[1][place] = unit_rows(features_LD[chosen]), shares_LC[chosen]
            filled += each
    assert memory is not None
    return memory


def patch_shares(batch: DenseBatch, num_classes: int) -> NDArray[np.float32]:
    """Returns the share of each class among the pixels of each patch, float32 [B, L, C]; no class counts as class 0.

    Raises:
        CellError: The patches do not divide the image, or a pixel has a class that the dataset has not.
    """
    num_images, side, _ = batch.masks.shape
    grid = _grid(batch)
    classes = np.where(batch.masks == IGNORED, 0, batch.masks)
    if classes.max(initial=0) >= num_classes:
        raise CellError(f"a mask has the class {classes.max()}, and the dataset has {num_classes}")
    patch = side // grid
    pixels_BLX = classes.reshape(num_images, grid, patch, grid, patch).swapaxes(2, 3).reshape(num_images, grid**2, -1)
    cells = pixels_BLX + num_classes * np.arange(num_images * grid**2).reshape(num_images, -1, 1)
    counts = np.bincount(cells.ravel(), minlength=num_images * grid**2 * num_classes)
    shares_BLC: NDArray[np.float32] = (counts / patch**2).astype(np.float32).reshape(num_images, grid**2, num_classes)
    return shares_BLC


def _grid(batch: DenseBatch) -> int:
    """Returns the number of patches along a side; raises `CellError` where they do not divide the image."""
    num_patches, side = batch.features.shape[1], batch.masks.shape[-1]
    grid = math.isqrt(num_patches)
    if grid * grid != num_patches or side % grid:
        raise CellError(f"{num_patches} patches do not divide images of {side} × {side} pixels")
    return grid


def _rare_first(shown_LC: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the patches of a view in the order in which they are kept.

    By the number of patches that show a class, summed over the classes of a patch, times a random number in [0, 1).
    """
    score_L = (shown_LC @ shown_LC.sum(axis=0)) * rng.random(len(shown_LC))
    order_L: NDArray[np.int64] = np.argsort(score_L, kind="stable")
    return order_L


def _shares(
    batch: DenseBatch,
    features_MD: NDArray[np.float32],
    shares_MC: NDArray[np.float32],
    params: Params,
    data: EvaluationData,
) -> Iterator[NDArray[np.float32]]:
    """Yields the shares of the classes that each patch of an image takes of its neighbours, float32 [L, C]."""
    num_images, num_patches, dim = batch.features.shape
    queries_QD = batch.features.reshape(-1, dim)
    found = cosine_neighbours(queries_QD, features_MD, params.k, backend=data.backend)
    weight_QK = np.exp((found.similarities_QK - found.similarities_QK[:, :1]) / np.float32(params.temperature))
    weight_QK /= weight_QK.sum(axis=1, keepdims=True)
    for image in range(num_images):
        rows = slice(image * num_patches, (image + 1) * num_patches)
        yield np.einsum("qk,qkc->qc", weight_QK[rows], shares_MC[found.indices_QK[rows]], optimize=True)


def _classes(shares_LC: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Returns the class of every pixel, uint8 [S, S], of a map of shares that is enlarged bilinearly."""
    import torch
    from torch.nn import functional

    grid = math.isqrt(len(shares_LC))
    maps_1Cnn = torch.from_numpy(shares_LC).T.reshape(1, -1, grid, grid)
    large_CSS = functional.interpolate(maps_1Cnn, (side, side), mode="bilinear", align_corners=False)[0]
    return large_CSS.argmax(dim=0).numpy().astype(np.uint8)


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    view_roles=_ROLES,
    needs_torch=True,
)
