"""A filled network becomes an encoder with its card: feature, size and preprocessing as the user or the authors say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import FeatureName, ModelSettings
from massl_bench.core.settings import Preprocessing
from massl_bench.models.adapter import Network
from massl_bench.models.card import ModelCard
from massl_bench.models.encoder import Encoder
from massl_bench.models.identity import describe_network
from massl_bench.models.networks.blocks import block_widths
from massl_bench.models.networks.features import WORDS, TokenFeature, feature_dim, features_of
from massl_bench.models.networks.tokens import num_token_blocks, token_dim


def assembled(  # noqa: PLR0913  # what a card says
    network: nn.Module,
    described: Network,
    *,
    reference: str,
    settings: ModelSettings,
    stem: str | None = None,
    name: str | None = None,
    weights_origin: str,
    layout: str | None = None,
    left_out: Mapping[str, str] | None = None,
    licence: str = "unknown",
    files: Sequence[Path] = (),
    reproducible: bool = False,
    known: ModelCard | None = None,
) -> Encoder:
    """Returns the encoder of a network with its tensors.

    Args:
        network: filled, without a classifier.
        described: what it is, and how its authors evaluate it.
        reference: what the user gave.
        settings: what the user said of the model.
        stem: a file's, from which the name is made, with the beginning of the hash.
        name: in place of that.
        weights_origin: where the weights come from, for people.
        layout: of the file: the adapter's name.
        left_out: what of the file was not taken.
        licence: of the weights.
        files: whose change makes a remembered card invalid.
        reproducible: whether building it again gives the same tensors although they come from no file.
        known: the card, where that is remembered.

    Raises:
        RequestError: The network cannot give the feature, or take the size, that the user says.
    """
    where = f"model {reference}"
    feature = feature_of(network, described, settings, where)
    encoding = network if feature is None else TokenFeature(network, feature)
    if known is not None:
        return Encoder(encoding, known, tokens_of=network, files=files, reproducible=reproducible)
    numbers = describe_network(network)
    chosen = feature or described.own_feature
    own_tokens = chosen == "token" and settings.pooling is None
    label = settings.label
    name = name if name is not None else f"{stem}-{numbers['weights_sha256'][:8]}"
    preprocessing, preprocessing_origin = fed(described, settings, network, where)
    origins = dict(described.origins)
    if layout is not None:
        origins["weights"] = f"adapter {layout}"
    if settings.pooling is not None:
        origins["pooling"] = "as given"
    if settings.img_size is not None:
        origins["size"] = "as given"
    card = ModelCard(
        name=f"{name}@{label}" if label else name,
        reference=reference,
        architecture=described.architecture,
        pooling=_words(network, chosen),
        embed_dim=_embed_dim(network, feature),
        num_blocks=num_token_blocks(network) if own_tokens else None,
        blocks=block_widths(network, feature, _embed_dim(network, feature)),
        patch_dim=feature_dim(network, "avg") if features_of(network) else None,
        token_dim=token_dim(network) if settings.pooling is None else None,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        weights_origin=weights_origin,
        preprocessing=preprocessing,
        preprocessing_origin=preprocessing_origin,
        origins={part: text for part, text in origins.items() if text},
        left_out=dict(left_out or {}),
        notes=described.notes,
        settings=settings,
        licence=licence,
        **numbers,
    )
    return Encoder(encoding, card, tokens_of=network, files=files, reproducible=reproducible)


def feature_of(network: nn.Module, described: Network, settings: ModelSettings, where: str) -> FeatureName | None:
    """Returns the feature that must be made of a network's tokens; None where the network returns it by itself."""
    wanted = settings.pooling or described.feature
    if wanted is None or wanted == described.own_feature:
        return None
    allowed = features_of(network)
    if wanted not in allowed:
        own = described.own_feature or pooling_words(network)
        raise RequestError(
            f"{described.architecture} has no tokens for it; it gives {', '.join(allowed) or own}",
            where=where,
            field="pooling",
            found=wanted,
        )
    return wanted


def _words(network: nn.Module, feature: FeatureName | None) -> str:
    return WORDS[feature] if feature is not None and features_of(network) else pooling_words(network)


def _embed_dim(network: Any, feature: FeatureName | None) -> int:
    if feature is not None:
        return feature_dim(network, feature)
    return int(getattr(network, "head_hidden_size", None) or network.num_features)


def pooling_words(network: nn.Module) -> str:
    """Returns what the feature of a network of timm is, in words."""
    pool = str(getattr(network, "global_pool", "") or "")
    projection = getattr(network, "head", None)
    if pool == "token" and isinstance(projection, nn.Linear):
        return f"{WORDS['token']}, projected to {projection.out_features} dimensions"
    match pool:
        case "token":
            return WORDS["token"]
        case "avg":
            return "mean of the patch tokens, normalised"
        case _:
            return "pooled map" if hasattr(network, "conv1") or not pool else f"timm's pooled features ({pool})"


def fed(described: Network, settings: ModelSettings, network: Any, where: str) -> tuple[Preprocessing, str]:
    """Returns (how images are fed, who says so): the authors' way, with what the user says in its place."""
    preprocessing, origin = described.preprocessing, described.preprocessing_origin
    side = settings.img_size
    if side is not None:
        native = getattr(getattr(network, "patch_embed", None), "img_size", None)
        if getattr(network, "position_rule", None) == "fixed" and native is not None and native[0] != side:
            raise RequestError(
                f"its authors never resample its position embeddings: it takes {native[0]} pixels alone",
                where=where,
                field="img_size",
                found=side,
            )
        preprocessing = at_side(preprocessing, side)
    if settings.preprocessing is not None:
        preprocessing = settings.preprocessing.apply(preprocessing)
        origin += f"; as given: {', '.join(settings.preprocessing.named)}"
    return preprocessing, origin


def at_side(preprocessing: Preprocessing, side: int) -> Preprocessing:
    """Returns a preprocessing for images of another side: the resize keeps its ratio to the crop."""
    crop = preprocessing.crop
    resize = side if crop is None else round(preprocessing.resize * side / crop)
    return preprocessing.model_copy(update={"resize": resize, "crop": side if crop is not None else None})
