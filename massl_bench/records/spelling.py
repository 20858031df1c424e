"""What a record's file says, spelled canonically: for its hashes, and to tell the parts that many records share.

A table reads thousands of records. Each part is spelled once for all hashes that it enters, and a part that another
record has too (a task, a machine) is checked once and kept once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any

from pydantic_core import to_json

from massl_bench.core.files import SEAL, canonical_json, sha256_of_text
from massl_bench.core.strict import StrictModel


class Spelling:
    """The canonical JSON of the content of a record's file, part by part.

    Raises:
        ValueError, TypeError, AttributeError, KeyError: The content is not even the skeleton of a record.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        parts: Mapping[str, type[StrictModel]],
        of_identity: Mapping[str, type[StrictModel]],
        spell: Callable[[Any], str] = canonical_json,
    ) -> None:
        """Spells the content.

        Args:
            content: of the file.
            parts: which parts many records share, by key, and what they are.
            of_identity: which parts of the identity.
            spell: returns a part as canonical JSON.
        """
        identity = content["identity"]
        self._content, self._parts, self._of_identity = content, parts, of_identity
        self._spell = spell
        self._in_identity = {key: spell(part) for key, part in identity.items()}
        self._anonymous = _anonymous(self._in_identity["model"])
        self._apart = {key: spell(content[key]) for key in parts if key in content}

    @property
    def content_digest(self) -> str:
        """Hex sha256 of everything beside the seal."""
        unsealed = {key: part for key, part in self._content.items() if key != SEAL}
        identity = self._table(self._in_identity, self._in_identity)
        return sha256_of_text(self._table(unsealed, {**self._apart, "identity": identity}))

    @property
    def identity_digest(self) -> str:
        """`Identity.digest`, if nothing in the identity is left to its default, with the name of the dataset.

        Older records of a dataset that is called by its place have this one.
        """
        texts = {**self._in_identity, "model": self._anonymous}
        return sha256_of_text(self._table(texts, texts))

    def with_shared(self) -> dict[str, Any]:
        """Returns the content with the shared parts checked, their keys sorted, as in every file of this package.

        Raises:
            pydantic.ValidationError: One of them is not what it should be.
        """
        identity = dict(self._content["identity"])
        for key, kind in self._of_identity.items():
            if identity.get(key) is not None:
                identity[key] = _part(kind, self._in_identity[key])
        shared = {key: _part(self._parts[key], text) for key, text in self._apart.items()}
        return {**self._content, **shared, "identity": identity}

    def _table(self, table: Mapping[str, Any], texts: Mapping[str, str]) -> str:
        """Returns the canonical JSON of a table, of some of whose values the canonical JSON is known."""
        runs = [
            ",".join([f"{_key(key)}:{texts[key]}" for key in keys])
            if known
            else self._spell({key: table[key] for key in keys})[1:-1]
            for known, keys in _runs(tuple(table), tuple(texts))
        ]
        return "{" + ",".join(runs) + "}"


@lru_cache(maxsize=64)  # few sets of keys, of thousands of records
def _runs(table: tuple[str, ...], texts: tuple[str, ...]) -> list[tuple[bool, list[str]]]:
    """Returns the sorted keys of a table in runs of those that are among the texts, and those that are not."""
    return [(known, list(keys)) for known, keys in groupby(sorted(table), texts.__contains__)]


def json_as_sorted(value: Any) -> str:
    """Returns the canonical JSON of a value whose keys are sorted already, at a fifth of the time.

    Of another value, or a number above 1e16, it is another text: whoever asks has a hash to hold it against.
    """
    text = to_json(value).decode()
    return _as_python(text) if "0.0000" in text or "e-" in text else text  # a small number is spelled otherwise


@lru_cache(maxsize=8192)
def _as_python(text: str) -> str:
    return canonical_json(json.loads(text))


_key = lru_cache(maxsize=256)(canonical_json)  # few keys, of thousands of records


@lru_cache(maxsize=8192)
def _part(kind: type[StrictModel], text: str) -> StrictModel:
    return kind.model_validate(json.loads(text))


@lru_cache(maxsize=8192)
def _anonymous(model: str) -> str:
    return canonical_json({key: part for key, part in json.loads(model).items() if key != "name"})
