"""Datasets: where they lie, how they are read, and whether they are what they claim to be."""

from massl_bench.datasets.checksums import published_files, wrong_checksums
from massl_bench.datasets.columns import Columns
from massl_bench.datasets.copies import CopiesDataset, with_copies
from massl_bench.datasets.dataset import Dataset
from massl_bench.datasets.images.decoding import (
    MAX_PIXELS,
    ORIENTED,
    EncodedImage,
    Unreadable,
    decode_rgb,
    open_image,
)
from massl_bench.datasets.opening import DataOptions, open_dataset
from massl_bench.datasets.splits import ImageSplit, check_boxes, corrupt_images

__all__ = [
    "MAX_PIXELS",
    "ORIENTED",
    "Columns",
    "CopiesDataset",
    "DataOptions",
    "Dataset",
    "EncodedImage",
    "ImageSplit",
    "Unreadable",
    "check_boxes",
    "corrupt_images",
    "decode_rgb",
    "open_dataset",
    "open_image",
    "published_files",
    "with_copies",
    "wrong_checksums",
]
