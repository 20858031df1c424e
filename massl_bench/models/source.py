"""What a source of models is: one form of `--model`, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.models.card import ModelCard
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder

FOR_CHECKPOINTS = ("arch", "num_heads", "checkpoint_key")
"""Settings that say what a file does not tell; a model of a library, or of a manifest, says them itself."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a reference is resolved."""

    cache_dir: Path
    settings: ModelSettings = NO_SETTINGS
    """What the user says of the model beyond its name."""
    download: bool = True


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What `--model` was given, and all that opening it needs.

    Attributes:
        text: the whole of it.
        rest: behind the prefix; the whole where the source has none.
        registry: where manifests are.
        options: the cache, the user's settings, whether to download.
    """

    text: str
    rest: str
    registry: Registry
    options: ModelOptions

    @property
    def settings(self) -> ModelSettings:
        """What the user says of the model."""
        return self.options.settings

    def check_only(self, what: str, refused: tuple[str, ...] = FOR_CHECKPOINTS) -> None:
        """Raises `RequestError` where a setting is given that this source says itself.

        Args:
            what: who says it, for the message.
            refused: names of settings.
        """
        for name in refused:
            value = getattr(self.settings, name)
            if value is not None:
                option = f"--{name.replace('_', '-')} {value}"
                raise RequestError(f"{option}: is for a checkpoint; of {self.text} its {what} says it")


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A model that is there: what it depends on, and how it is loaded.

    Attributes:
        build: loads the encoder on the CPU; given a remembered card, it hashes nothing.
        name: what it is remembered as.
        files: of its weights, known before loading; their change makes another model.
        details: beside files and settings, what its card depends on.
        card: where it is known without loading.
    """

    build: Callable[[ModelCard | None], Encoder]
    name: str
    files: tuple[Path, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    card: ModelCard | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """One form of `--model`; a module of `massl_bench.models.sources`, or of a plugin, has one as `SOURCE`.

    Attributes:
        name: the module's; also the prefix before a colon, with `-` for `_`, unless `prefixed` is off.
        usage: how it is written: `timm:NAME`.
        help: one line.
        open: opens a reference; what does not exist or fit is a `RequestError`.
        prefixed: whether references begin with the name and a colon.
        claims: whether a reference without a known prefix belongs to it.
        order: of sources without a prefix, the one with the smaller number is asked first.
    """

    name: str
    usage: str
    help: str
    open: Callable[[Reference], Opening]
    prefixed: bool = True
    claims: Callable[[str, Registry], bool] | None = None
    order: int = 0

    @property
    def prefix(self) -> str:
        """What references begin with, before the colon."""
        return self.name.replace("_", "-")
