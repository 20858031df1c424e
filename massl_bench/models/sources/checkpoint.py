"""A checkpoint file, or a directory with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from massl_bench.models.card import ModelCard
from massl_bench.models.source import Opening, Reference, Source
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def opening_of(path: Path, reference: Reference) -> Opening:
    """Returns the opening of a checkpoint at a path, under the user's settings."""
    from massl_bench.models.weights_path import weights_of

    file = weights_of(path)

    def build(known: ModelCard | None) -> Encoder:
        from massl_bench.models.checkpoints import build_checkpoint

        return build_checkpoint(path, reference.text, reference.settings, known)

    return Opening(build=build, name=reference.text, files=(file,))


def _open(reference: Reference) -> Opening:
    return opening_of(Path(reference.text).expanduser(), reference)


def _claims(text: str, _registry: Registry) -> bool:
    return Path(text).expanduser().exists()


SOURCE = Source(
    name="checkpoint",
    usage="FILE or DIR",
    help="A checkpoint file, or a directory with one.",
    open=_open,
    prefixed=False,
    claims=_claims,
    order=2,
)
