"""`random:TIMM_NAME`: an architecture of timm with untrained weights, always the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from massl_bench.models.card import ModelCard
from massl_bench.models.source import Opening, Reference, Source

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def _open(reference: Reference) -> Opening:
    reference.check_only("name")

    def build(known: ModelCard | None) -> Encoder:
        from massl_bench.models.timm_networks import build_random

        return build_random(reference, known)

    return Opening(build=build, name=reference.text)


SOURCE = Source(name="random", usage="random:TIMM_NAME", help="An untrained architecture of timm, seeded.", open=_open)
