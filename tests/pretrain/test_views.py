"""Views against torchvision and PIL, image by image and in distribution."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.transforms import functional as reference

from massl_bench.datasets.splits import ArraySplit
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.blur import gaussian_blur
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages, _cut, _Decoded, _room_for, crop_boxes
from massl_bench.pretrain.data.views import Photometric, draw_photometric, photometric_views, shift_hue
from massl_bench.pretrain.seeds import seeded_generator

VIEWS = load_config("massl-vits16-800ep").views
PLAIN = VIEWS.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})


@pytest.fixture(scope="module")
def picture() -> NDArray[Any]:
    """A smooth coloured picture, 120 × 90, uint8."""
    y, x = np.mgrid[0:90, 0:120] / 30
    channels = [np.sin(x + 2 * y), np.cos(2 * x - y), np.sin(3 * x) * np.cos(y)]
    return np.stack([(channel + 1) * 127 for channel in channels], -1).astype(np.uint8)


def nothing(count: int) -> Photometric:
    """Photometric parameters that change nothing."""
    no = torch.zeros(count, dtype=torch.bool)
    return Photometric(
        flip=no,
        jitter=no,
        order=torch.arange(4).repeat(count, 1),
        factors=torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(count, 1),
        grey=no,
        blur_radius=torch.zeros(count),
        solarise=no,
    )


def changed(**changes: Any) -> Photometric:
    parameters = nothing(1)
    for name, value in changes.items():
        setattr(parameters, name, torch.as_tensor(value)[None])
    return parameters


def as_tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("scale", [(0.32, 1.0), (0.05, 0.32)])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (60, 200)])
def test_crop_boxes_have_torchvisions_distribution(scale: Any, width: int, height: int) -> None:
    count = 4000
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    )[:, [1, 0, 3, 2]]
    uniform = np.random.default_rng(0).random((count, 22))
    ours = crop_boxes(width, height, np.tile(scale, (count, 1)), (3 / 4, 4 / 3), uniform)

    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= width).all()
    assert (ours[:, 1] + ours[:, 3] <= height).all()
    for values in (
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 2],
        lambda box: box[:, 3],
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 2] / box[:, 3]),
    ):
        # Kolmogorov and Smirnov's distance: above 1.95 · sqrt(2 / n) at one time in a thousand for equal distributions.
        everything = np.sort(np.concatenate([values(ours), values(theirs)]))
        distribution = [
            np.searchsorted(np.sort(values(box)), everything, side="right") / count for box in (ours, theirs)
        ]
        assert np.abs(distribution[0] - distribution[1]).max() < 1.95 * np.sqrt(2 / count)


def test_a_box_that_never_fits_is_the_largest_centred_one() -> None:
    """1,000 × 10 pixels at ratio 3/4 to 4/3: torchvision falls back to the height and 4/3 of it."""
    box = crop_boxes(1000, 10, np.array([[0.9, 1.0]]), (3 / 4, 4 / 3), np.random.default_rng(0).random((1, 22)))
    assert box.tolist() == [[(1000 - 13) // 2, 0, 13, 10]]


def test_crops_are_pils_but_for_rounding(picture: NDArray[Any]) -> None:
    images = MultiCropImages(ArraySplit("p", picture[None], np.zeros(1, np.int64), None), VIEWS, seed=3, rank=0)
    batch = images[BatchRequest(0, 0, [0])]
    assert [list(group.pixels.shape) for group in batch.groups] == [[2, 3, 224, 224], [10, 3, 96, 96]]
    # The same boxes, cut and resized by PIL.
    uniform = torch.rand(12, 1, 22, generator=seeded_generator(3, "views", 0, 0, 0)).double().numpy()[:, 0]
    boxes = crop_boxes(120, 90, np.array([crop.scale for crop in VIEWS.crops]), VIEWS.ratio, uniform)
    crops = [*batch.groups[0].pixels, *batch.groups[1].pixels]
    for crop, (left, top, width, height) in zip(crops, boxes.tolist(), strict=True):
        side = crop.shape[-1]
        expected = Image.fromarray(picture).crop((left, top, left + width, top + height))
        expected = as_tensor(expected.resize((side, side), Image.Resampling.BICUBIC))  # type: ignore[assignment]
        difference = (crop.float() - expected.float()).abs()
        assert difference.max() <= 2
        assert difference.mean() < 0.02


def test_a_large_jpeg_is_decoded_small_and_cut_alike(picture: NDArray[Any]) -> None:
    """At 1,920 × 1,440 all crops of 8 pixels are far larger than their views: an eighth is decoded."""
    buffer = io.BytesIO()
    Image.fromarray(picture).resize((1920, 1440), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)

    class OneFile(ArraySplit):
        def __init__(self, content: Any) -> None:
            self.content = content

        def encoded(self, indices: Any) -> list[Any]:
            return [self.content] * len(indices)

    views = load_config("tiny-digits").views
    whole = np.array(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    reduced, full = (
        MultiCropImages(OneFile(content), views, seed=0, rank=0)[BatchRequest(0, 0, [0])]
        for content in (buffer.getvalue(), whole)
    )
    for a, b in zip(reduced.groups, full.groups, strict=True):
        difference = (a.pixels.float() - b.pixels.float()).abs()
        assert difference.mean() < 1.0
        assert difference.max() < 12


def test_batches_depend_on_seed_rank_step_and_piece_only(picture: NDArray[Any]) -> None:
    split = ArraySplit("p", np.stack([picture, picture[::-1]]), np.zeros(2, np.int64), None)

    def crops(seed: int, rank: int, step: int, piece: int) -> torch.Tensor:
        batch = MultiCropImages(split, VIEWS, seed=seed, rank=rank)[BatchRequest(step, piece, [1, 0])]
        return torch.cat([group.pixels.flatten() for group in batch.groups])

    first = crops(0, 0, 5, 0)
    assert torch.equal(first, crops(0, 0, 5, 0))
    for other in ((1, 0, 5, 0), (0, 1, 5, 0), (0, 0, 6, 0), (0, 0, 5, 1)):
        assert not torch.equal(first, crops(*other))


@pytest.mark.parametrize("side", [8, 16, 96, 224])
@pytest.mark.parametrize("radius", [0.1, 0.7, 1.0, 1.6, 2.0])
def test_blur_is_pils(side: int, radius: float) -> None:
    """PIL rounds to 8 bits after each of six passes: at most three levels, and two on average nowhere near."""
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8)
    expected = as_tensor(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(radius))).float()
    blurred = gaussian_blur(as_tensor(noise)[None].float(), torch.tensor([radius]))[0]
    assert (blurred - expected).abs().max() < 3.0
    assert (blurred - expected).abs().mean() < 1.1


def test_blur_keeps_a_flat_image_and_each_image_has_its_own_radius() -> None:
    images = torch.cat([torch.full((1, 3, 40, 40), 0.25), torch.zeros(1, 3, 40, 40)])
    images[1, :, 20, 20] = 1.0
    blurred = gaussian_blur(images, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(blurred[0], images[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(blurred[1].sum((1, 2)), torch.ones(3))
    offset = torch.arange(40) - 20.0
    variance = (blurred[1, 0].sum(0) * offset.square()).sum()
    assert variance.item() == pytest.approx(1.0, rel=1e-4)  # the variance of PIL's boxes is the radius squared


@pytest.mark.parametrize("shift", [-0.1, 0.0, 0.03, 0.1, 0.5])
def test_hue_is_torchvisions(shift: float) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[1] = images[1, :1]  # grey
    expected = reference.adjust_hue(images, shift)
    torch.testing.assert_close(shift_hue(images.clone(), torch.full((2,), shift)), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_colour_jitter_is_torchvisions(picture: NDArray[Any], order: Any) -> None:
    factors = [1.3, 0.7, 0.85, -0.08]
    image = as_tensor(picture[:64, :64])
    changes = [
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    ]
    expected = image.float() / 255
    for index in order:
        expected = changes[index](expected, factors[index])
    parameters = changed(jitter=True, order=order, factors=factors)
    ours = photometric_views(image[None], parameters, PLAIN)[0]
    # torchvision's weights of the luma have four digits.
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-4)


def test_flip_grey_and_solarisation_are_pils(picture: NDArray[Any]) -> None:
    crop = picture[:32, :32]
    for parameters, expected in (
        (changed(flip=True), as_tensor(crop[:, ::-1].copy())),
        (changed(grey=True), as_tensor(Image.fromarray(crop).convert("L").convert("RGB"))),
        (changed(solarise=True), as_tensor(reference.solarize(Image.fromarray(crop), 128))),
    ):
        ours = photometric_views(as_tensor(crop)[None], parameters, PLAIN)[0] * 255
        assert (ours - expected).abs().max() <= 0.51


def test_parameters_have_their_probabilities() -> None:
    count, generator = 20_000, torch.Generator().manual_seed(0)
    drawn = draw_photometric(VIEWS, VIEWS.global_2, count, generator)
    for values, probability in (
        (drawn.flip, 0.5),
        (drawn.jitter, 0.8),
        (drawn.grey, 0.2),
        (drawn.blur_radius > 0, 0.1),
        (drawn.solarise, 0.2),
    ):
        # Four standard deviations of a mean of `count` draws.
        assert values.float().mean().item() == pytest.approx(probability, abs=4 * 0.5 / count**0.5)
    radii = drawn.blur_radius[drawn.blur_radius > 0]
    assert 0.1 <= radii.min() < 0.12
    assert 1.98 < radii.max() <= 2.0
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        factors = drawn.factors[:, column]
        assert low <= factors.min() < low + 0.01
        assert high - 0.01 < factors.max() <= high
    orders = (drawn.order * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(orders) == 24
    assert orders.float().std() / orders.float().mean() < 0.08


def test_colour_statistics_equal_the_per_image_pipeline(picture: NDArray[Any]) -> None:
    """Mean and spread of every channel, over many draws on one crop."""
    count = 1500
    crop = picture[20:52, 30:62]
    torch.manual_seed(0)
    np_rng = np.random.default_rng(0)

    def blurred(image: Any) -> Any:
        if np_rng.random() >= 0.1:
            return image
        return image.filter(ImageFilter.GaussianBlur(np_rng.uniform(0.1, 2)))

    pipeline = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.Lambda(blurred),
            transforms.RandomSolarize(128, 0.2),
            transforms.ToTensor(),
        ]
    )
    theirs = torch.stack([pipeline(Image.fromarray(crop)) for _ in range(count)])
    drawn = draw_photometric(VIEWS, VIEWS.global_2, count, torch.Generator().manual_seed(1))
    ours = photometric_views(as_tensor(crop)[None].repeat(count, 1, 1, 1), drawn, PLAIN)
    for statistic in (
        lambda images: images.mean((2, 3)),  # per image and channel
        lambda images: images.std((2, 3)),
        lambda images: (images[:, 0] - images[:, 2]).mean((1, 2))[:, None],
    ):
        a, b = statistic(ours), statistic(theirs)
        error = (a.var(0) / count + b.var(0) / count).sqrt()
        # Four standard errors, and half a level of 255 for what PIL's rounding takes off.
        assert ((a.mean(0) - b.mean(0)).abs() < 4 * error + 0.75 / 255 * 2).all()
        torch.testing.assert_close(a.std(0), b.std(0), rtol=0.1, atol=2e-3)


def test_all_views_together_equal_one_after_the_other(picture: NDArray[Any]) -> None:
    """Which images share a batch, and how a CPU cuts it into pieces, changes no image."""
    pixels = as_tensor(picture[:64, :64])[None].repeat(12, 1, 1, 1)
    drawn = draw_photometric(VIEWS, VIEWS.global_2, 12, torch.Generator().manual_seed(4))
    drawn.blur_radius[::3] = 1.5
    together = photometric_views(pixels, drawn, VIEWS)
    for row in range(12):
        alone = photometric_views(pixels[row : row + 1], drawn.rows(slice(row, row + 1)), VIEWS)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=2e-5)


def test_the_order_of_pixels_in_memory_changes_no_bit_of_a_view(picture: NDArray[Any]) -> None:
    planes = as_tensor(picture[:64, :64])[None].repeat(12, 1, 1, 1)
    drawn = draw_photometric(VIEWS, VIEWS.global_2, 12, torch.Generator().manual_seed(4))
    views = photometric_views(planes, drawn, VIEWS)
    for pixels in (planes.contiguous(memory_format=torch.channels_last), planes.mT.contiguous().mT):
        before = pixels.clone()
        found = photometric_views(pixels, drawn, VIEWS)
        assert torch.equal(found, views)
        assert found.is_contiguous()
        assert torch.equal(pixels, before)


def test_views_are_cut_as_torch_resizes_to_planes(picture: NDArray[Any]) -> None:
    """The bytes are those of a resize into [3, S, S]; a group's pixels stay one block of memory, as they are sent."""
    split = ArraySplit("p", picture[None], np.zeros(1, np.int64), None)
    for group in MultiCropImages(split, VIEWS, seed=3, rank=0)[BatchRequest(0, 0, [0])].groups:
        assert group.pixels.permute(0, 2, 3, 1).is_contiguous()
    boxes = [(3, 4, 50, 60), (0, 0, 120, 90)]
    for size in (32, 48, 96):
        room, planes = _room_for(2, 1, size), torch.empty(2, 3, size, size, dtype=torch.uint8)
        _cut(_Decoded(picture, lambda: np.array(boxes)), [view[0] for view in room])
        for view, (left, top, width, height) in zip(planes, boxes, strict=True):
            crop = as_tensor(picture)[None, :, top : top + height, left : left + width]
            view.copy_(torch.nn.functional.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0])
        assert torch.equal(room[:, 0], planes)
        assert room.is_contiguous() == (size == 32)  # those are resized together, into planes
