"""`hf-hub:ORG/NAME`: a repository of the Hugging Face hub in timm's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from massl_bench.models.card import ModelCard
from massl_bench.models.source import Opening, Reference, Source

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def _open(reference: Reference) -> Opening:
    reference.check_only("name")

    def build(known: ModelCard | None) -> Encoder:
        from massl_bench.models.timm_networks import build_pretrained

        return build_pretrained(reference, True, known)

    return Opening(build=build, name=reference.text)


SOURCE = Source(
    name="hf_hub", usage="hf-hub:ORG/NAME", help="A repository of the Hugging Face hub in timm's layout.", open=_open
)
