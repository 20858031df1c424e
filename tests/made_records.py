"""Records that tests change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from massl_bench.core.files import SEAL, sealed
from massl_bench.records.record import Identity


def edit(path: Path, change: Callable[[dict[str, Any]], object], to: Path | None = None) -> Path:
    content = json.loads(path.read_text())
    change(content)
    return write_sealed(to or path, content)


def write_sealed(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sealed({key: value for key, value in content.items() if key != SEAL}), sort_keys=True))
    return path


def rehash(content: dict[str, Any]) -> None:
    content["identity_sha256"] = Identity.model_validate(content["identity"]).digest
