"""Augmented views: what is drawn depends on seed, epoch and item alone, and a view is torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torchvision import transforms as reference

from massl_bench.core.errors import CellError
from massl_bench.core.settings import Augmentation, JitteredAugmentation
from massl_bench.core.values import ViewPlan
from massl_bench.datasets import EncodedImage, decode_rgb
from massl_bench.datasets.images.preprocess import apply_preprocessing, cut_view, jitter_view
from massl_bench.datasets.splits import ArraySplit
from massl_bench.features import ExtractionOptions, Reporting
from massl_bench.features.views import AugmentedImages, EncodedViews
from massl_bench.models.encoder import Encoder
from massl_bench.models.pixels import pixels_card, pixels_encoder

AUGMENTATION = Augmentation(
    crop_scale=(0.08, 1.0), crop_ratio=(0.75, 4 / 3), crop_interpolation="bilinear", flip_probability=0.5
)
WHOLE = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), crop_interpolation="bicubic", flip_probability=0.0)
PREPROCESSING = pixels_card().preprocessing


def noise_split(count: int = 11, side: int = 40) -> ArraySplit:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return ArraySplit("noise", pixels, np.arange(count) % 3, None)


def seen(images: AugmentedImages, encoded: EncodedImage, key: tuple[int, int]) -> np.ndarray:
    return images.prepared(images.decoded(encoded), key, PREPROCESSING)


def plan_of(**changes: Any) -> ViewPlan:
    plan = ViewPlan(rows=np.arange(11), num_epochs=2, batch_size=4, augmentation=AUGMENTATION, seed=5)
    return replace(plan, **changes)


def views_of(options: ExtractionOptions | None = None, encoder: Encoder | None = None, **changes: Any) -> EncodedViews:
    arguments: dict[str, Any] = {"label": "noise", "limit": None, "reporting": Reporting(), **changes}
    encoder = encoder or pixels_encoder()
    return EncodedViews(encoder, noise_split(), PREPROCESSING, options or ExtractionOptions(), **arguments)


def everything(views: EncodedViews, plan: ViewPlan) -> tuple[np.ndarray, np.ndarray]:
    batches = [batch for epoch in views.epochs(plan) for batch in epoch]
    return np.concatenate([b.features for b in batches]), np.concatenate([b.rows for b in batches])


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (64, 0), (2, 2)])
@pytest.mark.parametrize("training_batch", [1, 4, 100])
def test_batch_sizes_and_workers_change_no_view(batch_size: int, workers: int, training_batch: int) -> None:
    features, rows = everything(views_of(), plan_of())
    options = ExtractionOptions(batch_size=batch_size, num_workers=workers)
    others, other_rows = everything(views_of(options), plan_of(batch_size=training_batch))
    assert (rows == other_rows).all()
    assert (features == others).all()


def test_every_item_once_an_epoch_in_another_order_and_another_view() -> None:
    features, rows = everything(views_of(), plan_of())
    first, second = rows[:11], rows[11:]
    assert sorted(first) == sorted(second) == list(range(11))
    assert first.tolist() != second.tolist()
    by_item = np.stack([features[:11][np.argsort(first)], features[11:][np.argsort(second)]])
    assert (by_item[0] != by_item[1]).any(axis=1).all()
    assert (everything(views_of(), plan_of(seed=6))[0] != features).any()
    assert [len(batch.rows) for batch in next(views_of().epochs(plan_of()))] == [4, 4, 3]


def test_an_items_view_does_not_depend_on_the_others() -> None:
    features, rows = everything(views_of(), plan_of(num_epochs=1))
    alone, _ = everything(views_of(), plan_of(num_epochs=1, rows=np.array([7])))
    assert (alone[0] == features[rows == 7]).all()


def test_a_whole_square_without_flip_is_the_plain_image() -> None:
    features, rows = everything(views_of(), plan_of(augmentation=WHOLE))
    split = noise_split()
    for feature, row in zip(features, rows, strict=True):
        plain = apply_preprocessing(decode_rgb(split.encoded([row])[0]), PREPROCESSING)
        np.testing.assert_allclose(feature, plain.ravel() / np.float32(255), atol=1e-7)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_view_is_torchvisions_resized_crop(mirrored: bool, interpolation: str) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3)).astype(np.uint8))
    mode = reference.InterpolationMode(interpolation)
    expected = reference.functional.resized_crop(image, 5, 9, 30, 41, [24, 24], mode)
    if mirrored:
        expected = reference.functional.hflip(expected)
    found = cut_view(image, (9, 5, 41, 30), 24, interpolation, mirrored=mirrored)  # type: ignore[arg-type]
    assert (found == np.asarray(expected).transpose(2, 0, 1)).all()


def test_colours_change_in_order_each_or_not() -> None:
    view = np.random.default_rng(2).integers(0, 256, (3, 12, 12)).astype(np.uint8)
    drawn = np.array([0.1, 0.9, 0.7, 0.2, 0.4, 0.0, 0.6, 0.3])  # whether and how much: brightness and saturation change
    image = Image.fromarray(view.transpose(1, 2, 0))
    image = ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(1 + 0.2 * 0.8)).enhance(1 - 0.2)
    assert (jitter_view(view, 0.2, 0.5, drawn) == np.asarray(image).transpose(2, 0, 1)).all()
    assert (jitter_view(view, 0.2, 0.0, drawn) == view).all()
    red = np.zeros((3, 2, 2), dtype=np.uint8)
    red[0] = 200
    turned = jitter_view(red, 0.5, 1.0, np.array([0, 0.5, 0, 0.5, 0, 0.5, 0, 5 / 6]))  # by a third: green
    assert turned[1].min() > 190
    assert max(turned[0].max(), turned[2].max()) < 10


def test_colours_are_drawn_by_epoch_and_item_and_places_stay() -> None:
    jittered = JitteredAugmentation(**AUGMENTATION.model_dump(), jitter=0.3, jitter_probability=0.5)
    split = ArraySplit("grey", np.full((400, 8, 8, 3), 100, dtype=np.uint8), np.zeros(400, dtype=np.int64), None)
    images = AugmentedImages(split, PREPROCESSING, plan_of(augmentation=jittered), 1)
    bright = np.array([seen(images, split.encoded([item])[0], (0, item)).max() for item in range(400)])
    assert (bright != 100).mean() == pytest.approx(0.5, abs=0.1)  # of grey, only brightness shows; four deviations
    assert 70 <= bright.min() < 75
    assert 125 < bright.max() <= 130
    other = AugmentedImages(split, PREPROCESSING, plan_of(augmentation=jittered), 1)
    assert seen(other, split.encoded([7])[0], (0, 7)).max() == bright[7]
    features = everything(views_of(), plan_of())[0]
    plain = jittered.model_copy(update={"jitter_probability": 0.0})
    assert (everything(views_of(), plan_of(augmentation=plain))[0] == features).all()


def test_flips_and_areas_have_their_distributions() -> None:
    """One image, left half dark: the flips show, and the share of its area is uniform in the scale."""
    pixels = np.zeros((1, 400, 400, 3), dtype=np.uint8)
    pixels[:, :, 200:] = 255
    split = ArraySplit("halves", pixels, np.zeros(1, dtype=np.int64), None)
    whole = WHOLE.model_copy(update={"flip_probability": 0.3})
    images = AugmentedImages(split, PREPROCESSING, plan_of(augmentation=whole), 1)
    flipped = [seen(images, pixels[0], (epoch, 0))[0, 16, 0] > 128 for epoch in range(400)]
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.1)  # four standard deviations


def test_a_limit_and_progress() -> None:
    calls: list[tuple[str, int]] = []
    done: list[int] = []

    class Bar:
        def __enter__(self) -> Callable[[int], None]:
            return done.append

        def __exit__(self, *_: object) -> None:
            pass

    def progress(label: str, total: int) -> Bar:
        calls.append((label, total))
        return Bar()

    views = views_of(ExtractionOptions(batch_size=2), limit=5, reporting=Reporting(progress=progress))
    assert len(views) == 5
    everything(views, plan_of(rows=np.arange(5)))
    assert calls == [("noise, epoch 1 of 2", 5), ("noise, epoch 2 of 2", 5)]
    assert sum(done) == 10
    assert views.seconds > 0


def test_plain_items_are_those_of_a_bank() -> None:
    rows = np.array([8, 1, 5])
    views = views_of(options=ExtractionOptions(batch_size=2))
    found = list(views.plain(rows))
    assert [batch.rows.tolist() for batch in found] == [[8, 1], [5]]
    seen = [apply_preprocessing(Image.fromarray(noise_split()._pixels[row]), PREPROCESSING) for row in rows]
    encoder = pixels_encoder()
    expected = encoder(encoder.normalise(torch.from_numpy(np.stack(seen)))).numpy()
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in found]), expected)
    assert views.num_seen == 3


def test_the_validation_part_ends_with_the_limit() -> None:
    for limit, expected in ((None, 7), (8, 7), (7, None), (3, None)):
        assert views_of(limit=limit, validation_from=7).validation_from == expected


def test_damaged_images_and_features_end_the_cell() -> None:
    class Damaged(ArraySplit):
        def encoded(self, indices: Any) -> Any:
            return [b"no image" if index == 7 else super(Damaged, self).encoded([index])[0] for index in indices]

    split = noise_split()
    damaged = Damaged("noise", split._pixels, split.labels, None)  # type: ignore[arg-type]
    views = EncodedViews(
        pixels_encoder(),
        damaged,
        PREPROCESSING,
        ExtractionOptions(skip_corrupt=True),
        label="noise",
        limit=None,
        reporting=Reporting(),
    )
    with pytest.raises(CellError, match=r"noise, row 7: corrupt image: .*skip_corrupt=True does not apply"):
        everything(views, plan_of())

    class Broken(torch.nn.Flatten):
        def forward(self, images: Any) -> Any:
            return super().forward(images) / 0

    with pytest.raises(CellError, match="a feature of an augmented view is not finite"):
        everything(views_of(encoder=Encoder(Broken(), pixels_card())), plan_of())
