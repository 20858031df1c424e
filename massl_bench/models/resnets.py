"""ResNets from a file's shapes, under timm's names, which are torchvision's: what adapters call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import timm
from torch import nn

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Preprocessing, own_size
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Found, Network, Rename
from massl_bench.models.build import UNKNOWN_EVALUATION, timm_network
from massl_bench.models.content import beginnings
from massl_bench.models.networks.resnet import PHOTOGRAPHS, STEMS, PlainStemResNet, SmallImageResNet
from massl_bench.models.shapes import count_blocks

_RESNETS: Mapping[tuple[bool, tuple[int, ...], int, int], str] = {
    (False, (2, 2, 2, 2), 64, 64): "resnet18",
    (False, (3, 4, 6, 3), 64, 64): "resnet34",
    (True, (3, 4, 6, 3), 64, 64): "resnet50",
    (True, (3, 4, 23, 3), 64, 64): "resnet101",
    (True, (3, 8, 36, 3), 64, 64): "resnet152",
    (True, (3, 4, 6, 3), 128, 4): "resnext50_32x4d",
    (True, (3, 4, 23, 3), 256, 8): "resnext101_32x8d",
    (True, (3, 4, 6, 3), 128, 128): "wide_resnet50_2",
    (True, (3, 4, 23, 3), 128, 128): "wide_resnet101_2",
}
"""By (bottlenecks, blocks of the stages, width of the first convolution, inputs of the second one)."""

_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152, (3, 24, 36, 3): 200}


def resnet(
    found: Found,
    *,
    evaluation: Callable[[int], Preprocessing] = own_size,
    evaluation_origin: str = UNKNOWN_EVALUATION,
    stem: str | None = None,
    rename: Rename | None = None,
    notes: tuple[str, ...] = (),
) -> Network:
    """Returns the ResNet that the tensors are, under timm's (and torchvision's) names; its feature is the pooled map.

    Args:
        found: the file under timm's names.
        evaluation: makes the preprocessing of a side in pixels.
        evaluation_origin: where it was read.
        stem: of a network of small images, a name of `networks.resnet.STEMS`: what its shapes do not tell; None where
            the layout does not tell either, which is then said.
        rename: makes the file's tensors those that `found` has.
        notes: what a reader of the numbers should know.

    Raises:
        RequestError: The shapes are no known ResNet's.
    """
    told = found.settings.arch
    convolution = found.shape("conv1.weight")
    if len(convolution) != 4 and (told is None or told in STEMS):  # a told network may have a stem of several
        raise RequestError(f"{found.where}: not a ResNet in timm's names: conv1.weight is missing; {_there(found)}")
    small = convolution[2:] == (3, 3)
    if told is not None and told not in STEMS:
        return timm_network(
            found,
            told,
            preprocessing=evaluation(32 if small else 224),
            preprocessing_origin=evaluation_origin,
            rename=rename,
            notes=notes,
        )
    if small:
        return _small_resnet(found, evaluation, evaluation_origin, told or stem, rename, notes)
    if told is not None:
        text = f"{asked('arch', told)} has a stem of 3 × 3; the file's is {list(convolution)}"
        raise RequestError(text, where=found.where)
    name, build = _photograph_resnet(found, convolution)
    return Network(
        architecture=name,
        build=build,
        own_feature="avg",
        preprocessing=evaluation(224),
        preprocessing_origin=evaluation_origin,
        rename=rename,
        origins={"size": "its stem of 7 × 7 is for photographs"},
        notes=notes,
    )


def _photograph_resnet(found: Found, convolution: tuple[int, ...]) -> tuple[str, Callable[[], nn.Module]]:
    """Returns (name, constructor) of a ResNet with a stem of 7 × 7: timm's, or one of the widths that the file has."""
    depths, bottleneck = _stages(found)
    inner, second = found.shape("layer1.0.conv1.weight"), found.shape("layer1.0.conv2.weight")
    last = [found.shape(f"layer{stage}.0.conv{3 if bottleneck else 2}.weight") for stage in range(1, 5)]
    if not all(len(shape) == 4 and shape[1] for shape in (convolution, inner, second, *last)):
        raise RequestError(f"{found.where}: not a ResNet in timm's names: a convolution of it is missing")
    stem_width, inner_width = convolution[0], inner[0]
    name = _RESNETS.get((bottleneck, depths, inner_width, second[1])) if stem_width == 64 else None
    if name is not None:
        return name, partial(timm.create_model, name, num_classes=0)
    expansion = 4 if bottleneck else 1
    widths, groups = [shape[0] // expansion for shape in last], inner_width // second[1]
    if not (all(widths) and groups and stem_width % 2 == 0 and convolution[2:] == (PHOTOGRAPHS.kernel,) * 2):
        raise RequestError(
            f"a ResNet with a stem {list(convolution)} and stages of {widths} is not a known one",
            where=found.where,
            remedy=f"name it with {asked('arch')}",
        )
    build = partial(
        PlainStemResNet,
        widths=widths,
        depths=depths,
        bottleneck=bottleneck,
        stem=PHOTOGRAPHS,
        stem_width=stem_width,
        groups=groups,
        group_width=64 * inner_width / groups / widths[0] if bottleneck else 64,
    )
    times, rest = divmod(stem_width, 64)
    evenly = not rest and inner_width == stem_width and widths == [stem_width * 2**stage for stage in range(4)]
    if evenly and bottleneck and depths in _DEPTHS:
        return f"resnet{_DEPTHS[depths]}x{times}", build
    blocks = "bottlenecks" if bottleneck else "blocks"
    stages = "-".join(map(str, widths))
    return f"resnet_stem{stem_width}_widths{stages}_{blocks}{'-'.join(map(str, depths))}", build


def _there(found: Found) -> str:
    return f"its tensors begin with {beginnings(found.tensors)}"


def _stages(found: Found) -> tuple[tuple[int, ...], bool]:
    """Returns (number of blocks in each stage, whether they are bottlenecks)."""
    depths = tuple(count_blocks(found.tensors, f"layer{stage}", found.where) for stage in range(1, 5))
    return depths, "layer1.0.conv3.weight" in found.tensors


def _width_of_stage(found: Found, stage: int) -> int:
    shape = found.shape(f"layer{stage}.0.conv1.weight")
    if len(shape) != 4:
        raise RequestError(f"{found.where}: not a ResNet in timm's names: layer{stage}.0.conv1.weight is missing")
    return shape[0]


def _small_resnet(
    found: Found,
    evaluation: Callable[[int], Preprocessing],
    evaluation_origin: str,
    stem: str | None,
    rename: Rename | None,
    notes: tuple[str, ...],
) -> Network:
    depths, bottleneck = _stages(found)
    widths = [_width_of_stage(found, stage) for stage in range(1, 5)]
    blocks = "bottlenecks" if bottleneck else "blocks"
    name = f"resnet_small_images_widths{'-'.join(map(str, widths))}_{blocks}{'-'.join(map(str, depths))}"
    if stem is None:
        stem = next(iter(STEMS))
        notes = (
            *notes,
            f"the shapes do not tell how its stem pads and pools: taken as {STEMS[stem].words} ({stem}); others: "
            + "; ".join(f"{asked('arch', other)}: {each.words}" for other, each in STEMS.items() if other != stem),
        )
    chosen = STEMS[stem]
    return Network(
        architecture=name if stem == next(iter(STEMS)) else f"{name}_{stem}",
        build=partial(SmallImageResNet, widths=widths, depths=depths, bottleneck=bottleneck, stem=chosen),
        own_feature="avg",
        preprocessing=evaluation(32),
        preprocessing_origin=evaluation_origin,
        rename=rename,
        origins={"size": "its stem of 3 × 3 is for images of about 32 pixels"},
        notes=notes,
    )
