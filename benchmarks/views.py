"""Multi-crop views on one core, against the straightforward per-image pipeline."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from benchmarks.measure import Bar, Comparison, Times, take_turns
from massl_bench.pretrain.config import CropConfig, ViewsConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data import crops
from massl_bench.pretrain.data.crops import BatchRequest, HostBatch, MultiCropImages
from massl_bench.pretrain.data.sample import SampleImages, sample_photo
from massl_bench.pretrain.data.views import photometric_views

SUMMARY = "multi-crop views, against the published per-image pipeline"


def reference_view(crop: CropConfig, views: ViewsConfig) -> Callable[[Image.Image], Tensor]:
    """The published per-image pipeline of one view."""

    def blur(image: Image.Image) -> Image.Image:
        if random.random() >= crop.blur:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*views.blur_radius)))

    jitter = transforms.ColorJitter(views.brightness, views.contrast, views.saturation, views.hue)
    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(crop.size, crop.scale, views.ratio, transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(views.flip),
            transforms.RandomApply([jitter], views.jitter),
            transforms.RandomGrayscale(views.grey),
            transforms.Lambda(blur),
            transforms.RandomSolarize(views.solarise_threshold, crop.solarise),
            transforms.ToTensor(),
            transforms.Normalize(views.mean, views.std),
        ]
    )
    view: Callable[[Image.Image], Tensor] = steps
    return view


def run(quick: bool) -> list[Comparison]:
    """Returns the comparisons of batches of views on one thread, with the host's part of ours apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_photos(2 if quick else 16, 1 if quick else 5), _small(8 if quick else 256, 1 if quick else 5)]
    finally:
        torch.set_num_threads(threads)


def _photos(images: int, rounds: int) -> Comparison:
    """500 × 375 JPEG photographs, MaSSL's 2 × 224 and 10 × 96."""
    photo = sample_photo()
    views = load_config("massl-vits16-800ep").views
    times = _turns(SampleImages(photo), views, lambda: Image.open(io.BytesIO(photo)).convert("RGB"), images, rounds)
    host_ratio = times["published per-image pipeline"].median / times["its part on the host"].median
    return Comparison(
        what=f"{images} images, 2 × 224 and 10 × 96 views, one thread",
        times=times,
        bars=(Bar(call="published per-image pipeline", ratio=2.5, kind="faster"),),
        checks=((f"the host's part alone at least 9 × as fast: {host_ratio:.1f}", host_ratio >= 9),),
        notes=(f"{images / times['ours'].median:.1f} images/s",),
    )


def _small(images: int, rounds: int) -> Comparison:
    """32 × 32 images as PNG files, the views of `small-cifar10`; and the crops one after the other, as until now."""
    views = load_config("small-cifar10").views
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    png = buffer.getvalue()
    split = SampleImages(png)
    times = _turns(split, views, lambda: Image.open(io.BytesIO(png)).convert("RGB"), images, rounds)
    return Comparison(
        what=f"{images} images of 32 × 32, 2 × 32 and 2 × 16 views, one thread",
        times=times,
        notes=(f"the host's part: {images / times['its part on the host'].median:,.0f} images/s of one core",),
    )


def _turns(
    split: SampleImages, views: ViewsConfig, opened: Callable[[], Image.Image], images: int, rounds: int
) -> dict[str, Times]:
    ours = MultiCropImages(split, views, seed=0, rank=0)
    references = [reference_view(crop, views) for crop in views.crops]
    steps = iter(range(1 << 30))

    def reference() -> list[Tensor]:
        batch = []
        for _ in range(images):
            image = opened()
            batch.append([view(image) for view in references])
        return [torch.stack(view) for view in zip(*batch, strict=True)]

    def host() -> HostBatch:
        return ours[BatchRequest(next(steps), 0, range(images))]

    def one_by_one() -> HostBatch:
        together = crops.LARGEST_SIDE
        crops.LARGEST_SIDE = 0
        try:
            return host()
        finally:
            crops.LARGEST_SIDE = together

    def both() -> list[Tensor]:
        return [photometric_views(group.pixels, group.photometric, views) for group in host().groups]

    calls = {"ours": both, "its part on the host": host, "published per-image pipeline": reference}
    if views.global_1.size <= crops.LARGEST_SIDE:
        calls["its part on the host, crop by crop"] = one_by_one
    return take_turns(calls, rounds)
