"""Every adapter, on files that were changed at random: loaded, or refused in one line; no other error leaves it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from massl_bench.core.errors import MasslBenchError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.checkpoints import describe_content
from massl_bench.models.content import Content
from massl_bench.models.files import open_content
from massl_bench.models.loading import fill
from massl_bench.models.reading import load_all
from tests.models.layouts import layouts
from tests.models.test_layouts import state_dicts

LAYOUTS = layouts()
TRIES = 4

CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "a scalar": lambda tensor: torch.tensor(1.0),
    "empty": lambda tensor: torch.zeros(0),
    "transposed": lambda tensor: tensor.T if tensor.ndim == 2 else tensor[None],
    "flat": torch.flatten,
    "integers": lambda tensor: tensor.to(torch.int64),
    "nothing of it": lambda tensor: torch.zeros(0, *tensor.shape),
}


def tried(content: Content, settings: ModelSettings) -> None:
    try:
        described = describe_content(content, settings, "x")
        fill(described.network, described.recognised.found.tensors, "x")
    except MasslBenchError as error:
        text = str(error)
    else:
        text = ""
    assert "\n" not in text


@pytest.mark.parametrize("name", LAYOUTS)
def test_changed_tensors(name: str, tmp_path: Path) -> None:
    made = LAYOUTS[name].make(tmp_path)
    generator = random.Random(name)
    for _ in range(TRIES):
        content = open_content(made.path)
        tree = load_all(content.tree, "x")
        state = max(state_dicts(tree), key=len)
        for changed in generator.sample(sorted(state), 2):
            match generator.choice(["drop", "rename", *CHANGES]):
                case "drop":
                    del state[changed]
                case "rename":
                    state[changed.replace("0", "7", 1)] = state.pop(changed)
                case change:
                    state[changed] = CHANGES[change](state[changed])
        tried(Content(file=content.file, tree=tree, metadata=content.metadata, folder=content.folder), made.settings)


VALUES = [None, -1, 0, 3, 2.5, float("inf"), "x", [], {}, True, ["a"], {"height": 3}]
DIRECTORIES = [name for name in LAYOUTS if name.startswith(("transformers", "timm_dir", "open_clip"))]


@pytest.mark.parametrize("name", DIRECTORIES)
def test_changed_configurations(name: str, tmp_path: Path) -> None:
    made = LAYOUTS[name].make(tmp_path)
    folder = made.path if made.path.is_dir() else made.path.parent
    generator = random.Random(name)
    for file in sorted(folder.glob("*.json")):
        whole = json.loads(file.read_text())
        for _ in range(TRIES):
            changed = json.loads(json.dumps(whole))
            _change(changed, generator)
            file.write_text(json.dumps(changed))
            tried(open_content(made.path), made.settings)
        file.write_text(json.dumps(whole))
    shutil.rmtree(folder)


def _change(value: dict[str, Any], generator: random.Random) -> None:
    """Puts another value in place of one, at any depth."""
    key = generator.choice(sorted(value))
    if isinstance(value[key], dict) and value[key] and generator.random() < 0.7:
        _change(value[key], generator)
    else:
        value[key] = generator.choice(VALUES)
