"""`massl-bench weights`: a checkpoint gets a name, is looked into, fetched and exported, and stays the same model."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import massl_bench as mb
from massl_bench.core.files import sha256_file
from massl_bench.core.settings import DEFAULT_PREPROCESSING
from massl_bench.models.checkpoints import read_checkpoint
from massl_bench.models.weights.metadata import read_metadata
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.toml import read_toml
from tests.conftest import Answer

Cli = Callable[..., Answer]

WEIGHTS = Path("weights")


@pytest.fixture
def official(golden: Path) -> Path:
    return golden / "official_format_checkpoint.pth"


def features_of(model: str, num_heads: int | None = None) -> torch.Tensor:
    encoder = mb.load_encoder(model, num_heads=num_heads)
    images = torch.randint(0, 256, (3, 3, 64, 80), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
    return encoder(encoder.normalise(images))


def write_manifest(name: str, **entries: str) -> Path:
    texts = {"summary": "One of the tests", "licence": "unknown", "citation": "none", "name": name, **entries}
    WEIGHTS.mkdir(exist_ok=True)
    path = WEIGHTS / f"{name}.toml"
    path.write_text("".join(f'{key} = "{text}"\n' for key, text in texts.items()))
    return path


def test_add_gives_a_checkpoint_its_name(run_cli: Cli, official: Path) -> None:
    answer = run_cli(
        *(
            "weights",
            "add",
            official,
            "--name",
            "gold",
            "--licence",
            'as "they" say',
            "--citation",
            "two\nlines \\ α\x7f",
        )
    )
    assert answer.code == 0, answer.err
    sha256 = sha256_file(official)
    assert f"gold: vit_width64_depth2_heads1_patch16, 64 dimensions, 161,984 parameters, sha256 {sha256}" in answer.out
    assert DEFAULT_PREPROCESSING.describe() in answer.out
    manifest = read_toml(WEIGHTS / "gold.toml", ManifestSpec)
    assert manifest.file == str(official)
    assert (manifest.sha256, manifest.licence, manifest.citation) == (sha256, 'as "they" say', "two\nlines \\ α\x7f")
    assert torch.equal(features_of("gold"), features_of(str(official)))
    assert "gold " in run_cli("list", "models").out
    measured = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "gold", "--limit", "test=20")
    assert measured.code == 0, measured.err


def test_copy_and_the_file_beside_the_manifest(run_cli: Cli, official: Path) -> None:
    assert run_cli("weights", "add", official, "--name", "gold", "--copy").code == 0
    assert sorted(path.name for path in WEIGHTS.iterdir()) == ["gold.pth", "gold.toml"]
    assert (WEIGHTS / "gold.pth").read_bytes() == official.read_bytes()
    assert read_toml(WEIGHTS / "gold.toml", ManifestSpec).file == "gold.pth"
    again = run_cli("weights", "add", WEIGHTS / "gold.pth", "--name", "student", "--checkpoint-key", "student")
    assert again.code == 0, again.err
    manifest = read_toml(WEIGHTS / "student.toml", ManifestSpec)
    assert (manifest.file, manifest.checkpoint_key) == ("gold.pth", "student")
    assert run_cli("weights", "add", WEIGHTS / "gold.pth", "--name", "gold", "--copy", "--force").code == 0


def test_add_refuses_what_it_cannot_stand_behind(run_cli: Cli, official: Path, tmp_path: Path) -> None:
    content = read_checkpoint(official)
    content["teacher"]["backbone.norm.bias"] = torch.zeros(7)
    broken = tmp_path / "broken.pth"
    torch.save(content, broken)
    for arguments, message in (
        ((broken, "--name", "x"), "1 of another shape (norm.bias (7,) instead of (64,))"),
        ((tmp_path / "none.pth", "--name", "x"), "no such file"),
        ((tmp_path, "--name", "x"), f"is a directory; a manifest names one file: {broken}"),
        ((official, "--name", "a/b"), "expected letters, digits"),
        ((official, "--name", "pixels"), "and not pixels"),
        ((official, "--name", "massl-small-cifar10", "--force"), "and not pixels or massl-small-cifar10"),
        (
            (official, "--name", "x", "--checkpoint-key", "tutor"),
            "no set of weights 'tutor' in this file of MaSSL, DINO",
        ),
        ((official, "--name", "x", "--arch", "vit_smal_patch16_224"), "did you mean vit_small_patch16_224"),
    ):
        answer = run_cli("weights", "add", *arguments)
        assert answer.code == 2
        assert message in answer.error
    assert not WEIGHTS.exists()


def test_add_replaces_nothing_without_force(run_cli: Cli, official: Path) -> None:
    path = write_manifest("mine", file="gone.pth", sha256="0" * 64)
    before = path.read_text()
    answer = run_cli("weights", "add", official, "--name", "mine")
    assert (answer.code, path.read_text()) == (2, before)
    assert "weights/mine.toml is there already; --force replaces it" in answer.error
    (WEIGHTS / "other.pth").write_text("of somebody")
    answer = run_cli("weights", "add", official, "--name", "other", "--copy")
    assert (answer.code, (WEIGHTS / "other.pth").read_text()) == (2, "of somebody")
    assert not (WEIGHTS / "other.toml").exists()
    assert run_cli("weights", "add", official, "--name", "mine", "--force").code == 0
    assert read_toml(path, ManifestSpec).sha256 == sha256_file(official)


def test_inspect_says_what_is_inside(run_cli: Cli, official: Path) -> None:
    answer = run_cli("weights", "inspect", official)
    assert answer.code == 0, answer.err
    for line in (
        f"sha256: {sha256_file(official)}",
        f"size: {official.stat().st_size:,} bytes",
        "  arch = 'vit_small'",
        "  module.head: 6 tensors, float32, 90,656 values; largest module.head.mlp.2.weight [256, 256]",
        "  backbone: 30 tensors, float32, 161,984 values; largest backbone.patch_embed.proj.weight [64, 3, 16, 16]",
        "epoch: int, 0",
        "backbone: key teacher, backbone",
        "architecture: vit_width64_depth2_heads1_patch16",
        "as --model: every tensor fits",
        f"next: massl-bench weights add {official} --name NAME",
    ):
        assert line in answer.out.splitlines()
    told = json.loads(run_cli("weights", "inspect", official, "--json").out)
    assert [part["key"] for part in told["parts"]] == ["args", "memory_bank", "student", "teacher", "epoch"]
    tensors = sum(tensor.numel() for tensor in read_checkpoint(official)["student"].values())
    assert sum(group["num_values"] for group in told["parts"][2]["groups"]) == tensors
    assert told["backbone"]["problem"] is None
    assert told["next"] == f"massl-bench weights add {official} --name NAME"
    given = run_cli("weights", "inspect", official, "--checkpoint-key", "student", "--json")
    assert json.loads(given.out)["next"].endswith("--name NAME --checkpoint-key student")


def test_inspect_names_what_would_be_refused(run_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "c.pth"

    def inspected(content: Any) -> Answer:
        torch.save(content, file)
        answer = run_cli("weights", "inspect", file)
        assert answer.code == 2, answer.err
        return answer

    state = {0: {"exp_avg": torch.zeros(4, 5), "step": torch.tensor(3.0)}}
    resnet = timm.create_model("resnet18", num_classes=0).state_dict()
    del resnet["bn1.weight"]
    lacking = inspected({"state_dict": resnet, "optimizer": {"state": state, "param_groups": [{"lr": 0.1}]}})
    assert "optimizer: dict, 2 tensors, 21 values, keys state, param_groups" in lacking.out
    assert "architecture: resnet18" in lacking.out
    assert "as --model: refused: its tensors are not those of the architecture: 1 missing (bn1.weight)" in lacking.out
    nan = inspected({**resnet, "bn1.weight": torch.full((64,), torch.nan)})
    assert "as --model: refused: tensors with values that are not finite: bn1.weight" in nan.out
    unknown = inspected({"conv.weight": torch.zeros(3)})
    assert "the file: state dict" in unknown.out
    assert "as --model: refused: the architecture cannot be inferred" in unknown.out
    endless: dict[str, Any] = {"epoch": 3, "name\x1b[31m": "x" * 200}
    endless["self"] = endless
    nothing = inspected(endless)
    assert "name\\x1b[31m: str, '" + "x" * 78 + "…" in nothing.out
    assert "backbone: none found" in nothing.out


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_inspect_executes_nothing(run_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "evil.pth"
    torch.save({"args": argparse.Namespace(hook=Trap(tmp_path / "executed"))}, file)
    answer = run_cli("weights", "inspect", file)
    assert answer.code == 2
    assert "refused: it would run" in answer.error
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")


@pytest.mark.usefixtures("online")
def test_fetch_then_run_offline(run_cli: Cli, official: Path, server: tuple[Path, str]) -> None:
    root, address = server
    (root / "gold.pth").write_bytes(official.read_bytes())
    sha256 = sha256_file(official)
    write_manifest("gold", url=f"{address}/gold.pth?download=1", sha256=sha256)
    before = run_cli("run", "--task", "knn", "--dataset", "digits", "--model", "gold")
    assert before.code == 2
    assert "its weights are not on this machine; next: massl-bench weights fetch gold" in before.error

    offline = run_cli("weights", "fetch", "gold", "--offline")
    assert offline.code == 2
    assert "model gold: not in the cache, and downloading is not allowed (--offline)" in offline.error
    places = Path(os.environ["MASSL_BENCH_CACHE"]) / "weights"
    abandoned, growing = (places / f".scratch.0123456{digit}.tmp" for digit in "ab")
    for folder in (abandoned, growing):
        folder.mkdir(parents=True)
        (folder / "download").write_text("half a file")
    for path in (abandoned / "download", abandoned):  # of a killed process
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 0, answer.err
    assert answer.out.endswith(f"gold-{sha256[:16]}.pth; sha256 {sha256}\n")
    assert sorted(path.name for path in places.iterdir()) == [growing.name, f"gold-{sha256[:16]}.pth"]

    (root / "gold.pth").unlink()
    assert run_cli("weights", "fetch", "gold", "--offline").code == 0
    assert torch.equal(features_of("gold"), features_of(str(official)))


@pytest.mark.usefixtures("online")
def test_fetch_keeps_nothing_of_another_file(run_cli: Cli, official: Path, server: tuple[Path, str]) -> None:
    root, address = server
    (root / "page.html").write_text("<html>Are you sure?</html>")
    (root / "gold.pth").write_bytes(official.read_bytes())
    sha256 = sha256_file(official)
    write_manifest("page", url=f"{address}/page.html", sha256=sha256)
    write_manifest("dead", url="http://127.0.0.1:9/gold.pth", sha256=sha256)
    write_manifest("gold", url=f"{address}/gold.pth", sha256=sha256)
    page = run_cli("weights", "fetch", "page")
    assert page.code == 1
    assert "page.html: a web page came in place of the file" in page.error
    several = run_cli("weights", "fetch", "dead", "gold")
    assert several.code == 1
    assert "127.0.0.1:9/gold.pth: no connection: " in several.error
    assert several.out.startswith("gold: there; ")
    dead, gold = json.loads(run_cli("weights", "fetch", "dead", "gold", "--json").out)
    assert (dead["file"], "no connection" in dead["problem"]) == (None, True)
    assert (Path(gold["file"]).is_file(), gold["sha256"], gold["problem"]) == (True, sha256, None)
    assert [path.name for path in (Path(os.environ["MASSL_BENCH_CACHE"]) / "weights").iterdir()] == [
        f"gold-{sha256[:16]}.pth"
    ]


@pytest.mark.usefixtures("online")
def test_a_damaged_download_is_fetched_again(run_cli: Cli, official: Path, server: tuple[Path, str]) -> None:
    root, address = server
    (root / "gold.pth").write_bytes(official.read_bytes())
    write_manifest("gold", url=f"{address}/gold.pth", sha256=sha256_file(official))
    assert run_cli("weights", "fetch", "gold").code == 0
    (file,) = (Path(os.environ["MASSL_BENCH_CACHE"]) / "weights").iterdir()
    file.write_bytes(b"damaged")
    assert run_cli("weights", "fetch", "gold").code == 0
    assert file.read_bytes() == official.read_bytes()


@pytest.mark.usefixtures("online")
def test_fetch_takes_the_file_that_the_manifest_names(run_cli: Cli, official: Path) -> None:
    run_cli("weights", "add", official, "--name", "gold", "--copy", "--url", "http://127.0.0.1:9/gold.pth")
    answer = run_cli("weights", "fetch", "gold")
    assert answer.code == 0, answer.err
    assert f"gold: there; {Path('weights/gold.pth').resolve()}; sha256" in answer.out
    (WEIGHTS / "gold.pth").write_bytes(b"damaged")
    damaged = run_cli("weights", "fetch", "gold")
    assert (damaged.code, "is another file: its sha256 is not the manifest's" in damaged.error) == (2, True)
    (WEIGHTS / "gold.pth").unlink()
    assert run_cli("weights", "fetch", "gold").code == 1


def test_fetch_needs_an_address(run_cli: Cli, official: Path) -> None:
    run_cli("weights", "add", official, "--name", "gold")
    answer = run_cli("weights", "fetch", "gold")
    assert (answer.code, "its manifest has no url" in answer.error) == (2, True)
    assert "unknown model 'god'; did you mean gold?" in run_cli("weights", "fetch", "god").error


@pytest.mark.parametrize("layout", ["safetensors", "massl"])
def test_an_export_is_the_same_model(run_cli: Cli, official: Path, layout: str) -> None:
    run_cli("weights", "add", official, "--name", "gold", "--licence", "MIT", "--citation", "A, 2024")
    answer = run_cli("weights", "export", "gold", "--format", layout)
    assert answer.code == 0, answer.err
    file = Path("gold.safetensors" if layout == "safetensors" else "gold.pth")
    assert torch.equal(features_of(str(file)), features_of("gold"))
    card = Path(f"{file}.md").read_text()
    for text in ("| licence | MIT |", "| citation | A, 2024 |", sha256_file(file), sha256_file(official)):
        assert text in card
    assert ("training cannot go on from this file" in card) == (layout == "massl")
    assert sorted(path.name for path in Path().iterdir()) == [file.name, f"{file.name}.md", "weights"]
    assert file.stat().st_mode == Path(f"{file}.md").stat().st_mode  # whoever reads the card reads the weights

    first = file.read_bytes()
    refused = run_cli("weights", "export", "gold", "--format", layout)
    assert (refused.code, f"{file} is there already; --force" in refused.error) == (2, True)
    assert run_cli("weights", "export", "gold", "--format", layout, "--force").code == 0
    assert file.read_bytes() == first  # the same content has the same hash


def test_the_official_layout(run_cli: Cli, official: Path) -> None:
    assert run_cli("weights", "export", official, "--format", "massl", "--output", "out/o.pth").code == 0
    exported, original = read_checkpoint(Path("out/o.pth")), read_checkpoint(official)
    assert set(exported) == {"student", "teacher", "massl_bench"}

    def backbone(tensors: Mapping[str, torch.Tensor]) -> set[str]:
        return {name for name in tensors if ".head." not in f".{name}"}

    for key in ("student", "teacher"):
        assert set(exported[key]) == backbone(original[key])
    # The authors' evaluation takes the teacher, strips both prefixes and loads what is left.
    for name, tensor in exported["teacher"].items():
        assert torch.equal(tensor, original["teacher"][name])
        assert torch.equal(exported["student"][f"module.{name}"], tensor)


def without_hash(manifest: Path) -> str:
    """The text without the hash of its content, as who changes it by hand is told."""
    lines = manifest.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("content_sha256"))


def test_safetensors_keep_preprocessing_and_architecture(run_cli: Cli, tmp_path: Path) -> None:
    """12 heads where others have 6, and a preprocessing of its own: neither is in the tensors' shapes."""
    network = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=32)
    save_file(network.state_dict(), tmp_path / "v.safetensors")
    add = ("weights", "add", tmp_path / "v.safetensors", "--name", "small")
    assert "vit_small) or 12 (MoCo v3): give --num-heads" in run_cli(*add).error
    refused = run_cli(*add, "--arch", "vit_base_patch16_224")
    assert (
        "vit_base_patch16_224 is 768 wide, 12 blocks deep, with patches of 16 pixels; the file's ViT is 384 wide"
        in (refused.error)
    )
    assert run_cli(*add, "--num-heads", "12").code == 0
    manifest = WEIGHTS / "small.toml"
    manifest.write_text(
        without_hash(manifest) + "\n[preprocessing]\n"
        'resize = 32\nresize_mode = "squash"\ncrop = 32\ninterpolation = "bicubic"\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n"
    )
    exported = run_cli("weights", "export", "small", "--format", "safetensors", "--output", "s.safetensors")
    assert exported.code == 0, exported.err
    metadata = read_metadata(Path("s.safetensors"))
    assert metadata is not None
    assert (metadata.name, metadata.num_heads, metadata.preprocessing.crop) == ("small", 12, 32)
    expected = features_of("small")
    assert torch.equal(features_of("s.safetensors"), expected)
    assert not torch.allclose(features_of(str(tmp_path / "v.safetensors"), num_heads=6), expected, atol=1e-2)
    assert "preprocessing_origin: the file's own metadata" in run_cli("info", "s.safetensors").out

    assert run_cli("weights", "export", "small", "--format", "massl", "--output", "s.pth").code == 0
    assert torch.equal(features_of("s.pth"), expected)


def test_massl_keeps_the_preprocessing_too(run_cli: Cli, official: Path) -> None:
    run_cli("weights", "add", official, "--name", "gold")
    manifest = WEIGHTS / "gold.toml"
    manifest.write_text(
        without_hash(manifest) + "\n[preprocessing]\n"
        'resize = 64\nresize_mode = "shortest"\ncrop = 64\ninterpolation = "bilinear"\n'
        "mean = [0, 0, 0]\nstd = [1, 1, 1]\n"
    )
    answer = run_cli("weights", "export", "gold", "--format", "massl")
    assert answer.code == 0, answer.err
    card = json.loads(run_cli("info", "gold.pth", "--json").out)
    assert (card["preprocessing"]["crop"], card["preprocessing"]["mean"]) == (64, [0, 0, 0])
    assert card["preprocessing_origin"] == "the file's own metadata"
    assert "under the key `massl_bench`" in Path("gold.pth.md").read_text()


def test_exports_that_cannot_be(run_cli: Cli, official: Path) -> None:
    run_cli("weights", "add", official, "--name", "gold")
    for arguments, message in (
        (("gold", "--format", "onnx"), "unknown format 'onnx'; known: massl, safetensors"),
        (("gold", "--format", "massl", "--output", "g.safetensors"), "expected a name that ends in .pth"),
        (("gold", "--format", "safetensors", "--output", "g"), "expected a name that ends in .safetensors"),
        (("pixels", "--format", "massl"), "expected a manifest's name or a checkpoint"),
        (("random:resnet18", "--format", "massl"), "expected a manifest's name or a checkpoint"),
        (("gold", "--format", "massl", "--arch", "resnet18"), "of gold its manifest says it"),
        (("god", "--format", "massl"), "did you mean gold?"),
    ):
        answer = run_cli("weights", "export", *arguments)
        assert answer.code == 2
        assert message in answer.error
    assert [path.name for path in Path().iterdir()] == ["weights"]


def test_metadata_that_is_damaged(run_cli: Cli, official: Path) -> None:
    tensors = {name.removeprefix("backbone."): t for name, t in read_checkpoint(official)["teacher"].items()}
    backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    save_file(backbone, "b.safetensors", {"massl_bench": '{"format": 2}'})
    answer = run_cli("info", "b.safetensors")
    assert answer.code == 2
    assert "b.safetensors: metadata massl_bench: format: expected 1, got 2" in answer.error
