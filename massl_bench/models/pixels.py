"""`pixels`: the image itself as its feature, the floor under every encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from massl_bench.core.files import sha256_of
from massl_bench.core.settings import Preprocessing
from massl_bench.models.card import ModelCard

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder

_SIDE = 32


def pixels_card() -> ModelCard:
    """Returns the card: short side 32 (bicubic), centre crop 32, RGB in [0, 1]: 3,072 values, channel by channel."""
    return ModelCard(
        name="pixels",
        reference="pixels",
        architecture="pixels",
        pooling="all values",
        embed_dim=3 * _SIDE * _SIDE,
        num_blocks=None,
        blocks=(),
        patch_dim=None,
        token_dim=None,
        num_parameters=0,
        weights_sha256=sha256_of("pixels"),
        weights_hash_of="nothing",
        network_sha256=sha256_of("pixels"),
        weights_origin="none",
        preprocessing=Preprocessing(
            resize=_SIDE,
            resize_mode="shortest",
            crop=_SIDE,
            interpolation="bicubic",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        preprocessing_origin="the definition of pixels",
        licence="Apache-2.0",
    )


def pixels_encoder() -> Encoder:
    """Returns the encoder that flattens its input."""
    from torch import nn

    from massl_bench.models.encoder import Encoder

    return Encoder(nn.Flatten(), pixels_card())
