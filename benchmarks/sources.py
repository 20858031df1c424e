"""Views cut from WebDataset shards and from parquet against the same images as files, on one core."""

from __future__ import annotations

import io
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Comparison, take_turns
from massl_bench.datasets.shards import find_shards
from massl_bench.datasets.splits import FileSplit, ImageSplit
from massl_bench.datasets.tables import ParquetSplit
from massl_bench.pretrain.config import ViewsConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data.crops import BatchRequest, MultiCropImages

SUMMARY = "views cut from files, WebDataset shards and parquet, in any order"

PARTS = 4
"""Shards, and parquet files."""


def run(quick: bool) -> list[Comparison]:
    """Returns the comparison of one batch of photographs of 500 × 375, the views of `massl-vits16-800ep`."""
    images, batch = (16, 4) if quick else (512, 64)
    views, order = load_config("massl-vits16-800ep").views, np.random.default_rng(0).permutation(images)[:batch]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as place:
            splits = _written(Path(place), _photographs(images))
            calls = {name: partial(_cut, split, views, order.tolist()) for name, split in splits.items()}
            times = take_turns(calls, 1 if quick else 5)
    finally:
        torch.set_num_threads(threads)
    rates = ", ".join(f"{name} {batch / each.median:,.0f}" for name, each in times.items())
    return [
        Comparison(
            what=f"2 × 224 and 10 × 96 views of {batch} of {images} photographs, one thread; ours: from files",
            times=times,
            checks=tuple(
                (f"{name} at most 1.1 × the time of files: {ratio:.2f}", ratio <= 1.1)
                for name in ("shards", "parquet")
                for ratio in [times[name].median / times["ours"].median]
            ),
            notes=(f"images/s of one core: {rates}",),
        )
    ]


def _photographs(count: int) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        buffer = io.BytesIO()
        noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        noise.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def _written(folder: Path, photographs: list[bytes]) -> dict[str, ImageSplit]:
    """Writes the photographs three times; returns the splits as a training takes them."""
    import pyarrow
    import pyarrow.parquet

    names = [f"{number:06}.jpg" for number in range(len(photographs))]
    for name, content in zip(names, photographs, strict=True):
        (folder / name).write_bytes(content)
    for part, members in enumerate(np.array_split(np.arange(len(names)), PARTS)):
        with tarfile.open(folder / f"{part}.tar", "w") as tar:
            for member in members:
                tar.add(folder / names[member], names[member])
        rows = [{"bytes": photographs[member], "path": names[member]} for member in members]
        pyarrow.parquet.write_table(pyarrow.table({"image": rows}), folder / f"{part}.parquet", row_group_size=32)
    splits = {
        "ours": FileSplit(folder, names, None, None),
        "shards": find_shards(f"{folder}/{{0..{PARTS - 1}}}.tar", folder).read("all"),
        "parquet": ParquetSplit(sorted(folder.glob("*.parquet")), "image", None),
    }
    return {name: split.for_any_order(folder / "cache") for name, split in splits.items()}


def _cut(split: ImageSplit, views: ViewsConfig, indices: list[int]) -> None:
    problem = MultiCropImages(split, views, seed=0, rank=0)[BatchRequest(0, 0, indices)].problem
    if problem:
        raise SystemExit(problem)
