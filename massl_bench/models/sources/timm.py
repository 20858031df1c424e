"""`timm:NAME`: a model of timm with its own pretrained weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from massl_bench.models.card import ModelCard
from massl_bench.models.source import Opening, Reference, Source

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def opening_of(reference: Reference, *, hub: bool) -> Opening:
    """Returns the opening of a model of timm: with timm's own weights, or a repository of the hub in its layout."""
    reference.check_only("name")

    def build(known: ModelCard | None) -> Encoder:
        from massl_bench.models.timm_networks import build_pretrained

        return build_pretrained(reference, hub, known)

    return Opening(build=build, name=reference.text)


SOURCE = Source(
    name="timm",
    usage="timm:NAME",
    help="A model of timm with its own pretrained weights.",
    open=partial(opening_of, hub=False),
)
