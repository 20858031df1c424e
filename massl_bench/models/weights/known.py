"""Weights that are known by a name: those with a manifest, and those that others publish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massl_bench.core.errors import CellError, MissingDataError, RequestError, unknown_name
from massl_bench.core.wording import option
from massl_bench.models.source import ModelOptions
from massl_bench.models.weights.fetch import fetch_published, fetch_weights, weights_file
from massl_bench.specs.registry import Registry

_LIBRARIES = ("timm", "torchvision", "hf-hub")
"""Sources that download by themselves, into their own caches."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is there of a model."""

    name: str
    file: Path | None = None
    sha256: str | None = None
    sha256_from: str | None = None
    """Who says that it is the file that was meant."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of weights."""

    columns: dict[str, str]
    """For people."""
    values: dict[str, Any]
    """For machines."""


def check_fetchable(name: str, registry: Registry) -> None:
    """Raises `RequestError` where nobody knows the name."""
    prefix, _, rest = name.partition(":")
    if not (prefix in _LIBRARIES and rest) and name not in registry.manifests and name not in registry.checkpoints:
        raise unknown_name(
            "model", name, [*registry.manifests, *registry.checkpoints], f"weights list {option('remote')} has all"
        )


def fetch_known(name: str, registry: Registry, weights_dir: Path, cache_dir: Path, *, may_download: bool) -> Fetched:
    """Brings the weights of a name to this machine: a manifest's, published ones, or a library's.

    Published weights get a manifest after every tensor was loaded; one that is there says which file it must be.

    Raises:
        RequestError: There is no address to fetch it from, or the file that is there is another one.
        MissingDataError: Downloading is not allowed.
        CellError: The download failed, is another file, or cannot be loaded.
    """
    if name in registry.manifests:
        manifest = registry.manifest(name)
        file = fetch_weights(manifest, registry.manifests[name], cache_dir, may_download=may_download)
        return Fetched(name=name, file=file, sha256=manifest.sha256, sha256_from=manifest.sha256_from)
    if name in registry.checkpoints:
        return _published(name, registry, weights_dir, cache_dir, may_download=may_download)
    return _of_library(name, registry, cache_dir, may_download=may_download)


def _published(name: str, registry: Registry, weights_dir: Path, cache_dir: Path, *, may_download: bool) -> Fetched:
    from massl_bench.models.weights.manifests import Download, NewManifest, add_weights

    source, checkpoint = registry.checkpoints[name]
    file, origin = fetch_published(name, source, checkpoint, cache_dir, may_download=may_download)
    epochs = f", {checkpoint.epochs} epochs" if checkpoint.epochs is not None else ""
    new = NewManifest(
        file=file,
        name=name,
        weights_dir=weights_dir,
        cache_dir=cache_dir,
        settings=checkpoint.settings,
        url=checkpoint.url,
        summary=f"{checkpoint.method or source.method}, {checkpoint.architecture}{epochs}",
        licence=checkpoint.licence or source.licence,
        citation=source.citation,
        download=Download(member=checkpoint.member, sha256_from=origin),
    )
    try:
        _, manifest = add_weights(new)
    except RequestError as error:
        raise CellError(f"model {name}: fetched to {file}, and not taken: {error}") from None
    return Fetched(name=name, file=file, sha256=manifest.sha256, sha256_from=origin)


def _of_library(name: str, registry: Registry, cache_dir: Path, *, may_download: bool) -> Fetched:
    from massl_bench.core.files import remembered_sha256
    from massl_bench.models.open import open_model

    try:
        files = (
            open_model(name, registry, ModelOptions(cache_dir=cache_dir, download=may_download)).encoder("cpu").files
        )
    except MissingDataError as error:
        if may_download:
            raise CellError(str(error)) from None
        raise
    file = files[0] if files else None
    return Fetched(name=name, file=file, sha256=remembered_sha256(file, cache_dir) if file is not None else None)


def here(registry: Registry, cache_dir: Path) -> list[Row]:
    """Returns what the manifests name, and whether its file is there."""
    rows = []
    for name, path in registry.manifests.items():
        manifest = registry.manifest(name)
        try:
            file, problem = weights_file(manifest, path, cache_dir), None
        except MissingDataError as error:
            file, problem = None, str(error)
        values = manifest.model_dump(mode="json", exclude={"training", "content_sha256"}, exclude_none=True)
        values |= {"manifest": path, "file": file, "problem": problem}
        columns = {
            "name": name,
            "what": manifest.summary,
            "licence": manifest.licence,
            "size": _size(file.stat().st_size if file is not None else None),
            "file": str(file) if file is not None else "not here",
        }
        rows.append(Row(columns=columns, values=values))
    return rows


def published(registry: Registry, cache_dir: Path) -> list[Row]:
    """Returns what others publish, and whether it is there."""
    rows = []
    for name, (source, checkpoint) in registry.checkpoints.items():
        is_here = _is_here(name, registry, cache_dir)
        licence = checkpoint.licence or source.licence
        method = checkpoint.method or source.method
        values = checkpoint.model_dump(mode="json", exclude_none=True, exclude={"settings"})
        values |= {"name": name, "method": method, "licence": licence, "host": checkpoint.host, "here": is_here}
        values |= {"source": source.source, "revision": source.revision, "read": source.read}
        columns = {
            "name": name,
            "method": method,
            "architecture": checkpoint.architecture,
            "licence": licence,
            "size": _size(checkpoint.num_bytes),
            "host": checkpoint.host,
            "hash": checkpoint.published_hash or ("by hand" if checkpoint.page is not None else "none: pinned"),
            "here": "yes" if is_here else "refused" if checkpoint.refused is not None else "no",
        }
        rows.append(Row(columns=columns, values=values))
    return rows


def _is_here(name: str, registry: Registry, cache_dir: Path) -> bool:
    if name not in registry.manifests:
        return False
    try:
        weights_file(registry.manifest(name), registry.manifests[name], cache_dir)
    except MissingDataError:
        return False
    return True


def _size(num_bytes: int | None) -> str:
    return f"{num_bytes / 1e6:,.0f} MB" if num_bytes is not None else "?"
