"""BYOL's weights as byol-convert writes them: flat, statistics behind all weights, a network that pads as JAX does."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from tests.models.resnet_layouts import State, layout, network, published_resnet, wide_resnet


def padded(image: Tensor, size: int, stride: int) -> Tensor:
    """Pads as `SAME` does: so that a side becomes its share of strides, more after than before."""
    rows, columns = (max((math.ceil(n / stride) - 1) * stride + size - n, 0) for n in image.shape[2:])
    return functional.pad(image, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def jax_network(seed: int) -> Any:
    """Returns a narrow ResNet whose convolutions and pooling pad nothing themselves: `SAME` does, before each."""
    made = network(seed)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            size, stride = module.kernel_size[0], module.stride[0]
            module.padding = (0, 0)
            module.register_forward_pre_hook(lambda _, args, size=size, stride=stride: padded(args[0], size, stride))
        if isinstance(module, nn.MaxPool2d):
            module.padding = 0
            module.register_forward_pre_hook(lambda _, args: padded(args[0], 3, 2))
    return made


def _write(backbone: State, twin: State) -> Any:
    kept = {name: tensor for name, tensor in backbone.items() if not name.endswith("num_batches_tracked")}
    statistics = {name: tensor for name, tensor in kept.items() if ".running_" in name}
    weights = {name: tensor for name, tensor in kept.items() if name not in statistics}
    head = {"fc.bias": torch.randn(10), "fc.weight": torch.randn(10, 128)}
    return {**weights, **head, **statistics}


LAYOUT = layout(
    "byol_converted",
    "ajtejankar/byol-convert 7497e7f convert.py, 05d160a resnet.py",
    _write,
    left_out=frozenset({"classifier"}),
    make_network=jax_network,
    published={
        "res50x1": published_resnet(_write, torchvision.models.resnet50, "resnet50 with JAX's padding"),
        "res200x2": published_resnet(_write, partial(wide_resnet, (3, 24, 36, 3), 2), "resnet200x2 with JAX's padding"),
    },
)
