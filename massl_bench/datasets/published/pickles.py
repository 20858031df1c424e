"""Pickles of arrays, read without running what they may contain."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from massl_bench.errors import RequestError


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays and plain containers, and refuses everything else: a pickle can hold code."""

    _ADMITTED = frozenset(
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct", "scalar")
    ) | {("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, and only arrays and plain containers are read")
        return super().find_class(module, name)


def read_plain_pickle(path: Path) -> Any:
    """Returns the content of a pickle of plain containers, numbers, strings and arrays.

    Raises:
        RequestError: The file is not such a pickle; nothing of it was executed.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise RequestError(f"{path}: not read: {error}") from None
