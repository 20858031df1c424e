"""A checkpoint becomes a model that is known by its name."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massl_bench.core.errors import CellError, RequestError, one_line
from massl_bench.core.files import atomic_file, file_safe, remembered_sha256, sha256_file, write_atomic
from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.core.wording import asked
from massl_bench.models.card import ModelCard
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.weights_path import weights_of
from massl_bench.specs.manifest import DEFAULT_MODEL, ManifestSpec
from massl_bench.specs.toml import load_toml, sealed_toml


@dataclass(frozen=True, kw_only=True)
class Download:
    """Where a file came from.

    Attributes:
        member: of a zip archive, the file that is meant.
        sha256_from: who says that it is the file that was meant.
    """

    member: str | None
    sha256_from: str


@dataclass(frozen=True, kw_only=True)
class NewManifest:
    """What the user says of a checkpoint.

    Attributes:
        file: the checkpoint.
        name: by which the model will be known.
        weights_dir: where manifests are looked for.
        cache_dir: where hashes of files are remembered.
        settings: what the file does not tell of the model, or what replaces what it tells.
        url: where others can download the file.
        summary: one line for lists; None for the architecture and the file's name.
        copy: whether the file is copied beside the manifest.
        force: whether a manifest of this name is replaced.
        training: a TOML file of what is known of the training (method, epochs, …), or None.
        download: where the file was fetched from, in place of its path: others fetch it there too.
    """

    file: Path
    name: str
    weights_dir: Path
    cache_dir: Path
    settings: ModelSettings = NO_SETTINGS
    url: str | None = None
    summary: str | None = None
    licence: str = "unknown"
    citation: str = "unknown"
    copy: bool = False
    force: bool = False
    training: Path | None = None
    download: Download | None = None

    @property
    def path(self) -> Path:
        """The manifest's file."""
        return self.weights_dir / f"{self.name}.toml"


def add_weights(new: NewManifest) -> tuple[ModelCard, ManifestSpec]:
    """Loads a checkpoint, every tensor of it, and writes its manifest.

    Returns:
        The model's card, under its new name, and what was written.

    Raises:
        RequestError: The name or the file will not do, the manifest is there already, or the tensors do not fit.
        CellError: The manifest, or the copy of the file, could not be written.
    """
    _check_request(new)
    training = _told_of_training(new.training)
    card = build_checkpoint(new.file, str(new.file), new.settings).card
    settings = new.settings
    told = settings.img_size is not None or settings.preprocessing is not None
    try:
        sha256 = remembered_sha256(new.file, new.cache_dir)
        manifest = ManifestSpec(
            name=new.name,
            file=_copy(new, sha256) if new.copy else _named_file(new) if new.download is None else None,
            url=new.url,
            member=new.download.member if new.download is not None else None,
            sha256=sha256,
            sha256_from=new.download.sha256_from if new.download is not None else None,
            adapter=card.origins.get("weights", "").removeprefix("adapter ") or None,
            checkpoint_key=settings.checkpoint_key,
            arch=settings.arch,
            num_heads=settings.num_heads,
            pooling=settings.pooling,
            preprocessing=card.preprocessing if told else None,
            summary=new.summary if new.summary is not None else f"{card.architecture}, added from {new.file.name}",
            licence=new.licence,
            citation=new.citation,
            training=training,
        )
        write_atomic(new.path, sealed_toml(manifest.model_dump(mode="json", exclude_defaults=True)))
    except OSError as error:
        raise CellError(f"{new.path}: could not be written: {error.strerror or error}") from None
    return card.model_copy(update={"name": new.name, "licence": new.licence}), manifest


def _told_of_training(file: Path | None) -> dict[str, Any]:
    try:
        return load_toml(file) if file is not None else {}
    except (OSError, ValueError) as error:
        text = f"not a TOML file that can be read: {one_line(error)}"
        raise RequestError(text, field="training", found=file) from None


def _check_request(new: NewManifest) -> None:
    check_name(new.name)
    file = weights_of(new.file)
    if new.file.is_dir():
        raise RequestError(f"{new.file}: is a directory; a manifest names one file: {file}")
    if new.path.exists() and not new.force:
        raise RequestError(f"{new.path} is there already", remedy=_another_name())


def check_name(name: str) -> None:
    """Raises `RequestError` where a manifest cannot have this name."""
    if name != file_safe(name) or name in ("pixels", DEFAULT_MODEL):
        raise RequestError(
            field="name",
            found=name,
            allowed=f"letters, digits, '.', '_' and '-', and not pixels or {DEFAULT_MODEL}, which are what they are "
            "everywhere",
        )


def _named_file(new: NewManifest) -> str:
    """Returns the checkpoint's path as the manifest names it: relative where it lies beside the manifest."""
    file, folder = new.file.resolve(), new.weights_dir.resolve()
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def _copy(new: NewManifest, sha256: str) -> str:
    target = new.weights_dir / f"{new.name}{new.file.suffix}"
    if target.exists() and target.samefile(new.file):
        return target.name
    if target.exists() and not new.force:
        if sha256_file(target) == sha256:  # of a call that ended before it wrote the manifest
            return target.name
        raise RequestError(f"{target} is there already", remedy=_another_name())
    with atomic_file(target) as temporary:
        shutil.copyfile(new.file, temporary)
        if sha256_file(temporary) != sha256:
            raise RequestError(f"{new.file}: changed while it was copied; nothing was written")
    return target.name


def _another_name() -> str:
    return f"{asked('force')} replaces it, or choose another {asked('name')}"
