"""Without a network the answer comes at once: nobody waits for the hub's client to try again."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer

Cli = Callable[..., Answer]


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "hf-hub:org/none"])
def test_a_model_without_a_hub(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    with socket.socket() as taken:  # bound, and not listening: it refuses
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        answer = run_cli("info", name)
    assert answer.code == 2
    assert answer.error.startswith(
        f"error: model {name} is not on this machine, and the hub ({address}) cannot be reached"
    )
    assert "Retrying" not in answer.err
