"""Semantic segmentation: images with a mask each, whose values are the classes of the pixels."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from massl_bench.core.errors import RequestError
from massl_bench.datasets.published.reader import Listing, listed, read_lines
from massl_bench.datasets.published.voc import VOC_CLASSES

# VOC2012 (Everingham et al., 2010). The lists of the development kit, or those of open-hummingbird-eval's copy, which
# has its images in `images` and its lists in `sets`. `trainaug` are the images of VOC2012 and of SBD (Hariharan et al.,
# ICCV 2011) that are no validation images; their masks lie in SegmentationClassAug, in every copy of them.
_VOC_SOURCES = ("train", "val", "trainaug")
_VOC_PLACES = (("ImageSets/Segmentation", "JPEGImages"), ("sets", "images"))


def _voc2012(root: Path, source: str) -> Listing:
    lists, images = next((each for each in _VOC_PLACES if (root / each[0]).is_dir()), _VOC_PLACES[0])
    masks = "SegmentationClassAug" if source == "trainaug" else "SegmentationClass"
    table = f"{lists}/{source}.txt"
    # Some copies of trainaug.txt hold pairs of paths: `/JPEGImages/2007_000032.jpg /SegmentationClassAug/…`.
    names = [PurePosixPath(line.split()[0]).stem for line in read_lines(root / table)]
    return Listing(
        files=[f"{images}/{name}.jpg" for name in names],
        masks=[f"{masks}/{name}.png" for name in names],
        labels=None,
        class_names=("background", *VOC_CLASSES),
        tables=(table,),
    )


VOC2012 = listed(
    marker=_VOC_PLACES[0][0],
    other_markers=(_VOC_PLACES[1][0],),
    tables=dict.fromkeys(_VOC_SOURCES, ()),
    parse=_voc2012,
    folders=("VOCdevkit/VOC2012", "VOC2012", "VOCSegmentation", ""),
    sole=True,
)


# ADE20K as the scene parsing challenge of 2016 has it (Zhou et al., CVPR 2017): 150 classes from 1, and 0 for the rest.
# No list names the images: the folders do.
_ADE_SOURCES = ("training", "validation")


def _ade20k(root: Path, source: str) -> Listing:
    names = sorted(path.stem for path in (root / "images" / source).glob("*.jpg"))
    masks = {path.stem for path in (root / "annotations" / source).glob("*.png")}
    lacking = [name for name in names if name not in masks] + sorted(masks - set(names))
    if lacking:
        raise RequestError(
            f"{root}: {len(lacking)} of the {source} images and masks have no counterpart (the first: {lacking[0]}): "
            "unpack the archive again"
        )
    return Listing(
        files=[f"images/{source}/{name}.jpg" for name in names],
        masks=[f"annotations/{source}/{name}.png" for name in names],
        labels=None,
    )


ADE20K = listed(
    marker="annotations/training",
    tables=dict.fromkeys(_ADE_SOURCES, ()),
    parse=_ade20k,
    folders=("ADEChallengeData2016", ""),
    sole=True,
)
