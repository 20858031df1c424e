"""What a model is: enough for a record, for the key of its features and for the line that says it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.core.settings import ClassGem, LastBlocks, Pooling, Preprocessing, PreprocessingOverride
from massl_bench.core.strict import StrictModel


class ModelCard(StrictModel):
    """What a model is; enough for a record and for the key of its features."""

    name: str
    """As a leaderboard shows it, and (made file-safe) its folder of results."""
    reference: str
    """What `--model` was given."""
    architecture: str
    pooling: str
    """What becomes the feature: `class token after the final norm`, `pooled map`, …"""
    embed_dim: int
    num_blocks: int | None
    """Of a ViT whose feature is its class token, so that tokens of its blocks can be read; None for other networks."""
    token_dim: int | None
    """Width of the class token and the patch tokens; None for a network that has no such tokens."""
    num_parameters: int
    weights_sha256: str
    """Of the tensors that were loaded, by name."""
    weights_hash_of: Literal["tensors", "nothing"]
    network: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """What the shapes of the tensors do not tell of the network as it was built, for people: heads, patch, eps, …"""
    network_sha256: str
    """Of every number of the network as it was built (see `models.identity`)."""
    weights_origin: str
    """Where the weights come from, for people."""
    preprocessing: Preprocessing
    preprocessing_origin: str
    """Which rule the preprocessing came from."""
    origins: dict[str, str] = Field(default_factory=dict)
    """Where other parts came from: `architecture`, `heads`, `pooling`, `size`, `weights` (the adapter)."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """What of the file was not taken, by what it is: `projector`: `6 tensors (head.)`."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know of how the model was taken."""
    settings: ModelSettings = NO_SETTINGS
    """What the user said of it."""
    licence: str = "unknown"

    def pooled(self, pooling: Pooling | None) -> ModelCard:
        """Returns the card under a task's pooling; a network without tokens keeps its own, and the card says which."""
        if isinstance(pooling, ClassGem) and self.token_dim is not None:
            return self.model_copy(update={"pooling": pooling.describe(), "embed_dim": 2 * self.token_dim})
        if isinstance(pooling, LastBlocks) and self.num_blocks is not None:
            count, mean_patch = self.last_blocks(pooling)
            text = f"class tokens of the last {count} blocks" if count > 1 else "class token"
            text += " and mean of the patch tokens, after the final norm" if mean_patch else ", after the final norm"
            return self.model_copy(update={"pooling": text, "embed_dim": (count + mean_patch) * self.embed_dim})
        return self

    def last_blocks(self, pooling: LastBlocks) -> tuple[int, bool]:
        """Returns (number of blocks whose class tokens are taken, whether the mean patch token follows)."""
        assert self.num_blocks is not None
        return (1, True) if self.embed_dim >= pooling.wide else (min(pooling.num_blocks, self.num_blocks), False)

    def prepared(self, override: PreprocessingOverride | None, own_size_below: int | None) -> Preprocessing:
        """Returns the preprocessing under a task's override; a model of images below a size keeps that of its own."""
        if override is None:
            return self.preprocessing
        own = self.preprocessing.crop
        if own_size_below is not None and own is not None and own < own_size_below:
            override = override.model_copy(update={"resize": None, "crop": None})
        return override.apply(self.preprocessing)

    def describe(self) -> str:
        """Returns in one line what the model is taken for, and where each part came from."""
        heads = self.network.get("heads")
        parts = [self._from("architecture", self.architecture)]
        if heads is not None:
            parts.append(self._from("heads", f"{heads} heads" if heads != 1 else "1 head"))
        parts.append(f"{self.num_parameters:,} parameters")
        parts.append(self._from("pooling", f"feature: {self.pooling}, {self.embed_dim} dimensions"))
        side = self.preprocessing.crop
        if side is not None:
            parts.append(self._from("size", f"images of {side} pixels"))
        parts.append(f"{self.preprocessing.describe()} ({self.preprocessing_origin})")
        parts.append(self._from("weights", f"weights: {self.weights_origin}"))
        if self.left_out:
            parts.append("left out: " + ", ".join(f"{what}: {count}" for what, count in self.left_out.items()))
        return f"{self.name}: {'; '.join(parts)}"

    def _from(self, part: str, text: str) -> str:
        origin = self.origins.get(part)
        return f"{text} ({origin})" if origin else text
