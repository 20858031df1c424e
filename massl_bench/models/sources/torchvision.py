"""`torchvision:NAME[@FILE]`: a model of torchvision with its own weights, or with those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from massl_bench.core.errors import RequestError
from massl_bench.models.card import ModelCard
from massl_bench.models.source import Opening, Reference, Source

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def _open(reference: Reference) -> Opening:
    reference.check_only("name")
    name, at, path = reference.rest.partition("@")
    file = Path(path).expanduser() if at else None
    if file is not None and not file.is_file():
        raise RequestError(f"model {reference.text}: no such file: {file}")

    def build(known: ModelCard | None) -> Encoder:
        from massl_bench.models.torchvision_networks import build_torchvision

        return build_torchvision(name, file, reference, known)

    return Opening(build=build, name=reference.text, files=(file,) if file is not None else ())


SOURCE = Source(
    name="torchvision",
    usage="torchvision:NAME[@FILE]",
    help="A model of torchvision with its own weights, or with those of a file.",
    open=_open,
)
