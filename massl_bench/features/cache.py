"""The feature cache: one directory a bank, named by its content key, written atomically and verified when read.

A bank is `features.npy` (float32 [N, D], memory-mappable), `labels.npy`, `ids.npy` and `meta.json` with a sha256 of
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from massl_bench.core.errors import CellError
from massl_bench.core.files import atomic_directory, canonical_json, remove_directory, sha256_file, sha256_of
from massl_bench.core.settings import Preprocessing
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import FeatureBank

EXTRACTOR_VERSION = 1
"""Raised when the extraction changes in a way that can change features."""


class BankKey(StrictModel):
    """All that can change the arrays of a bank. Batch size, workers and device are not among it: they must not."""

    weights_sha256: str
    architecture: str
    pooling: str
    preprocessing: Preprocessing
    dataset_fingerprint: str
    split: str
    limit: int | None
    """The first items of the split, or None for all."""
    precision: str
    extractor_version: int = EXTRACTOR_VERSION

    @property
    def digest(self) -> str:
        """Hex sha256 of the key; the name of the bank's directory."""
        return sha256_of(self.model_dump(mode="json"))


class BankMeta(StrictModel):
    """`meta.json` of a bank."""

    key: BankKey
    model: str
    dataset: str
    num_items: int
    dim: int
    num_classes: int | None
    class_names: list[str] | None
    skipped: list[str]
    validation_from: int | None = None
    sha256: dict[str, str]


@dataclass(frozen=True)
class FeatureCache:
    """The banks below one directory."""

    root: Path

    def path(self, key: BankKey) -> Path:
        """Returns the directory of a bank, whether it is there or not."""
        return self.root / "features" / key.digest[:2] / key.digest

    def __contains__(self, key: BankKey) -> bool:
        """Tells whether a bank is there; it is verified only when it is read."""
        return (self.path(key) / "meta.json").is_file()

    def read(self, key: BankKey) -> tuple[FeatureBank | None, str | None]:
        """Returns (bank, None), (None, None) where there is none, or (None, what is damaged)."""
        path = self.path(key)
        if not path.is_dir():
            return None, None
        try:
            meta = BankMeta.model_validate_json((path / "meta.json").read_bytes())
            for name, expected in meta.sha256.items():
                if sha256_file(path / name) != expected:
                    return None, f"{path / name} does not have its sha256"
            features = np.load(path / "features.npy", mmap_mode="r")
            labels = np.load(path / "labels.npy") if "labels.npy" in meta.sha256 else None
            ids = np.load(path / "ids.npy")
        except (OSError, ValueError, ValidationError) as error:
            return None, f"{path}: {type(error).__name__}"
        if meta.key != key or features.shape != (meta.num_items, meta.dim):
            return None, f"{path / 'meta.json'} describes another bank"
        bank = FeatureBank(
            features=features,
            labels=labels,
            ids=ids,
            class_names=tuple(meta.class_names) if meta.class_names is not None else None,
            num_classes=meta.num_classes,
            key=key.digest,
            skipped=tuple(meta.skipped),
            validation_from=meta.validation_from,
        )
        return bank, None

    def discard(self, key: BankKey) -> None:
        """Removes a bank, so that another can be written; whoever has opened it keeps what was opened."""
        remove_directory(self.path(key))

    @contextmanager
    def writer(self, key: BankKey, dim: int, *, model: str, dataset: str) -> Iterator[BankWriter]:
        """Yields a writer for a new bank, which is there as a whole after the block, or not at all.

        Where a bank of this key is there already, or comes meanwhile, it stays, and the new one is dropped.

        Args:
            key: its content key.
            dim: D.
            model: the model's name, for people who look into the cache.
            dataset: likewise.

        Raises:
            CellError: The bank could not be written (no space left, …).
        """
        try:
            with atomic_directory(self.path(key)) as directory, (directory / "features.npy").open("wb") as file:
                yield BankWriter(key, directory, file, dim, {"model": model, "dataset": dataset})
        except OSError as error:
            raise CellError(
                f"the feature cache {self.root} could not be written: {error.strerror or error}; free some space, or "
                "choose another place with --cache-dir or MASSL_BENCH_CACHE"
            ) from None


class BankWriter:
    """Appends features batch by batch.

    They go through ordinary writes, not through a memory map: on a full disk a write raises, a map kills the process.
    """

    def __init__(self, key: BankKey, directory: Path, file: BinaryIO, dim: int, names: Mapping[str, str]) -> None:
        self._key, self._directory, self._file, self._dim, self._names = key, directory, file, dim, names
        self._rows = 0
        # numpy reserves room in the header for a growing first axis: the final count is written over this one.
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._dim)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, features_BD: NDArray[np.float32]) -> None:
        """Appends the features of a batch, float32 [B, D]."""
        self._file.write(np.ascontiguousarray(features_BD, dtype="<f4").tobytes())
        self._rows += len(features_BD)

    def finish(
        self,
        *,
        labels: NDArray[Any] | None,
        ids: NDArray[np.bytes_],
        class_names: Sequence[str] | None,
        num_classes: int | None,
        skipped: Sequence[str],
        validation_from: int | None,
    ) -> None:
        """Writes what belongs to the features, and the meta data."""
        assert len(ids) == self._rows
        self._file.seek(0)
        self._write_header()
        self._file.close()
        arrays = {"ids.npy": ids} if labels is None else {"ids.npy": ids, "labels.npy": labels}
        for name, array in arrays.items():
            np.save(self._directory / name, array)
        meta = BankMeta(
            key=self._key,
            **self._names,
            num_items=self._rows,
            dim=self._dim,
            num_classes=num_classes,
            class_names=list(class_names) if class_names is not None else None,
            skipped=list(skipped),
            validation_from=validation_from,
            sha256={name: sha256_file(self._directory / name) for name in ("features.npy", *arrays)},
        )
        (self._directory / "meta.json").write_text(canonical_json(meta.model_dump(mode="json")), encoding="utf-8")
