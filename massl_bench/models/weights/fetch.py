"""Weights of known models: where a manifest's file lies, and its download."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from datetime import date
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

from massl_bench.core.download import Digests, download
from massl_bench.core.errors import CellError, MissingDataError, RequestError, one_line
from massl_bench.core.files import file_safe, remember_sha256, remembered_sha256, scratch_directory, sha256_file
from massl_bench.core.wording import asked, option
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.published_weights import PublishedCheckpoint, PublishedWeights
from massl_bench.specs.registry import Registry

CHECKPOINT_SUFFIXES = frozenset({".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors"})

_Check = Callable[[Digests, str], None]
"""Raises `ValueError` where a download, or the member of an archive (by its sha256), is not what was meant."""

_LARGEST_MEMBER = 1 << 36
"""Bytes of a file in an archive; the largest published weights have 27 GB."""


def weights_file(manifest: ManifestSpec, manifest_path: Path, cache_dir: Path) -> Path:
    """Returns the file of a manifest: the one that it names, or the one that was fetched.

    Raises:
        MissingDataError: Neither is on this machine; the text says how to get it.
    """
    named = _named_file(manifest, manifest_path)
    if named is not None and named.is_file():
        return named
    if manifest.url is not None:
        fetched = fetched_file(manifest.name, manifest.sha256, manifest.member or manifest.url, cache_dir)
        if fetched.is_file():
            return fetched
        raise MissingDataError(
            f"model {manifest.name}: its weights are not on this machine; next: massl-bench weights fetch "
            f"{manifest.name} (from {manifest.url})"
        )
    raise MissingDataError(f"model {manifest.name}: {named} (named in {manifest_path}) does not exist")


def _named_file(manifest: ManifestSpec, manifest_path: Path) -> Path | None:
    return (manifest_path.parent / manifest.file).resolve() if manifest.file is not None else None


def fetched_file(name: str, sha256: str, source: str, cache_dir: Path) -> Path:
    """Returns where a download lies, or would lie.

    Args:
        name: of the model.
        sha256: of the file.
        source: its address, or its path in an archive, which tells the suffix.
        cache_dir: the cache.
    """
    suffix = Path(urlparse(source).path).suffix
    suffix = suffix if suffix in CHECKPOINT_SUFFIXES else ".pth"
    return cache_dir / "weights" / f"{file_safe(name)}-{sha256[:16]}{suffix}"


def fetch_weights(manifest: ManifestSpec, manifest_path: Path, cache_dir: Path, *, may_download: bool) -> Path:
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
        if remembered_sha256(named, cache_dir) == manifest.sha256:
            return named
        raise RequestError(f"{where}: {named} is another file: its sha256 is not the manifest's; move it away to fetch")
    file = fetched_file(manifest.name, manifest.sha256, manifest.member or manifest.url, cache_dir)
    if file.is_file() and remembered_sha256(file, cache_dir) == manifest.sha256:
        return file
    if not may_download:
        raise MissingDataError(
            f"{where}: not in the cache, and downloading is not allowed ({asked('offline')}): {manifest.url}"
        )

    def check(_: Digests, sha256: str) -> None:
        if sha256 != manifest.sha256:
            pinned = f" ({manifest.sha256_from})" if manifest.sha256_from is not None else ""
            raise ValueError(
                f"it is not the file of the manifest {manifest_path}: its sha256 is {sha256}, expected "
                f"{manifest.sha256}{pinned}"
            )

    return _fetched(manifest.name, manifest.url, manifest.member, cache_dir, check)


def fetch_published(
    name: str, source: PublishedWeights, checkpoint: PublishedCheckpoint, cache_dir: Path, *, may_download: bool
) -> tuple[Path, str]:
    """Downloads a published checkpoint into the cache.

    Returns:
        The file, and who says that it is the one that is meant: what its authors publish of its content, or nobody but
        this first download.

    Raises:
        RequestError: No address leads to the file, or nothing here could load it.
        MissingDataError: Downloading is not allowed.
        CellError: The download failed, or is not what its authors publish; nothing of it stays.
    """
    where = f"model {name}"
    if checkpoint.refused is not None:
        raise RequestError(f"{where}: is not fetched: {checkpoint.refused}")
    if checkpoint.url is None:
        named = f"{option('name', name)} {option('licence', repr(source.licence))}"
        raise RequestError(
            f"{where}: {checkpoint.because}: {checkpoint.page}; then: massl-bench weights add FILE {named}"
        )
    if not may_download:
        raise MissingDataError(f"{where}: downloading is not allowed ({asked('offline')}): {checkpoint.url}")

    def check(found: Digests, _: str) -> None:
        for kind, digest, expected in (
            ("sha256", found.sha256, checkpoint.sha256),
            ("md5", found.md5, checkpoint.md5),
        ):
            if expected is not None and not digest.startswith(expected):
                raise ValueError(
                    f"it is not the file that its authors publish: its {kind} is {digest}, expected {expected}"
                )

    file = _fetched(name, checkpoint.url, checkpoint.member, cache_dir, check)
    if checkpoint.published_hash is not None:
        return file, f"its authors publish {checkpoint.published_hash}"
    return file, f"pinned at the first download, {date.today().isoformat()}: its authors publish no hash"


def _fetched(name: str, url: str, member: str | None, cache_dir: Path, check: _Check) -> Path:
    """Downloads a file, or the member of an archive, checks it and puts it into the cache under its hash."""
    try:
        with scratch_directory(cache_dir / "weights") as folder:
            file = folder / "download"
            digests = download(url, file)
            sha256 = digests.sha256
            if member is not None:
                file = _unpacked(file, member, folder / "member")
                sha256 = sha256_file(file)
            check(digests, sha256)
            target = fetched_file(name, sha256, member or url, cache_dir)
            file.replace(target)
            remember_sha256(target, sha256, cache_dir)
    except RequestError as error:
        raise RequestError(f"model {name}: {error}") from None
    except (OSError, ValueError, HTTPException, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise CellError(f"model {name}: {url}: {one_line(error)}; nothing was kept") from None
    return target


def _unpacked(archive: Path, member: str, file: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        if member not in opened.namelist():
            raise ValueError(f"the archive has no {member}; found {', '.join(opened.namelist()[:5])}")
        with opened.open(member) as content, file.open("wb") as out:
            while chunk := content.read(1 << 20):
                out.write(chunk)
                if out.tell() > _LARGEST_MEMBER:
                    raise ValueError(f"{member} in the archive is larger than any weights")
    return file


def unknown_weights(name: str, registry: Registry) -> MissingDataError | None:
    """Returns what to do about a name that others publish weights under and that is not here; None for another."""
    known = registry.checkpoints.get(name)
    if known is None:
        return None
    source, checkpoint = known
    return MissingDataError(
        f"model {name}: {source.method} ({checkpoint.architecture}) is published and not on this machine; next: "
        f"massl-bench weights fetch {name}"
    )
