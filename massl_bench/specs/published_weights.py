"""Checkpoints that others publish: where their files are, and what is known of them. One file a source."""

from __future__ import annotations

from datetime import date
from typing import Any
from urllib.parse import urlparse

from pydantic import Field, field_validator, model_validator

from massl_bench.core.files import file_safe
from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.core.strict import StrictModel


class PublishedCheckpoint(StrictModel):
    """One file of weights."""

    architecture: str
    """For people; what the file is, its adapter finds out."""
    url: str | None = None
    """Of the file itself."""
    page: str | None = None
    """Where a person gets the file, where no address leads to it."""
    because: str | None = None
    """Why a person has to: a licence to agree to, a folder to choose from."""
    member: str | None = None
    """Of a zip archive, the file that is meant."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    """As its authors publish it; its beginning, where they publish that (in the file's name)."""
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{6,32}$")
    """Likewise."""
    num_bytes: int | None = Field(default=None, gt=0)
    method: str | None = None
    """Where it is not its source's."""
    epochs: int | None = Field(default=None, gt=0)
    licence: str | None = None
    """Where it is not its source's."""
    refused: str | None = None
    """Why nothing here can load it, where that is known; it is not fetched."""
    note: str | None = None
    settings: ModelSettings = NO_SETTINGS
    """What must be said of it, since the file does not tell."""

    @model_validator(mode="after")
    def _somewhere(self) -> PublishedCheckpoint:
        if (self.url is None) == (self.page is None):
            raise ValueError("expected url (of the file) or page (where a person gets it), and not both")
        if (self.page is None) != (self.because is None):
            raise ValueError("because: says why a person has to go to the page; expected with page, and only there")
        return self

    @field_validator("url", "page")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and (urlparse(value).scheme not in ("http", "https") or not urlparse(value).hostname):
            raise ValueError(f"expected an address, https://…, got {value!r}")
        return value

    @property
    def host(self) -> str:
        """Who serves the file, or the page."""
        return urlparse(self.url or self.page or "").hostname or ""

    @property
    def published_hash(self) -> str | None:
        """What its authors publish of its content, in words; None where they publish nothing."""
        if self.sha256 is not None:
            return f"sha256 {_shown(self.sha256, 64)}"
        return f"md5 {_shown(self.md5, 32)}" if self.md5 is not None else None


def _shown(digits: str, whole: int) -> str:
    """Returns a hash as a line has room for it; of one whose beginning alone is published, that."""
    return f"{digits[:12]}…" if len(digits) == whole else f"{digits} (its beginning)"


class PublishedWeights(StrictModel):
    """What one source publishes. Each address was read there by whoever wrote the file."""

    name: str
    method: str
    source: str
    """Repository and file."""
    revision: str | None = None
    """The commit of the source that was read."""
    read: str
    """The day it was read, ISO 8601."""
    licence: str
    """Of the weights, as the source says it."""
    citation: str
    checkpoints: dict[str, PublishedCheckpoint] = Field(min_length=1)
    """By the name that `--model` will know it under."""

    @field_validator("read")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        try:
            date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"expected a day, YYYY-MM-DD, got {value!r}") from None
        return value

    @field_validator("checkpoints")
    @classmethod
    def _can_be_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name != file_safe(name):
                raise ValueError(f"{name}: expected a name of letters, digits, '.', '_' and '-'")
        return value
