"""Weights of known models: where a manifest's file lies, and its download."""

from __future__ import annotations

import sys
import time
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

from massl_bench.core.errors import CellError, MissingDataError, RequestError, one_line
from massl_bench.core.files import file_safe, sha256_file
from massl_bench.core.wording import asked
from massl_bench.specs.manifest import ManifestSpec

CHECKPOINT_SUFFIXES = frozenset({".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors"})

_ABANDONED_SECONDS = 3600
"""A partial download that grew no more for so long belongs to a process that was killed."""


def weights_file(manifest: ManifestSpec, manifest_path: Path, cache_dir: Path) -> Path:
    """Returns the file of a manifest: the one that it names, or the one that was fetched.

    Raises:
        MissingDataError: Neither is on this machine; the text says how to get it.
    """
    named = _named_file(manifest, manifest_path)
    if named is not None and named.is_file():
        return named
    if manifest.url is not None:
        fetched = fetched_file(manifest, cache_dir)
        if fetched.is_file():
            return fetched
        raise MissingDataError(
            f"model {manifest.name}: its weights are not on this machine; next: massl-bench weights fetch "
            f"{manifest.name} (from {manifest.url})"
        )
    raise MissingDataError(f"model {manifest.name}: {named} (named in {manifest_path}) does not exist")


def _named_file(manifest: ManifestSpec, manifest_path: Path) -> Path | None:
    return (manifest_path.parent / manifest.file).resolve() if manifest.file is not None else None


def fetched_file(manifest: ManifestSpec, cache_dir: Path) -> Path:
    """Returns where the download of a manifest's address lies, or would lie."""
    suffix = Path(urlparse(manifest.url or "").path).suffix
    suffix = suffix if suffix in CHECKPOINT_SUFFIXES else ".pth"
    return cache_dir / "weights" / f"{file_safe(manifest.name)}-{manifest.sha256[:16]}{suffix}"


def fetch_weights(manifest: ManifestSpec, manifest_path: Path, cache_dir: Path, *, download: bool) -> Path:
    """Returns the verified file of a manifest, downloading it into the cache where it is not on this machine.

    Raises:
        RequestError: The manifest has no address, or the file that it names is another one.
        MissingDataError: It is not there, and downloading is not allowed.
        CellError: The download failed or is another file than the manifest's; nothing of it stays.
    """
    where = f"model {manifest.name}"
    if manifest.url is None:
        raise RequestError(f"{where}: its manifest has no url to fetch it from; it names the file {manifest.file}")
    named = _named_file(manifest, manifest_path)
    if named is not None and named.is_file():
        if sha256_file(named) == manifest.sha256:
            return named
        raise RequestError(f"{where}: {named} is another file: its sha256 is not the manifest's; move it away to fetch")
    file = fetched_file(manifest, cache_dir)
    if file.is_file() and sha256_file(file) == manifest.sha256:
        return file
    if not download:
        raise MissingDataError(
            f"{where}: not in the cache, and downloading is not allowed ({asked('offline')}): {manifest.url}"
        )
    import torch

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(file)
        # It writes beside the file and renames when the whole hash is right.
        torch.hub.download_url_to_file(
            manifest.url, str(file), hash_prefix=manifest.sha256, progress=sys.stderr.isatty()
        )
    except RuntimeError as error:  # another hash
        raise CellError(
            f"{where}: {manifest.url} is not the file of its manifest: {one_line(error)}; nothing was kept; an address "
            "that leads to a web page (Google Drive's do) is downloaded by hand: massl-bench weights add FILE"
        ) from None
    except (OSError, ValueError, HTTPException) as error:
        raise CellError(f"{where}: {manifest.url} could not be downloaded: {one_line(error)}") from None
    return file


def _remove_abandoned(file: Path) -> None:
    for partial in file.parent.glob(f"{file.name}.*.partial"):
        if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
            partial.unlink(missing_ok=True)
