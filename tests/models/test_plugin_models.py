"""The adapter and the source of docs/extending.md, as they stand there; ones that do not keep their word."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import massl_bench as mb
from massl_bench.core.errors import RequestError, SpecError
from tests.conftest import Answer
from tests.installed_packages import example, install_package
from tests.models.layouts import at_any_size, prefixed, tiny_vit, to_size_positions

Cli = Callable[..., Answer]


def forget(package: str) -> None:
    """Forgets the modules of a package that a test installed: another test installs its own copy."""
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[module]


@pytest.fixture
def _my_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget("my_bench")
    install_package(tmp_path / "site", monkeypatch, example())
    yield
    forget("my_bench")


@pytest.mark.usefixtures("_my_bench")
def test_an_adapter_of_a_package(tmp_path: Path) -> None:
    average, image = (tiny_vit(seed=seed, heads=4, global_pool="avg", fc_norm=False) for seed in (1, 2))
    towers = {
        **prefixed("average.", average.state_dict()),
        **prefixed("image.", image.state_dict()),
        "image.head.weight": torch.randn(3, 64),
        "text.blocks.0.attn.qkv.weight": torch.randn(6, 2),
        "temperature": torch.tensor(0.1),
    }
    file = tmp_path / "towers.pth"
    torch.save({"towers": towers, "optimizer": {"state": {0: torch.zeros(3)}}}, file)
    encoder = mb.load_encoder(str(file))
    for side in (32, 48):
        images = torch.randn(2, 3, side, side)
        expected = at_any_size(average, to_size_positions)(images)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-4)
    assert set(encoder.card.left_out) == {"the image tower", "text tower", "temperature of the loss", "optimizer"}
    assert (encoder.card.origins["weights"], encoder.card.licence) == ("adapter two_towers", "MIT")
    twin = mb.load_encoder(str(file), checkpoint_key="image")
    torch.testing.assert_close(twin(images), at_any_size(image, to_size_positions)(images), rtol=1e-4, atol=1e-4)
    torch.save({"towers": {**towers, "tempreature": torch.tensor(0.1)}}, file)
    with pytest.raises(RequestError, match="unexpected tensors beside the backbone: tempreature; nearest adapter:"):
        mb.load_encoder(str(file))


@pytest.mark.usefixtures("_my_bench")
def test_a_source_of_a_package(run_cli: Cli) -> None:
    answer = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "mean-colour:8", "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)[0]["record"]
    assert record["identity"]["model"]["embed_dim"] == 12
    assert record["environment"]["packages"]["my-bench"] == "1.0"
    assert "mean-colour:SIDE" in run_cli("list", "models").err
    assert "expected mean-colour:SIDE, an even number" in run_cli("info", "mean-colour:7").error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ADAPTER = 3\n", "expected ADAPTER of the type Adapter; found int"),
        ("import nothing_of_the_kind\n", "cannot be imported: ModuleNotFoundError"),
        (
            "from massl_bench.models.adapters.massl import ADAPTER\n",
            "is called 'massl'; expected 'mine'",
        ),
    ],
)
def test_an_adapter_that_does_not_keep_its_word(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = '[project.entry-points."massl_bench.adapters"]\nmine = "bad_bench"\n'
    files = {"pyproject.toml": f'[project]\nname = "bad-bench"\nversion = "2"\n{points}', "bad_bench.py": text}
    install_package(tmp_path / "site", monkeypatch, files)
    forget("bad_bench")
    torch.save(tiny_vit(seed=1).state_dict(), tmp_path / "v.pth")
    with pytest.raises(SpecError, match=r"plugin bad-bench 2 .*: .*") as error:
        mb.load_encoder(str(tmp_path / "v.pth"), num_heads=2)
    assert message in str(error.value)
