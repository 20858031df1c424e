"""Bytes of every adapter's files, changed anywhere: refused in one line, or the tensors are those that were written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from massl_bench.core.errors import MasslBenchError
from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.models.adapters import adapters
from massl_bench.models.checkpoints import describe_content
from massl_bench.models.files import open_content
from massl_bench.models.identity import network_sha256, tensors_sha256
from massl_bench.models.loading import fill
from tests.models.layouts import Made, layouts

LAYOUTS = layouts()
EXAMPLES = 4

_intact: dict[str, tuple[str, str] | str] = {}


def _written(name: str, content: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(content, folder / name)
        return folder / name

    return write


_PARTS = [f"backbone.encoder.blocks.0.residual1.fn.{part}_proj.weight" for part in "qkv"]
REFUSED: dict[str, Callable[[Path], Path]] = {
    "capi": _written("capi.pth", {name: torch.randn(8, 8) for name in _PARTS}),
    "clip_resnet": _written("clip.pt", {"visual.attnpool.k_proj.weight": torch.randn(8, 8)}),
    "fsdp_shard": _written("model_0.rank_0.pth", {"model": {"flat_param": torch.randn(64)}, "iteration": 3}),
}
"""A file of each adapter that knows its layout to say why it is not loaded."""


def test_no_adapter_is_left_out() -> None:
    assert {layout.adapter for layout in LAYOUTS.values()} | set(REFUSED) == set(adapters())
    assert not {layout.adapter for layout in LAYOUTS.values()} & set(REFUSED)


@dataclass(frozen=True)
class Edit:
    """A change of bytes.

    Attributes:
        file: which of the files, by its place among them.
        near: the beginning, the end or anywhere.
        place: there, from 0 to 1.
        kind: what is done.
        length: of the bytes that it is done to.
        value: of a byte.
    """

    file: int
    near: str
    place: float
    kind: str
    length: int
    value: int

    def applied(self, content: bytes) -> bytes:
        """Returns the changed bytes."""
        span = len(content) if self.near == "anywhere" else min(len(content), 4096)
        at = int(self.place * max(0, span - 1)) + (len(content) - span if self.near == "end" else 0)
        before, found, after = content[:at], content[at : at + self.length], content[at + self.length :]
        match self.kind:
            case "flip":
                found = bytes(each ^ (1 << self.value % 8) for each in found)
            case "set":
                found = bytes([self.value]) * len(found)
            case "drop":
                found = b""
            case "twice":
                found += found
            case "cut":
                found = after = b""
        return before + found + after


edits = st.builds(
    Edit,
    file=st.integers(0, 5),
    near=st.sampled_from(["beginning", "end", "anywhere"]),
    place=st.floats(0, 1),
    kind=st.sampled_from(["flip", "flip", "set", "drop", "twice", "cut"]),
    length=st.sampled_from([1, 1, 4, 64]),
    value=st.integers(0, 255),
)


def loaded(path: Path, model_settings: ModelSettings) -> tuple[str, str] | str:
    """Returns the hashes of a file's network, or why it is refused."""
    try:
        described = describe_content(open_content(path), model_settings, "x")
        network = fill(described.network, described.recognised.found.tensors, "x")
    except MasslBenchError as error:
        return str(error)
    return tensors_sha256(network), network_sha256(network)


@pytest.mark.parametrize("name", [*LAYOUTS, *REFUSED])
@settings(max_examples=EXAMPLES, phases=(Phase.generate,), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(edits, min_size=1, max_size=2))
def test_changed_bytes(name: str, layout_file: Callable[[str], Made], changes: list[Edit]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if name in REFUSED:
            copy, model_settings = REFUSED[name](Path(folder)), NO_SETTINGS
            expected = loaded(copy, model_settings)
            assert isinstance(expected, str)
        else:
            made = layout_file(name)
            path, model_settings = made.path, made.settings
            copy = Path(folder) / path.name
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, copy)
            if name not in _intact:
                _intact[name] = loaded(path, model_settings)
            expected = _intact[name]
            assert not isinstance(expected, str), expected
        files = sorted(each for each in copy.rglob("*") if each.is_file()) if copy.is_dir() else [copy]
        changed = {files[change.file % len(files)] for change in changes}
        for change in changes:
            file = files[change.file % len(files)]
            file.write_bytes(change.applied(file.read_bytes()))
        found = loaded(copy, model_settings)
        if isinstance(found, str):
            assert "\n" not in found
        # torch's archives hold checksums; other files hold none, and their values may become others without a sign.
        elif all(file.read_bytes().startswith(b"PK\x03\x04") for file in changed):
            assert found == expected
