"""Exports for others: timm's directory is the same encoder in timm, cards hold the records, the hub is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from hypothesis import given
from hypothesis import strategies as st

import massl_bench as mb
from massl_bench.core.settings import own_size
from massl_bench.models.encoder import Encoder
from massl_bench.models.weights.timm_export import _data_config
from massl_bench.records.reading import read_record
from tests.conftest import Answer

Cli = Callable[..., Answer]


@pytest.fixture
def official(golden: Path) -> Path:
    return golden / "official_format_checkpoint.pth"


def of_timm(folder: Path, images: torch.Tensor) -> torch.Tensor:
    network = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        features: torch.Tensor = network(images)
    return features


def images_for(encoder: Encoder, seed: int = 3) -> torch.Tensor:
    side = encoder.card.preprocessing.crop or 224
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "avg"},
        {"img_size": 96},
        {"preprocessing": {"interpolation": "bilinear", "resize": 235, "mean": (0.5, 0.5, 0.5)}},
        {"preprocessing": {"resize_mode": "squash"}},
    ],
    ids=str,
)
def test_timm_reads_the_same_encoder(run_cli: Cli, official: Path, settings: dict[str, Any]) -> None:
    """At the size that it is fed: there the position embeddings are the authors', resampled or not."""
    encoder = mb.load_encoder(str(official), **settings)
    options = []
    for key, value in settings.items():
        if key == "preprocessing":
            texts = {name: ",".join(map(str, v)) if isinstance(v, tuple) else v for name, v in value.items()}
            options += [part for name, v in texts.items() for part in ("--preprocessing", f"{name}={v}")]
        else:
            options += [f"--{key.replace('_', '-')}", value]
    answer = run_cli("weights", "export", official, "--format", "timm", "--output", "out/gold", *options)
    assert answer.code == 0, answer.err
    folder = Path("out/gold")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["gold"]
    images = images_for(encoder)
    assert_same(of_timm(folder, images), encoder(images))
    for reference in (str(folder), f"local-dir:{folder}"):
        read = mb.load_encoder(reference)
        assert read.card.preprocessing == encoder.card.preprocessing
        assert_same(read(images), encoder(images))
    resampled = "The position embeddings are resampled to images of 96 pixels" in (folder / "README.md").read_text()
    assert resampled == (settings.get("img_size") == 96)
    # And again, from what was written.
    assert run_cli("weights", "export", folder, "--format", "timm", "--output", "again").code == 0
    assert_same(of_timm(Path("again"), images), encoder(images))


def test_a_network_of_timm_keeps_its_name(run_cli: Cli, tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    answer = run_cli(
        "weights", "export", tmp_path / "vit.pth", "--arch", "test_vit", "--format", "timm", "--output", "vit"
    )
    assert answer.code == 0, answer.err
    config = json.loads(Path("vit/config.json").read_text())
    assert config["model_args"]["num_heads"] == 2
    encoder = mb.load_encoder(str(tmp_path / "vit.pth"), arch="test_vit")
    assert_same(of_timm(Path("vit"), images_for(encoder)), encoder(images_for(encoder)))


def test_what_timm_cannot_say_is_refused(run_cli: Cli, official: Path) -> None:
    for arguments, message in (
        (("massl-small-cifar10",), "timm has no such network"),
        (
            (official, "--pooling", "last4"),
            "timm's networks do not return the feature: class tokens of the last 4 blocks",
        ),
        ((official, "--pooling", "token-before-norm"), "timm's networks do not return the feature"),
    ):
        answer = run_cli("weights", "export", *arguments, "--format", "timm", "--output", "out")
        assert answer.code == 2
        assert message in answer.error
        assert "--format safetensors keeps it" in answer.error
    assert list(Path().iterdir()) == []


def test_only_its_own_files_are_replaced(run_cli: Cli, official: Path) -> None:
    folder = Path("mine")
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    command = ("weights", "export", official, "--format", "timm", "--output", folder)
    assert run_cli(*command).code == 0
    again = run_cli(*command)
    assert (again.code, "is there already; --force replaces it" in again.error) == (2, True)
    (folder / "config.json").write_text("{}")
    assert run_cli(*command, "--force").code == 0
    assert json.loads((folder / "config.json").read_text())["num_features"] == 64
    assert (folder / "thesis.txt").read_text() == "years of work"
    Path("file").write_text("x")
    answer = run_cli("weights", "export", official, "--format", "timm", "--output", "file", "--force")
    assert (answer.code, "is a file; timm's layout is a directory" in answer.error) == (2, True)


@given(st.integers(16, 1024), st.integers(0, 512), st.sampled_from(["shortest", "squash"]))
def test_timm_resizes_to_the_same_size(crop: int, more: int, mode: str) -> None:
    """timm keeps crop / resize, divides by it and rounds down."""
    preprocessing = own_size(crop).model_copy(update={"resize": crop + more, "resize_mode": mode})
    config = _data_config(preprocessing)
    assert math.floor(crop / config["crop_pct"]) == crop + more
    assert config["crop_pct"] <= 1
    assert config["crop_mode"] == ("center" if mode == "shortest" else "squash")


def test_a_card_holds_the_records_of_this_model(run_cli: Cli, official: Path) -> None:
    small = ("--img-size", 32)
    run_cli("weights", "add", official, "--name", "gold", "--licence", "CC-BY-NC-4.0", *small)
    run_cli("weights", "add", official, "--name", "other", "--checkpoint-key", "student", *small)
    fed = ("--preprocessing", "interpolation=nearest")
    measure = ("run", "--task", "knn", "--dataset", "digits")
    for model in (("gold",), ("other",), ("gold", *fed), ("gold", "--pooling", "avg")):
        assert run_cli(*measure, "--model", *model).code == 0
    files = sorted(Path("results").rglob("digits.json"))
    assert len(files) == 4
    assert run_cli("weights", "export", "gold", "--format", "safetensors").code == 0
    card = ModelCard.load("gold.safetensors.md")
    (result,) = card.data.eval_results
    record = read_record(Path("results/gold/knn/digits.json"))
    assert result.metric_value == pytest.approx(100 * record.headline.value, abs=1e-4)
    assert result.metric_args["record"] == record.identity_sha256
    assert (result.metric_name, result.dataset_name) == ("knn top1@20", "digits")
    assert (card.data.license, card.data.model_name) == ("cc-by-nc-4.0", "gold")
    assert f"| digits | knn top1@20 | {result.metric_value} | " in card.text
    run_cli("weights", "export", "gold", "--format", "timm", "--output", "gold", *fed)
    (result,) = ModelCard.load("gold/README.md").data.eval_results
    assert result.metric_args["record"] != record.identity_sha256


def test_a_licence_that_is_no_identifier_is_said_in_words(run_cli: Cli, official: Path) -> None:
    run_cli("weights", "add", official, "--name", "gold", "--licence", "as | they say:\n# so")
    assert run_cli("weights", "export", "gold", "--format", "safetensors").code == 0
    card = ModelCard.load("gold.safetensors.md")
    assert (card.data.license, card.data.license_name) == ("other", "as | they say: # so")
    assert "| licence | as \\| they say: # so |" in card.text
    assert card.data.eval_results is None


class Hub:
    """What was asked of the hub's client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.commits: list[tuple[str, dict[str, bytes], str]] = []
        hub = self

        def create_repo(_: HfApi, repo_id: str, **options: Any) -> None:
            hub.made.append((repo_id, options))

        def create_commit(_: HfApi, repo_id: str, operations: list[Any], *, commit_message: str) -> Any:
            files = {each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations}
            hub.commits.append((repo_id, files, commit_message))
            return type("Commit", (), {"commit_url": "https://hub/commit/1"})

        monkeypatch.setattr(HfApi, "create_repo", create_repo)
        monkeypatch.setattr(HfApi, "create_commit", create_commit)


def test_the_hub_gets_what_was_exported_and_only_when_asked(
    run_cli: Cli, official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch)
    export = ("weights", "export", official)
    assert run_cli(*export, "--format", "timm", "--output", "gold").code == 0
    assert hub.commits == []
    (Path("gold") / "secret.txt").write_text("not for others")
    answer = run_cli(*export, "--format", "timm", "--output", "gold", "--force", "--push", "me/gold")
    assert answer.code == 0, answer.err
    assert "on the hub: https://hub/commit/1" in answer.out
    assert hub.made == [("me/gold", {"private": True, "exist_ok": True})]
    ((repo, files, message),) = hub.commits
    assert (repo, message.endswith("exported by massl-bench")) == ("me/gold", True)
    assert files == {
        name: (Path("gold") / name).read_bytes() for name in ("config.json", "model.safetensors", "README.md")
    }

    told = json.loads(
        run_cli(*export, "--format", "safetensors", "--output", "g.safetensors", "--push", "me/g", "--json").out
    )
    assert told["commit"] == "https://hub/commit/1"
    assert set(hub.commits[1][1]) == {"model.safetensors", "README.md"}
    assert hub.commits[1][1]["model.safetensors"] == Path("g.safetensors").read_bytes()


def test_what_cannot_be_pushed_is_said(run_cli: Cli, official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        (("--format", "massl", "--push", "me/gold"), "the hub's readers take --format timm or safetensors"),
        (("--format", "timm", "--push", "a/b/c"), "a/b/c: no name of a repository, ORG/NAME"),
    ):
        answer = run_cli("weights", "export", official, *arguments)
        assert (answer.code, message in answer.error, list(Path().iterdir())) == (2, True, [])

    def refuse(*_: object, **__: object) -> None:
        raise OSError("401 Client Error: Unauthorized\nfor url: https://hub")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    answer = run_cli("weights", "export", official, "--format", "timm", "--output", "gold", "--push", "me/gold")
    assert answer.code == 1
    assert "the files are written here, and not on the hub: 401 Client Error: Unauthorized for url" in answer.error
    assert Path("gold/model.safetensors").is_file()
