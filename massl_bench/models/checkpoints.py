"""Checkpoint files as encoders: recognised by their layout, loaded exactly or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.core.settings import Preprocessing
from massl_bench.models.adapter import Network
from massl_bench.models.assemble import assembled
from massl_bench.models.card import ModelCard
from massl_bench.models.content import Content, listed, load
from massl_bench.models.encoder import Encoder
from massl_bench.models.files import open_content
from massl_bench.models.loading import fill
from massl_bench.models.reading import load_all, open_checkpoint
from massl_bench.models.recognition import Recognised, recognise

_USUAL_KEYS = ("", "teacher", "state_dict", "model", "student")


@dataclass(frozen=True)
class Described:
    """What a file is, before its tensors' values are read."""

    recognised: Recognised
    network: Network
    settings: ModelSettings = field(default_factory=ModelSettings)


def describe_content(content: Content, settings: ModelSettings, where: str) -> Described:
    """Returns the layout of a file, and the network that its tensors are.

    Raises:
        RequestError: As `recognise`, or the tensors are no network that the layout knows.
    """
    recognised = recognise(content, settings, where)
    return Described(recognised, recognised.network(), settings)


def build_checkpoint(
    path: Path,
    reference: str,
    settings: ModelSettings | None = None,
    known: ModelCard | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Encoder:
    """Returns the encoder of a checkpoint: a file of torch or safetensors, or a directory with one.

    Args:
        path: of the file or directory.
        reference: what the user gave, for messages.
        settings: what the user said of the model.
        known: its card, where that is remembered: then nothing is hashed, or compared with checksums.
        preprocessing: a manifest's, in place of the layout's.

    Raises:
        RequestError: It cannot be read safely, no adapter knows its layout, or its tensors are not exactly those of the
            network.
    """
    where = f"model {reference}"
    settings = settings if settings is not None else ModelSettings()
    content = open_content(path, compared=known is not None)
    described = describe_content(content, settings, where)
    recognised, network = described.recognised, described.network
    if preprocessing is not None:
        network = replace(network, preprocessing=preprocessing, preprocessing_origin="the model's manifest")
    adapter = recognised.adapter
    filled = fill(network, recognised.found.tensors, where)
    return assembled(
        filled,
        network,
        reference=reference,
        settings=settings,
        stem=content.file.stem,
        weights_origin=f"{content.file.name} ({recognised.place})",
        layout=adapter.name,
        left_out=recognised.left_out_texts,
        licence=network.licence or adapter.licence,
        files=[content.file, *content.read],
        known=known,
    )


def read_checkpoint(file: Path) -> Any:
    """Returns the whole content of a checkpoint with the values of its tensors; stand-ins for what is not plain.

    Raises:
        RequestError: As `open_checkpoint`.
    """
    return load_all(open_checkpoint(file).content, str(file))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Returns a file's state dict: a plain one, or the one under a trainer's usual key.

    Raises:
        RequestError: There is none.
    """
    content = open_content(file)
    key = next((key for key in _USUAL_KEYS if content.names(key)), None)
    if key is None:
        found = listed(content.keys) or type(content.tree).__name__
        raise RequestError(f"{file}: no state dict in it; found {found}")
    return load(content.state(key), str(file))
