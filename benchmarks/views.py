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

from benchmarks.measure import Bar, Comparison, take_turns
from massl_bench.datasets import EncodedImage
from massl_bench.datasets.splits import ImageSplit
from massl_bench.pretrain.config import CropConfig, ViewsConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.crops import BatchRequest, HostBatch, MultiCropImages
from massl_bench.pretrain.data.views import photometric_views

SUMMARY = "multi-crop views, against the published per-image pipeline"


class OnePhoto(ImageSplit):
    """The same encoded image, as often as it is asked for."""

    labels, class_names = None, None

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __len__(self) -> int:
        return 1 << 30

    def encoded(self, indices: object) -> list[EncodedImage]:
        return [self._content for _ in indices]  # type: ignore[attr-defined]

    def locate(self, index: int) -> str:
        return str(index)


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


def synthetic_photo() -> bytes:
    """Returns a JPEG of 500 × 375 with the frequencies of a soft photograph."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def run(quick: bool) -> list[Comparison]:
    """Returns the comparison of a batch of views on one thread, with the host's part of ours apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_compare(2 if quick else 16, 1 if quick else 5)]
    finally:
        torch.set_num_threads(threads)


def _compare(images: int, rounds: int) -> Comparison:
    photo = synthetic_photo()
    views = load_config("massl-vits16-800ep").views
    ours = MultiCropImages(OnePhoto(photo), views, seed=0, rank=0)
    references = [reference_view(crop, views) for crop in views.crops]
    steps = iter(range(1 << 30))

    def reference() -> list[Tensor]:
        batch = []
        for _ in range(images):
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            batch.append([view(image) for view in references])
        return [torch.stack(view) for view in zip(*batch, strict=True)]

    def host() -> HostBatch:
        return ours[BatchRequest(next(steps), 0, range(images))]

    def both() -> list[Tensor]:
        return [photometric_views(group.pixels, group.photometric, views) for group in host().groups]

    calls = {"ours": both, "its part on the host": host, "published per-image pipeline": reference}
    times = take_turns(calls, rounds)
    host_ratio = times["published per-image pipeline"].median / times["its part on the host"].median
    return Comparison(
        what=f"{images} images, 2 × 224 and 10 × 96 views, one thread",
        times=times,
        bars=(Bar(call="published per-image pipeline", ratio=2.5, kind="faster"),),
        notes=(
            f"{images / times['ours'].median:.1f} images/s; the host's part alone {host_ratio:.1f} × as fast as the "
            "published pipeline (bar 9)",
        ),
    )
