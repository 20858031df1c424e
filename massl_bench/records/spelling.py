"""What a record's file says, spelled canonically: for its hashes, and to tell the parts that many records share.

A table reads thousands of records. Each part is spelled once for all hashes that it enters, and a part that another
record has too (a task, a machine) is checked once and kept once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from massl_bench.core.files import SEAL, canonical_json, canonical_table, sha256_of_text
from massl_bench.core.strict import StrictModel


class Spelling:
    """The canonical JSON of the content of a record's file, part by part.

    Raises:
        ValueError, TypeError, AttributeError, KeyError: The content is not even the skeleton of a record.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        identity = content["identity"]
        self._content = content
        self._identity = {key: canonical_json(part) for key, part in identity.items()}
        self._anonymous = canonical_json({key: part for key, part in identity["model"].items() if key != "name"})
        self._texts = {key: canonical_json(part) for key, part in content.items() if key not in (SEAL, "identity")}
        self._texts["identity"] = canonical_table(self._identity)

    @property
    def content_digest(self) -> str:
        """Hex sha256 of everything beside the seal."""
        return sha256_of_text(canonical_table(self._texts))

    @property
    def identity_digest(self) -> str:
        """`Identity.digest`, if nothing in the identity is left to its default."""
        return sha256_of_text(canonical_table({**self._identity, "model": self._anonymous}))

    def with_shared(
        self, parts: Mapping[str, type[StrictModel]], of_identity: Mapping[str, type[StrictModel]]
    ) -> dict[str, Any]:
        """Returns the content with these parts checked, their keys sorted, as in every file that this package writes.

        Args:
            parts: which, by key, and what they are.
            of_identity: which parts of the identity.

        Raises:
            pydantic.ValidationError: One of them is not what it should be.
        """
        identity = dict(self._content["identity"])
        for key, kind in of_identity.items():
            if identity.get(key) is not None:
                identity[key] = _part(kind, self._identity[key])
        shared = {key: _part(kind, self._texts[key]) for key, kind in parts.items() if key in self._texts}
        return {**self._content, **shared, "identity": identity}


@lru_cache(maxsize=8192)
def _part(kind: type[StrictModel], text: str) -> StrictModel:
    return kind.model_validate(json.loads(text))
