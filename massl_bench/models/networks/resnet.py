"""ResNets that timm has no name for, under its tensor names: of small images, and of any widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Stem:
    """What the shape of a stem's convolution does not tell.

    Attributes:
        kernel: side of the convolution, in pixels.
        padding: of the convolution, in pixels.
        stride: of the convolution.
        pool: whether a max-pooling of 3 × 3 with stride 2 follows the stem.
    """

    kernel: int = 3
    padding: int = 1
    stride: int = 1
    pool: bool = False

    @property
    def words(self) -> str:
        """The stem, for people."""
        text = f"padding {self.padding}, stride {self.stride}"
        return text + (", then a max-pooling" if self.pool else ", no pooling")


STEMS: Mapping[str, Stem] = {
    "resnet_small_images": Stem(),
    "resnet_small_images_padding2": Stem(padding=2),
    "resnet_small_images_maxpool": Stem(pool=True),
    "resnet_small_images_stride2": Stem(stride=2),
    "resnet_small_images_stride2_maxpool": Stem(stride=2, pool=True),
}
"""By the names that `--arch` takes; the first is the one of SimCLR's scripts for CIFAR and of this package."""


PHOTOGRAPHS = Stem(kernel=7, padding=3, stride=2, pool=True)
"""The stem of the ResNets of He et al. and of torchvision."""


class PlainStemResNet(ResNet):
    """A ResNet of any widths, whose stem is one convolution.

    It maps images [B, 3, H, W] to the mean of the last map, [B, D]. timm's own, and torchvision's, have a stem of 64
    channels whatever the stages are.

    Args:
        widths: channels of the four stages, without the bottleneck's factor of four.
        depths: blocks of the four stages.
        bottleneck: whether blocks are bottlenecks, as in ResNet-50, or two convolutions, as in ResNet-18.
        stem: how it pads, strides and pools.
        stem_width: channels of the stem, an even number.
        groups: of the 3 × 3 convolutions of bottlenecks.
        group_width: channels of a group in a stage of 64.
        drop_path_rate: largest rate of stochastic depth in training; nothing in evaluation.
    """

    def __init__(  # noqa: PLR0913  # the dimensions of an architecture
        self,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        bottleneck: bool,
        stem: Stem,
        stem_width: int,
        groups: int = 1,
        group_width: float = 64,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            Bottleneck if bottleneck else BasicBlock,  # type: ignore[arg-type]  # timm means the classes
            tuple(depths),
            channels=tuple(widths),
            num_classes=0,
            drop_path_rate=drop_path_rate,
            zero_init_last=True,
            cardinality=groups,
            base_width=group_width,  # type: ignore[arg-type]  # it is a factor there
            # timm's plain stem is 64 wide whatever the stages are; this one is replaced, but gives its width to them.
            stem_type="deep",
            stem_width=stem_width // 2,
        )
        convolution = nn.Conv2d(3, stem_width, stem.kernel, stride=stem.stride, padding=stem.padding, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        pooling = nn.MaxPool2d(3, stride=2, padding=1) if stem.pool else nn.Identity()
        self.conv1, self.maxpool = convolution, pooling  # type: ignore[assignment]


class SmallImageResNet(PlainStemResNet):
    """A ResNet for images of about 32 pixels: a stem of one 3 × 3 convolution that keeps the resolution, no pooling.

    It maps images [B, 3, H, W] to the mean of the last map, [B, D]. As SimCLR trains on CIFAR-10 (Chen et al., ICML
    2020, appendix B.9), and most self-supervised checkpoints for CIFAR do since.

    Args:
        widths: channels of the four stages, without the bottleneck's factor of four; the first is the stem's too.
        depths: blocks of the four stages.
        bottleneck: whether blocks are bottlenecks, as in ResNet-50, or two convolutions, as in ResNet-18.
        drop_path_rate: largest rate of stochastic depth in training; nothing in evaluation.
        stem: how it pads, strides and pools.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        bottleneck: bool = False,
        drop_path_rate: float = 0.0,
        stem: Stem = STEMS["resnet_small_images"],  # frozen
    ) -> None:
        super().__init__(
            widths=widths,
            depths=depths,
            bottleneck=bottleneck,
            stem=stem,
            stem_width=widths[0],
            drop_path_rate=drop_path_rate,
        )


def with_same_padding(network: ResNet) -> ResNet:
    """Makes every convolution and pooling that strides pad as TensorFlow and JAX do: more after than before.

    Where a side is even, PyTorch's symmetric padding samples other pixels.
    """
    for module in list(network.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, nn.Conv2d) and part.kernel_size[0] > 1 and part.stride[0] > 1:
                size, stride = part.kernel_size[0], part.stride[0]
                same = Conv2dSame(
                    part.in_channels, part.out_channels, size, stride=stride, groups=part.groups, bias=False
                )
                setattr(module, name, same)
            elif isinstance(part, nn.MaxPool2d):
                setattr(module, name, MaxPool2dSame(part.kernel_size, stride=part.stride))
    return network
