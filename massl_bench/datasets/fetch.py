"""Downloads: the pinned hub repository first, then the publisher's own archive with its checksum."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from massl_bench.core import download as web
from massl_bench.core.errors import MissingDataError, one_line
from massl_bench.core.files import atomic_directory
from massl_bench.core.hub import check_hub_cache, check_hub_reachable
from massl_bench.specs.dataset import ArchiveSource, DatasetSpec


def fetch_hub(repo: str, revision: str | None, *, patterns: list[str] | None, download: bool) -> Path | None:
    """Returns the local snapshot of a dataset repository, whose directory is called after its commit.

    Returns:
        None where it is not in the hub's cache and `download` is false.

    Raises:
        MissingDataError: The download failed; the text is the hub's reason.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    check_hub_cache(repo, "dataset")
    if download:
        check_hub_reachable(repo)
    try:
        return Path(
            snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=patterns, local_files_only=not download
            )
        )
    except LocalEntryNotFoundError as error:
        if not download:
            return None
        raise MissingDataError(f"{repo} could not be downloaded from the hub: {one_line(error)}") from None
    except Exception as error:  # the client raises its transport's errors too
        raise MissingDataError(f"{repo} could not be downloaded from the hub: {one_line(error)}") from None


def fetch_spec(spec: DatasetSpec, cache_dir: Path, *, download: bool) -> Path | None:
    """Returns the directory of a registered dataset outside the data root: a hub snapshot or an unpacked archive.

    Returns:
        None where nothing is there yet and `download` is false.

    Raises:
        MissingDataError: Every source failed; the text has each source's reason.
    """
    unpacked = cache_dir / "datasets" / (spec.directory or spec.name)
    if unpacked.is_dir():
        return unpacked
    reasons = []
    if spec.hub is not None:
        try:
            root = fetch_hub(
                spec.hub.repo, spec.hub.revision, patterns=["*.parquet", "**/*.parquet"], download=download
            )
        except MissingDataError as error:
            reasons.append(str(error))
        else:
            if root is not None:
                wanted = [name for names in spec.hub_sources.values() for name in names]
                lacking = [name for name in wanted if not any(root.rglob(f"{name}-*.parquet"))]
                if not lacking:
                    return root
                reasons.append(f"{spec.hub.repo}: no {lacking[0]}-*.parquet in it")
    if not download:
        return None
    if spec.archives:
        try:
            _fetch_archives(spec.archives, unpacked)
        except Exception as error:  # no connection, wrong checksum, no archive or one that leaves its folder, …
            reasons.append(f"{', '.join(archive.url for archive in spec.archives)}: {one_line(error)}")
        else:
            return unpacked
    if not reasons:
        return None
    raise MissingDataError(f"dataset {spec.name} could not be fetched: {'; '.join(reasons)}; by hand: {spec.by_hand}")


def _fetch_archives(archives: Sequence[ArchiveSource], target: Path) -> None:
    with atomic_directory(target) as partial:
        for archive in archives:
            file = partial / archive.file_name
            _download(archive, file)
            if file.name.endswith((".tar", ".tar.gz", ".tgz")):
                with tarfile.open(file) as tar:
                    # The filter refuses what would lie outside, and links that lead there.
                    tar.extractall(partial, filter="data")
            elif file.name.endswith(".zip"):
                with zipfile.ZipFile(file) as zipped:
                    zipped.extractall(partial)  # nosec B202  # zipfile never leaves the folder
            else:
                continue
            file.unlink()  # before the next one: the largest archives have more than 100 GB


def _download(archive: ArchiveSource, file: Path) -> None:
    """Writes a file of a publisher; raises `ValueError` where it is another one than the spec's."""
    found = web.download(archive.url, file)
    if found.md5 != archive.md5:
        raise ValueError(f"{archive.url} is another file: its md5 is {found.md5}, expected {archive.md5}")
