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
    if content.pop(SEAL, None) is not None:
        content = sealed(content)
    target = to or path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
    return target


def rehash(content: dict[str, Any]) -> None:
    content["identity_sha256"] = Identity.model_validate(content["identity"]).digest
