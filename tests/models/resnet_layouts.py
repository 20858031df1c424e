"""Files of ResNets in published layouts, small: torchvision's blocks among twins, heads and queues that mislead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from tests.models.layouts import Layout, Made, Published, filled, on_meta

State = dict[str, Tensor]
Write = Callable[[State, State], Any]
"""From the tensors of the evaluated network and of its twin to what a file holds."""


def network(seed: int, *, widths: tuple[int, ...] = (8, 16, 24, 32), stem: int = 8, bottleneck: bool = True) -> Any:
    """Returns a ResNet of torchvision's parts without its classifier, narrow and one block deep, with its own values.

    Args:
        seed: of its values.
        widths: of the four stages, without the bottleneck's factor of four.
        stem: channels of its first convolution.
        bottleneck: as in ResNet-50; else as in ResNet-18.
    """
    block = Bottleneck if bottleneck else BasicBlock
    with torch.device("meta"):  # what has tensors is replaced below: no value is drawn for it
        made: Any = torchvision.models.ResNet(block, [1, 1, 1, 1])
    made.conv1, made.bn1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(stem)
    made.inplanes = stem
    for stage, width in enumerate(widths, 1):
        setattr(made, f"layer{stage}", made._make_layer(block, width, 1, stride=1 if stage == 1 else 2))
    made.fc = nn.Identity()
    return filled(made, seed)


def small_network(seed: int, *, padding: int = 1) -> Any:
    """Returns such a network with the stem of scripts for CIFAR: a convolution of 3 × 3, and no pooling."""
    made = network(seed, bottleneck=False)
    made.conv1, made.maxpool = nn.Conv2d(3, 8, 3, padding=padding, bias=False), nn.Identity()
    return filled(made, seed)


def some(*names: str) -> State:
    """Returns small tensors with these names."""
    return {name: torch.randn(4, 4) for name in names}


def numbered(state: State) -> State:
    """Returns the tensors of a ResNet as those of a sequence of its children."""
    order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    parts = {name: name.split(".", 1) for name in state}
    return {f"{order.index(first)}.{rest}": state[name] for name, (first, rest) in parts.items()}


def layout(  # what a layout's module says
    adapter: str,
    read_in: str,
    write: Write,
    *,
    left_out: frozenset[str] = frozenset(),
    twin: str | None = None,
    make_network: Callable[[int], Any] = network,
    published: Mapping[str, Published] | None = None,
    **made: Any,
) -> Layout:
    """Returns a layout of ResNets for photographs, and the shapes of its ResNet-50.

    Args:
        adapter: which must have it.
        read_in: where the layout was read.
        write: makes the file's content.
        left_out: what must be named as left out.
        twin: by which `checkpoint_key` the second network is taken; None where a file has none.
        make_network: from a seed.
        published: in place of those of the ResNet-50.
        made: fields of `Made` that are not as usual.
    """

    def make(folder: Path) -> Made:
        evaluated, other = make_network(1), make_network(2)
        torch.save(write(evaluated.state_dict(), other.state_dict()), folder / "r.pth.tar")
        twins: Mapping[str, Any] = {twin: other} if twin is not None else {}
        usual: dict[str, Any] = {"source": evaluated, "side": 64, "other_side": 96, "crop": 224, "twins": twins}
        return Made(path=folder / "r.pth.tar", left_out=left_out, **{**usual, **made})

    crop = made.get("crop", 224)
    usual = {"resnet50": published_resnet(write, torchvision.models.resnet50, "resnet50", crop)}
    return Layout(adapter=adapter, read_in=read_in, make=make, published=usual if published is None else published)


def published_resnet(write: Write, build: Callable[[], nn.Module], arch: str, crop: int = 224) -> Published:
    """Returns a published file with a network's shapes."""

    def content() -> Any:
        tensors = {name: tensor for name, tensor in on_meta(build).items() if not name.startswith("fc.")}
        return write(tensors, tensors)

    return Published(content=content, heads=None, crop=crop, arch=arch)


def wide_resnet(depths: tuple[int, ...], times: int) -> nn.Module:
    """Returns a ResNet of bottlenecks that is `times` as wide everywhere, its stem too: SwAV's, VICReg's, BYOL's."""
    made: Any = torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1])
    made.conv1, made.bn1 = nn.Conv2d(3, 64 * times, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64 * times)
    made.inplanes = 64 * times
    for stage, depth in enumerate(depths):
        width = 64 * times * 2**stage
        setattr(made, f"layer{stage + 1}", made._make_layer(Bottleneck, width, depth, stride=2 if stage else 1))
    made.fc = nn.Identity()
    return made
