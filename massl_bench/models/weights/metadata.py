"""Safetensors files that say what they hold: how their tensors are loaded and how images are fed to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from massl_bench.core.archive_hash import HEADER_KEY, NO_HASH, fill_header_hash
from massl_bench.core.errors import RequestError
from massl_bench.core.files import atomic_file, canonical_json
from massl_bench.core.model_settings import FeatureName
from massl_bench.core.settings import Preprocessing
from massl_bench.core.strict import StrictModel, first_problem
from massl_bench.models.reading import open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

KEY = "massl_bench"
"""One entry: safetensors writes several in an order that changes from run to run, and with it the hash of the file."""


class WeightsMetadata(StrictModel):
    """What an exported file says of itself."""

    format: Literal[1] = 1
    name: str
    architecture: str
    arch: str | None
    """The timm architecture that loading must be told; None where the tensors' shapes tell it."""
    num_heads: int | None = None
    """Of a ViT; None for what is none, and in older files, whose heads are 64 wide each."""
    positions: Literal["offset", "size", "antialias", "fixed"] | None = None
    """How a ViT's position embeddings are resampled (`networks.vit.PositionRule`); None in older files: `offset`."""
    feature: FeatureName | None = None
    """What becomes the feature; None for what the network itself returns."""
    preprocessing: Preprocessing
    licence: str
    citation: str
    content_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the whole file, with zeros in the place of this; None in older files, and in archives, which have it apart."""


def save_weights(file: Path, tensors: Mapping[str, Tensor], metadata: WeightsMetadata) -> None:
    """Writes tensors, what they are and the hash of it all, whole or not at all; equal content is equal in every byte.

    Raises:
        OSError: The file could not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {KEY: canonical_json({**metadata.model_dump(mode="json"), HEADER_KEY: NO_HASH})}
    try:
        with atomic_file(file) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)
            fill_header_hash(temporary)
    except SafetensorError as error:  # its own error for a full disk
        raise OSError(str(error)) from None


def read_metadata(file: Path) -> WeightsMetadata | None:
    """Returns what a file of weights says of itself; None for one that was not written by `save_weights`.

    Raises:
        RequestError: It was, and is damaged or of a newer format; or it is no file of weights.
    """
    text = open_checkpoint(file).metadata.get(KEY)
    return parse_metadata(text, file) if text is not None else None


def parse_metadata(text: str, file: Path) -> WeightsMetadata:
    """Returns what a file says of itself, from the text in it.

    Raises:
        RequestError: It is damaged, or of a newer format.
    """
    try:
        return WeightsMetadata.model_validate_json(text)
    except ValidationError as error:
        raise RequestError(f"{file}: metadata {KEY}: {first_problem(error)}") from None
