"""A model by reference: its identity, and its encoder when that is needed.

The card of a model that was loaded once is remembered under the size and modification time of its files, so that a run
whose features are cached opens no model file and imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.files import read_memo, sha256_of, stat_signature, write_memo
from massl_bench.models.card import ModelCard
from massl_bench.models.source import ModelOptions, Opening, Reference
from massl_bench.models.sources import sources, usages
from massl_bench.models.weights.fetch import CHECKPOINT_SUFFIXES, unknown_weights
from massl_bench.specs import plugins
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


@dataclass(kw_only=True)
class Model:
    """A model whose identity is known.

    Attributes:
        card: what it is.
        build: loads the encoder on the CPU.
    """

    card: ModelCard
    build: Callable[[], Encoder]

    def encoder(self, device: str) -> Encoder:
        """Returns the encoder in evaluation mode on `device`; loads it at each call."""
        return self.build().to(device)


def open_model(reference: str, registry: Registry, options: ModelOptions) -> Model:
    """Returns the model of a reference, in any of the forms that `--model` takes.

    Raises:
        RequestError: The name is unknown, the checkpoint cannot be read safely, its tensors do not fit, or an
            architecture is given of what is no checkpoint.
        MissingDataError: Weights are not on this machine and could not, or may not, be downloaded.
    """
    return _remembered(_open(reference, registry, options), options)


def _open(text: str, registry: Registry, options: ModelOptions) -> Opening:
    prefix, _, rest = text.partition(":")
    known = sources().values()
    for source in known:
        if source.prefixed and source.prefix == prefix and rest:
            return source.open(Reference(text=text, rest=rest, registry=registry, options=options))
    for source in sorted((each for each in known if each.claims is not None), key=lambda each: each.order):
        assert source.claims is not None
        if source.claims(text, registry):
            return source.open(Reference(text=text, rest=text, registry=registry, options=options))
    forms = ", ".join(usages())
    if Path(text).suffix in CHECKPOINT_SUFFIXES or "/" in text:
        raise RequestError(f"model {text}: no such file; expected a checkpoint, {forms}")
    published = unknown_weights(text, registry)
    if published is not None:
        raise published
    names = ["pixels", *registry.manifests, *registry.checkpoints]
    raise unknown_name("model", text, names, f"or a checkpoint file, {forms}")


def _remembered(opening: Opening, options: ModelOptions) -> Model:
    """Returns the model with its remembered card, or loads it once to learn the card."""
    if opening.card is not None:
        card = opening.card
        return Model(card=card, build=lambda: opening.build(card))
    versions = [metadata.version(name) for name in ("massl-bench", "torch", "timm", "torchvision")]
    versions += [
        f"{each}" for group in (plugins.ADAPTERS_GROUP, plugins.SOURCES_GROUP) for each in plugins.declared(group)
    ]
    files = [[str(file.resolve()), *stat_signature(file)] for file in opening.files]
    settings = options.settings.model_dump(mode="json", exclude_none=True)
    key = sha256_of([opening.name, files, opening.details, settings, versions])
    memo_dir = options.cache_dir / "models"
    memo = read_memo(memo_dir, key)
    seen = memo.get("files") if memo is not None else None
    if memo is not None and _files_unchanged(seen):
        try:
            found = ModelCard.model_validate_json(memo["card"])
        except (ValidationError, KeyError, TypeError):
            pass  # written by another version: the model is loaded and the memo rewritten
        else:
            return Model(card=found, build=lambda: _rebuilt(opening, found, seen))
    encoder = opening.build(None)
    seen = [_seen(path) for path in encoder.files]
    if encoder.files or encoder.reproducible:
        write_memo(memo_dir, key, {"card": encoder.card.model_dump_json(), "files": seen})
    loaded: list[Encoder] = [encoder]

    def build_or_take() -> Encoder:
        return loaded.pop() if loaded else _rebuilt(opening, encoder.card, seen)

    return Model(card=encoder.card, build=build_or_take)


def _rebuilt(opening: Opening, card: ModelCard, seen: object) -> Encoder:
    """Returns the encoder of a remembered card.

    Raises:
        RequestError: Its files are other ones by now: the card is not that of what was loaded.
    """
    encoder = opening.build(card)
    if not _files_unchanged(seen):
        raise RequestError(f"model {opening.name}: its files changed after they were first read; run it again")
    return encoder


def _seen(path: Path) -> list[str | int]:
    """Returns what a file was when it was read; of one that was not there, that it was not."""
    return [str(path), *stat_signature(path)] if path.exists() else [str(path)]


def _files_unchanged(files: object) -> bool:
    if not isinstance(files, Sequence):
        return False
    try:
        return all(entry == _seen(Path(entry[0])) for entry in files)
    except (OSError, TypeError, ValueError, IndexError):
        return False
