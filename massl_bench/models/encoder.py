"""The encoder: normalised images in, features out. Shapes: B images, D feature dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from massl_bench.core.settings import BlocksAndMean, ClassGem, EveryBlock, PatchTokens, Pooling
from massl_bench.core.values import Part
from massl_bench.models.card import ModelCard
from massl_bench.models.networks.blocks import EveryBlockFeatures, LastBlocksFeatures
from massl_bench.models.networks.features import TokenFeature
from massl_bench.models.networks.tokens import ClassGemFeatures, PatchTokensFeatures, at_size
from massl_bench.models.own import card_of_module
from massl_bench.specs.task import TaskSpec


class Encoder:
    """A frozen network with its identity.

    Args:
        network: maps float32 [B, 3, H, W] to [B, D].
        card: what it is.
        tokens_of: the network whose tokens `network` makes its features of; None for `network` itself.
        files: the weights' files, whose change makes a remembered card invalid.
        reproducible: whether building it again gives the same tensors although they come from no file.
    """

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        *,
        tokens_of: nn.Module | None = None,
        files: Sequence[Path] = (),
        reproducible: bool = False,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._tokens_of = tokens_of
        self.card = card
        self.files = tuple(files)
        self.reproducible = reproducible
        self._mean = torch.tensor(card.preprocessing.mean).view(3, 1, 1)
        self._std = torch.tensor(card.preprocessing.std).view(3, 1, 1)

    @classmethod
    def from_module(cls, module: nn.Module, *, name: str, transform: Any) -> Encoder:
        """Returns the encoder of a module of your own.

        ```python
        encoder = mb.Encoder.from_module(net, name="mine", transform=transforms.Compose([...]))
        mb.evaluate("knn", mb.extract(encoder, "digits"))
        ```

        Its identity is that of its tensors, of the numbers that its modules hold, and of the source of its classes.

        Args:
            module: maps float32 [B, 3, H, W] to [B, D]; set to evaluation mode, and its parameters no longer train.
            name: as a leaderboard shows it.
            transform: how an image is prepared: torchvision's (or timm's) Compose of Resize, CenterCrop, ToTensor and
                Normalize, the `transforms()` of torchvision's weights, or a `Preprocessing`.

        Raises:
            RequestError: The module does not map such images to [B, D], or the transform is of a kind that a record
                cannot hold.
        """
        return cls(module, card_of_module(module, name=name, transform=transform))

    def with_card(self, card: ModelCard) -> Encoder:
        """Returns the same network under another card (another name, another preprocessing)."""
        return Encoder(self.network, card, tokens_of=self._tokens_of, files=self.files, reproducible=self.reproducible)

    @property
    def backbone(self) -> nn.Module:
        """The network under its own tensor names, whatever becomes the feature."""
        return self.network if self._tokens_of is None else self._tokens_of

    def pooled(self, pooling: Pooling | None, side: int | None = None) -> Encoder:
        """Returns the same network under a task's pooling, or this encoder where the network has no tokens.

        Args:
            pooling: None for the network's own.
            side: of the images that the task gives it, in pixels; None for those that the network takes.

        Raises:
            RequestError: The network has nothing that the task asks for and cannot do without.
        """
        self.card.check_gives(pooling)
        card = self.card.pooled(pooling)
        if pooling is None or card == self.card:
            return self
        sized = self.backbone if side is None else at_size(self.backbone, side)
        network: nn.Module
        if isinstance(pooling, ClassGem):
            network = ClassGemFeatures(sized, pooling)
        elif isinstance(pooling, EveryBlock):
            network = EveryBlockFeatures(
                sized, self.network.feature if isinstance(self.network, TokenFeature) else None
            )
        elif isinstance(pooling, PatchTokens):
            network = PatchTokensFeatures(sized)
        elif isinstance(pooling, BlocksAndMean):
            network = LastBlocksFeatures(sized, num_blocks=len(self.card.parts(pooling)) - 1, mean_patch=True)
        else:
            num_blocks, mean_patch = self.card.last_blocks(pooling)
            network = LastBlocksFeatures(sized, num_blocks=num_blocks, mean_patch=mean_patch)
        return Encoder(network, card, files=self.files, reproducible=self.reproducible).to(str(self.device))

    def for_task(self, task: TaskSpec) -> tuple[Encoder, tuple[Part, ...]]:
        """Returns the same network as a task wants it: pooling and preprocessing; and what its features are made of.

        Raises:
            RequestError: As `pooled`.
        """
        preprocessing = self.card.prepared(task.preprocessing, task.own_size_below)
        found = self.pooled(task.pooling, preprocessing.crop)
        card = found.card.model_copy(update={"preprocessing": preprocessing})
        return found.with_card(card), self.card.parts(task.pooling)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self._mean.device

    def to(self, device: str) -> Encoder:
        """Moves the network to `device` and returns the encoder."""
        self.network.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """Returns uint8 images [B, 3, H, W] as float32: values in [0, 1], minus the mean, divided by the std."""
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the features, float32 [B, D], of normalised images, float32 [B, 3, H, W] on the encoder's device."""
        with torch.inference_mode():
            features: Tensor = self.network(images)
        return features.float()
