"""A manifest that was written carries a hash: damage is found, and a change that was meant says how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from massl_bench.core.errors import SpecError
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.toml import read_toml
from tests.conftest import Answer
from tests.mutations import flips, mutations

Cli = Callable[..., Answer]


@pytest.mark.faults
def test_no_damage_to_a_manifest_is_believed(run_cli: Cli, golden: Path) -> None:
    assert run_cli("weights", "add", golden / "official_format_checkpoint.pth", "--name", "mine").code == 0
    file = Path("weights/mine.toml")
    content = file.read_bytes()
    whole = read_toml(file, ManifestSpec)
    assert whole.content_sha256 is not None
    refused = 0
    damaged = [*flips(content, 150, seed=8), *mutations(content, 150, seed=9)]
    for bad in damaged:
        file.write_bytes(bad)
        try:
            found = read_toml(file, ManifestSpec)
        except SpecError:
            refused += 1
        else:  # the line with the hash cut out, or a space more
            assert found.model_copy(update={"content_sha256": whole.content_sha256}) == whole
    assert refused > 0.9 * len(damaged)


def test_a_change_that_was_meant(run_cli: Cli, golden: Path) -> None:
    run_cli("weights", "add", golden / "official_format_checkpoint.pth", "--name", "mine")
    file = Path("weights/mine.toml")
    file.write_text(file.read_text().replace('licence = "unknown"', 'licence = "MIT"'))
    answer = run_cli("info", "mine")
    assert answer.code == 2
    assert "content_sha256: does not match the content" in answer.error
    assert answer.error.endswith("if it was you, remove this line")
    lines = [line for line in file.read_text().splitlines() if not line.startswith("content_sha256")]
    file.write_text("\n".join(lines))
    assert "licence: MIT" in run_cli("info", "mine").out
