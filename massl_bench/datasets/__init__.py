"""Datasets: where they lie, how they are read, and whether they are what they claim to be."""

from massl_bench.datasets.dataset import DataOptions, Dataset, open_dataset
from massl_bench.datasets.layouts import Columns
from massl_bench.datasets.splits import EncodedImage, ImageSplit, check_boxes, corrupt_images, decode_rgb

__all__ = [
    "Columns",
    "DataOptions",
    "Dataset",
    "EncodedImage",
    "ImageSplit",
    "check_boxes",
    "corrupt_images",
    "decode_rgb",
    "open_dataset",
]
