"""What a model is: enough for a record, for the key of its features and for the line that says it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.core.settings import (
    BlocksAndMean,
    ClassGem,
    EveryBlock,
    LastBlocks,
    PatchTokens,
    Pooling,
    Preprocessing,
    PreprocessingOverride,
)
from massl_bench.core.strict import Listed, StrictModel
from massl_bench.core.values import Part


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
    blocks: Listed[tuple[int, ...]]
    """Width of the feature of each block, the last of which is the model's own; empty where blocks are not known."""
    patch_dim: int | None
    """Width of a ViT's patch tokens after the final norm; None for networks without."""
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
        if isinstance(pooling, BlocksAndMean) and self.token_dim is not None and self.blocks:
            count = min(pooling.num_blocks, len(self.blocks))
            text = f"class tokens of the last {count} blocks" if count > 1 else "class token of the last block"
            text += ", and mean of the last one's patch tokens, each after the final norm"
            return self.model_copy(update={"pooling": text, "embed_dim": (count + 1) * self.token_dim})
        if isinstance(pooling, PatchTokens) and self.patch_dim is not None:
            text = "patch tokens after the final norm"
            return self.model_copy(update={"pooling": text, "embed_dim": self.patch_dim})
        if isinstance(pooling, EveryBlock) and self.blocks:
            text = f"{self.pooling}, of each of {len(self.blocks)} blocks"
            return self.model_copy(update={"pooling": text, "embed_dim": sum(self.blocks)})
        return self

    def parts(self, pooling: Pooling | None) -> tuple[Part, ...]:
        """Returns the features that stand one after the other under a task's pooling; none for a single one."""
        if isinstance(pooling, EveryBlock):
            return tuple(Part(f"b{number}", width) for number, width in enumerate(self.blocks, 1))
        if isinstance(pooling, BlocksAndMean) and self.token_dim is not None and self.blocks:
            last = range(1, len(self.blocks) + 1)[-pooling.num_blocks :]
            return (*(Part(f"b{number}", self.token_dim) for number in last), Part("mean patch", self.token_dim))
        return ()

    def check_gives(self, pooling: Pooling | None) -> None:
        """Raises `RequestError` where the network has nothing that a task asks for and cannot do without."""
        if isinstance(pooling, PatchTokens) and self.patch_dim is None:
            raise RequestError(
                f"model {self.name} ({self.architecture}; {self.pooling}) has no patch tokens after one norm; ViTs have"
            )
        if isinstance(pooling, EveryBlock) and not self.blocks:
            raise RequestError(
                f"model {self.name} ({self.architecture}; {self.pooling}) has no blocks that are told apart; ViTs and "
                "ResNets have, under a feature that each block can give"
            )

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
        prepared, patch = override.apply(self.preprocessing), self.network.get("patch")
        if not override.whole_patches or not isinstance(patch, int):
            return prepared
        sides = {"resize": prepared.resize, "crop": prepared.crop}
        return prepared.model_copy(
            update={name: side // patch * patch for name, side in sides.items() if side is not None and side >= patch}
        )

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
