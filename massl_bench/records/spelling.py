"""What a record's file says, spelled canonically: for its hashes, and to tell the parts that many records share.

A table reads thousands of records. Each part is spelled once for all hashes that it enters, and a part that another
record has too (a task, a machine) is checked once and kept once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any

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
    ) -> None:
        """Spells the content.

        Args:
            content: of the file.
            parts: which parts many records share, by key, and what they are.
            of_identity: which parts of the identity.
        """
        identity = content["identity"]
        self._content, self._parts, self._of_identity = content, parts, of_identity
        self._in_identity = {key: canonical_json(part) for key, part in identity.items()}
        self._anonymous = canonical_json({key: part for key, part in identity["model"].items() if key != "name"})
        self._apart = {key: canonical_json(content[key]) for key in parts if key in content}

    @property
    def content_digest(self) -> str:
        """Hex sha256 of everything beside the seal."""
        unsealed = {key: part for key, part in self._content.items() if key != SEAL}
        identity = _table(self._in_identity, self._in_identity)
        return sha256_of_text(_table(unsealed, {**self._apart, "identity": identity}))

    @property
    def identity_digest(self) -> str:
        """`Identity.digest`, if nothing in the identity is left to its default, with the name of the dataset.

        Older records of a dataset that is called by its place have this one.
        """
        texts = {**self._in_identity, "model": self._anonymous}
        return sha256_of_text(_table(texts, texts))

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


def _table(table: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Returns the canonical JSON of a table, of some of whose values the canonical JSON is known."""
    runs = []
    for known, keys in groupby(sorted(table), texts.__contains__):
        if known:
            runs += [f"{_key(key)}:{texts[key]}" for key in keys]
        else:
            runs.append(canonical_json({key: table[key] for key in keys})[1:-1])
    return "{" + ",".join(runs) + "}"


_key = lru_cache(maxsize=256)(canonical_json)  # few keys, of thousands of records


@lru_cache(maxsize=8192)
def _part(kind: type[StrictModel], text: str) -> StrictModel:
    return kind.model_validate(json.loads(text))
