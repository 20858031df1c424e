"""`pixels`: the image itself as its feature, the floor under every encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from massl_bench.models.card import ModelCard
from massl_bench.models.pixels import pixels_card
from massl_bench.models.source import FOR_CHECKPOINTS, Opening, Reference, Source
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def _open(reference: Reference) -> Opening:
    reference.check_only("name", (*FOR_CHECKPOINTS, "img_size", "pooling", "preprocessing"))

    def build(_known: ModelCard | None) -> Encoder:
        from massl_bench.models.pixels import pixels_encoder

        return pixels_encoder()

    return Opening(build=build, name="pixels", card=pixels_card())


def _claims(text: str, _registry: Registry) -> bool:
    return text == "pixels"


SOURCE = Source(
    name="pixels",
    usage="pixels",
    help="The image itself, 32 × 32, as its feature.",
    open=_open,
    prefixed=False,
    claims=_claims,
    order=0,
)
