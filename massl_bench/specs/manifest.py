"""A manifest: which file a model's weights are, and what is known of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from massl_bench.core.model_settings import FeatureName
from massl_bench.core.settings import Preprocessing
from massl_bench.core.strict import StrictModel

DEFAULT_MODEL = "massl-small-cifar10"
"""The manifest of the bundled weights, which are measured where no model is named."""


class ManifestSpec(StrictModel):
    """WHICH model: everything that is needed to load one checkpoint and to feed it."""

    name: str
    file: str | None = None
    """Relative to the manifest, or absolute."""
    url: str | None = None
    member: str | None = None
    """Of a zip archive at the address, the file that is meant."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sha256_from: str | None = None
    """Who says that this is the file: its authors, or nobody but the first download."""
    adapter: str | None = None
    """What the file was taken by when the manifest was written, for people."""
    checkpoint_key: str | None = None
    """Where the backbone's tensors lie inside the file, where there is more than one place."""
    arch: str | None = None
    """timm's name of the architecture, where neither the file's layout nor its shapes tell it."""
    num_heads: int | None = Field(default=None, gt=0)
    """Attention heads, likewise."""
    pooling: FeatureName | None = None
    """What becomes the feature, where not what the layout's authors evaluate."""
    preprocessing: Preprocessing | None = None
    summary: str
    licence: str
    citation: str
    training: dict[str, Any] = Field(default_factory=dict)
    content_sha256: str | None = None
    """Of everything else, in a manifest that was written and not made by hand."""

    @model_validator(mode="after")
    def _some_file(self) -> ManifestSpec:
        if self.file is None and self.url is None:
            raise ValueError("one of file and url is needed")
        return self
