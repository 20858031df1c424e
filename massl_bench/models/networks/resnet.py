"""The ResNet of small images, under timm's tensor names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Stem:
    """What the shape of a 3 × 3 convolution does not tell.

    Attributes:
        padding: of the convolution, in pixels.
        stride: of the convolution.
        pool: whether a max-pooling of 3 × 3 with stride 2 follows the stem.
    """

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


class SmallImageResNet(ResNet):
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
            Bottleneck if bottleneck else BasicBlock,  # type: ignore[arg-type]  # timm means the classes
            tuple(depths),
            channels=tuple(widths),
            num_classes=0,
            drop_path_rate=drop_path_rate,
            zero_init_last=True,
            # timm's plain stem is 64 wide whatever the stages are; this one is replaced, but gives its width to them.
            stem_type="deep",
            stem_width=widths[0] // 2,
        )
        convolution = nn.Conv2d(3, widths[0], 3, stride=stem.stride, padding=stem.padding, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        pooling = nn.MaxPool2d(3, stride=2, padding=1) if stem.pool else nn.Identity()
        self.conv1, self.maxpool = convolution, pooling  # type: ignore[assignment]
