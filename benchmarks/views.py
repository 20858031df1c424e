"""Images a second through multi-crop views on one core, against the straightforward per-image pipeline.

    python benchmarks/views.py PHOTO.jpg
    python benchmarks/views.py PHOTO.jpg --images 64 --rounds 5

The photo is resized to 500 × 375 and coded as JPEG. Views are those of `massl-vits16-800ep`: 2 × 224 and 10 × 96. The
rounds of both pipelines alternate, and what is measured is the processor time of one thread: other work on the machine
does not count. The median of the rounds is reported.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from massl_bench.datasets import EncodedImage
from massl_bench.datasets.splits import ImageSplit
from massl_bench.pretrain.config import CropConfig, ViewsConfig, load_config
from massl_bench.pretrain.crops import BatchRequest, HostBatch, MultiCropImages
from massl_bench.pretrain.views import photometric_views


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)

    buffer = io.BytesIO()
    Image.open(options.photo).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=90
    )
    photo = buffer.getvalue()
    views = load_config("massl-vits16-800ep").views
    ours = MultiCropImages(OnePhoto(photo), views, seed=0, rank=0)
    references = [reference_view(crop, views) for crop in views.crops]

    def reference() -> list[Tensor]:
        batch = []
        for _ in range(options.images):
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            batch.append([view(image) for view in references])
        return [torch.stack(view) for view in zip(*batch, strict=True)]

    steps = iter(range(1 << 30))

    def host() -> HostBatch:
        return ours[BatchRequest(next(steps), 0, range(options.images))]

    def device(batch: HostBatch) -> list[Tensor]:
        return [photometric_views(group.pixels, group.photometric, views) for group in batch.groups]

    seconds: dict[str, list[float]] = {"reference": [], "host": [], "all": []}
    for round_number in range(options.rounds + 1):
        for name, work in (("reference", reference), ("host", host), ("all", lambda: device(host()))):
            start = time.process_time()
            work()
            if round_number:  # the first only warms up
                seconds[name].append(time.process_time() - start)
    rates = {name: options.images / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:10}{rate:8.1f} images/s{rate / rates['reference']:8.2f} x{1e3 / rate:8.2f} ms an image")
    print(f"photo {options.photo.name}, {len(photo)} bytes as JPEG; torch {torch.__version__}")


if __name__ == "__main__":
    main()
