"""Encoders from torchvision: its own weights, or a local state dict. Features are what enters the last linear layer."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum

from massl_bench.core.download import download
from massl_bench.core.errors import MissingDataError, RequestError, one_line, unknown_name
from massl_bench.core.files import scratch_directory
from massl_bench.core.settings import DEFAULT_PREPROCESSING, Preprocessing
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Network
from massl_bench.models.assemble import assembled
from massl_bench.models.card import ModelCard
from massl_bench.models.checkpoints import read_tensors
from massl_bench.models.encoder import Encoder
from massl_bench.models.loading import load_exactly
from massl_bench.models.source import Reference
from massl_bench.models.transforms import preprocessing_of

_HEADS = ("fc", "classifier", "heads", "head")


def build_torchvision(name: str, file: Path | None, reference: Reference, known: ModelCard | None) -> Encoder:
    """Returns the encoder of `torchvision:NAME` (its default weights) or `torchvision:NAME@FILE`.

    Raises:
        RequestError: The name is unknown, the file's tensors are not exactly the network's, or the network does not end
            in a linear layer.
        MissingDataError: The weights are not on this machine and could not, or may not, be downloaded.
    """
    names = models.list_models(module=models)
    if name not in names:
        raise unknown_name("torchvision model", name, names)
    text = reference.text
    if file is None:
        weights = models.get_model_weights(name).DEFAULT
        file = _download(weights, text, reference.options.download)
        preprocessing, origin = _own_preprocessing(weights, text), f"the weights' transforms() ({weights})"
        weights_origin, label = str(weights.url), text
    else:
        preprocessing, origin = DEFAULT_PREPROCESSING, "the default (a local file has none of its own)"
        weights_origin, label = file.name, f"torchvision:{name}@{file.stem}"
    network = models.get_model(name, weights=None)
    load_exactly(network, read_tensors(file), f"model {text}")
    embed_dim = _remove_last_linear(network, text)
    network.num_features = embed_dim
    described = Network(
        architecture=name,
        build=lambda: network,
        preprocessing=preprocessing,
        preprocessing_origin=origin,
    )
    encoder = assembled(
        network,
        described,
        reference=text,
        settings=reference.settings,
        name=label,
        weights_origin=weights_origin,
        licence="BSD-3-Clause (torchvision); the training data has terms of its own",
        files=[file],
        known=known,
    )
    return encoder.with_card(encoder.card.model_copy(update={"pooling": "input of the last linear layer"}))


def _download(weights: WeightsEnum, reference: str, may_download: bool) -> Path:
    """Returns the file of torchvision's weights in torch's own cache."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if file.is_file():
        return file
    if not may_download:
        raise MissingDataError(
            f"model {reference}: its weights are not on this machine, and {asked('offline')} was given: {weights.url}"
        )
    told = file.stem.rpartition("-")[2]  # the beginning of its sha256, as torch's hub has it
    try:
        with scratch_directory(file.parent) as folder:
            found = download(str(weights.url), folder / file.name).sha256
            if not found.startswith(told):
                raise ValueError(f"its sha256 is {found}, and its name says {told}")
            (folder / file.name).replace(file)
    except (OSError, ValueError, HTTPException) as error:
        raise MissingDataError(f"model {reference}: {weights.url} could not be downloaded: {one_line(error)}") from None
    return file


def _own_preprocessing(weights: WeightsEnum, reference: str) -> Preprocessing:
    try:
        return preprocessing_of(weights.transforms())
    except RequestError as error:
        raise RequestError(f"model {reference}: its transforms() are not a resize and a crop: {error}") from None


def _remove_last_linear(network: nn.Module, reference: str) -> int:
    """Replaces the last linear layer by the identity; returns the number of its inputs."""
    for head_name in _HEADS:
        head = getattr(network, head_name, None)
        if isinstance(head, nn.Linear):
            setattr(network, head_name, nn.Identity())
            return head.in_features
        if isinstance(head, nn.Sequential):
            for name, layer in reversed(list(head.named_children())):
                if isinstance(layer, nn.Linear):
                    setattr(head, name, nn.Identity())
                    return layer.in_features
    raise RequestError(f"model {reference}: it does not end in a linear layer, so it has no agreed feature")
