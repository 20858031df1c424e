"""The publisher's own files of a dataset, against the checksums that its spec names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from massl_bench.core.files import open_regular
from massl_bench.datasets.dataset import Dataset


def published_files(dataset: Dataset, data_root: Path | None) -> dict[Path, str]:
    """Returns what lies in a dataset's folder under the name of one of its spec's `archives`, with the expected md5.

    These are the tables that are kept as they are, and archives that were left beside what was unpacked.
    """
    if dataset.spec is None:
        return {}
    names = (dataset.spec.name, dataset.spec.directory)
    own = [data_root / name for name in names if name is not None] if data_root is not None else []
    found = {
        folder / archive.file_name: archive.md5
        for folder in dict.fromkeys([dataset.layout.root, *own])
        for archive in dataset.spec.archives
    }
    return {path: md5 for path, md5 in found.items() if path.is_file()}


def wrong_checksums(files: Mapping[Path, str], progress: Callable[[int], None] = lambda _: None) -> list[str]:
    """Returns what is wrong with files of known md5: each other file, with what was found and what was expected."""
    problems = []
    for path, expected in files.items():
        try:
            with open_regular(path) as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        else:
            if found != expected:
                problems.append(f"{path}: found md5 {found}, expected {expected}: damaged, or another version")
        progress(1)
    return problems
