"""Files that were taken for something else without a word: each gives the right thing, or says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import massl_bench as mb
from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from massl_bench.models.checkpoints import build_checkpoint, describe_content, read_checkpoint
from massl_bench.models.content import Content
from massl_bench.models.recognition import recognise
from massl_bench.records.reading import read_record
from tests.conftest import Answer, make_hub_cache
from tests.models.layouts import filled, layouts, on_meta, prefixed, tiny_vit

Cli = Callable[..., Answer]

FAULTS = Path(__file__).parents[1] / "faults" / "models"
PAIR, TWO_HEADS = FAULTS / "dino_pair.pth", FAULTS / "vit_w64_2heads.pth"
SMALL = (
    "run",
    "--task",
    "knn",
    "--dataset",
    "digits",
    "--limit",
    "train=60,test=30",
    "--set",
    "knn.k=5",
    "--set",
    "knn.headline=top1@5",
)


def features(model: Path, **settings: Any) -> torch.Tensor:
    encoder = mb.load_encoder(str(model), **settings)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return encoder(images)


def run_small(run_cli: Cli, *arguments: object) -> tuple[float, str, dict[str, Any], Answer]:
    """Returns (k-NN accuracy, status, identity, answer)."""
    answer = run_cli(*SMALL, *arguments, "--json")
    assert answer.code == 0, answer.err
    (outcome,) = json.loads(answer.out)
    record = outcome["record"]
    return record["metrics"]["top1@5"]["value"], outcome["status"], record["identity"], answer


def test_teacher_and_student_of_one_file_are_two_models(run_cli: Cli) -> None:
    teacher, _, of_teacher, answer = run_small(run_cli, "--model", PAIR)
    student, status, of_student, _ = run_small(run_cli, "--model", PAIR, "--checkpoint-key", "student")
    assert status == "done"
    assert of_teacher["model"]["weights_sha256"] != of_student["model"]["weights_sha256"]
    assert of_teacher["feature_keys"].keys() == of_student["feature_keys"].keys() == {"train", "test"}
    assert not set(of_teacher["feature_keys"].values()) & set(of_student["feature_keys"].values())
    assert teacher != student
    assert of_teacher["preprocessing"]["crop"] == 32
    said = next(line for line in answer.err.splitlines() if "heads" in line or "1 head" in line)
    for part in (
        "vit_width64_depth1_heads1_patch8",
        "1 head (64 dimensions each",
        "parameters",
        "images of 32 pixels (position embeddings of 4 × 4 patches of 8)",
        "mean [0.485",
        "as DINO's evaluation",
        "key teacher, backbone",
        "adapter massl",
        "the student",
    ):
        assert part in said


def test_two_keys_of_one_checkpoint_have_their_own_numbers(
    run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the size that the file was once fed at, and with k-NN of one neighbour over 36 and 18 images."""
    shards = FAULTS.parent / "parquet_shards_other_names"

    def lay_out(root: Path) -> None:
        shutil.copytree(shards, root)

    make_hub_cache(tmp_path / "hub", "org/shards", lay_out, monkeypatch)
    command: list[object] = ["run", "--task", "knn", "--dataset", "hf:org/shards", "--model", PAIR, "--json"]
    command += ["--set", "knn.k=1", "--set", "knn.headline=top1@1"]
    command += ["--preprocessing", "resize=256", "--preprocessing", "crop=224"]
    for key, expected in (("teacher", 0.6111), ("student", 0.5), ("teacher", 0.6111)):
        answer = run_cli(*command, "--checkpoint-key", key)
        assert answer.code == 0, answer.err
        (outcome,) = json.loads(answer.out)
        assert outcome["record"]["metrics"]["top1@1"]["value"] == pytest.approx(expected, abs=5e-5)


def test_a_corrected_number_of_heads_is_another_measurement(run_cli: Cli) -> None:
    asked = run_cli(*SMALL, "--model", TWO_HEADS)
    assert asked.code == 2
    assert "the number of attention heads is not in the tensors" in asked.error
    assert "one of 1, 2, 4: give --num-heads" in asked.error
    one, _, of_one, _ = run_small(run_cli, "--model", TWO_HEADS, "--num-heads", 1)
    two, status, of_two, _ = run_small(run_cli, "--model", TWO_HEADS, "--num-heads", 2)
    assert status == "done"
    assert of_one["model"]["weights_sha256"] == of_two["model"]["weights_sha256"]
    assert of_one["model"]["network_sha256"] != of_two["model"]["network_sha256"]
    assert (of_one["model"]["network"]["heads"], of_two["model"]["network"]["heads"]) == (1, 2)
    assert not set(of_one["feature_keys"].values()) & set(of_two["feature_keys"].values())
    assert len(list(Path("results").glob("*/knn/digits*.json"))) == 2, "neither replaces the other"
    assert run_small(run_cli, "--model", TWO_HEADS, "--num-heads", 2)[1] == "finished"
    del one, two


def test_a_teacher_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"teacher .* cannot be read: backbone\.norm\._extra_state in it is no"):
        mb.load_encoder(str(FAULTS / "teacher_extra_state.pth"))
    student = {"module.backbone.a": torch.zeros(1)}
    for teacher, reason in (({}, "it is empty"), ({"model": {"a": torch.zeros(1)}}, "model in it"), (None, "NoneType")):
        torch.save({"teacher": teacher, "student": student}, tmp_path / "c.pth")
        with pytest.raises(RequestError, match=f"teacher .* cannot be read: .*{reason}.*checkpoint_key='student'"):
            mb.load_encoder(str(tmp_path / "c.pth"))


def test_a_student_alone_is_not_taken_silently(tmp_path: Path) -> None:
    student = prefixed("module.backbone.", tiny_vit(seed=1).state_dict())
    torch.save({"student": student}, tmp_path / "c.pth")
    with pytest.raises(RequestError, match=r"under the key student lies .*checkpoint_key='student' takes it"):
        mb.load_encoder(str(tmp_path / "c.pth"))
    encoder = mb.load_encoder(str(tmp_path / "c.pth"), checkpoint_key="student", num_heads=2)
    assert torch.equal(encoder.backbone.state_dict()["cls_token"], student["module.backbone.cls_token"])


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            "vit_large_patch16_224",
            "arch='vit_large_patch16_224' is 1024 wide, 24 blocks deep, with patches of 16",
        ),
        ("vit_tiny_patch16_224", "192 wide, 12 blocks deep, with patches of 16 pixels; the file's ViT is 192 wide, 2"),
        ("resnet50", "arch='resnet50' is a ResNet; the file's tensors are a ViT's"),
    ],
)
def test_an_architecture_that_contradicts_the_file(arch: str, message: str, tmp_path: Path) -> None:
    save_file(tiny_vit(seed=1, width=192, heads=3, patch_size=16).state_dict(), tmp_path / "v.safetensors")
    with pytest.raises(RequestError) as error:
        mb.load_encoder(str(tmp_path / "v.safetensors"), arch=arch)
    assert message in str(error.value)
    assert "192 wide, 2 blocks deep, with patches of 16 pixels" in str(error.value) or arch == "resnet50"
    with pytest.raises(RequestError) as also:  # the number of heads alone can be another one
        mb.load_encoder(str(tmp_path / "v.safetensors"), arch=arch, num_heads=3)
    assert str(also.value) == str(error.value)


def test_heads_of_what_has_none_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "r.safetensors")
    with pytest.raises(RequestError, match="num_heads=3: resnet18 tells its heads, or has none: leave it out"):
        mb.load_encoder(str(tmp_path / "r.safetensors"), num_heads=3)


@pytest.mark.parametrize("heads", [6, 12])
def test_a_vit_384_wide_is_asked_for_its_heads(heads: int, tmp_path: Path) -> None:
    network = tiny_vit(seed=1, width=384, heads=heads)
    save_file(network.state_dict(), tmp_path / "v.safetensors")
    with pytest.raises(RequestError, match=r"6 \(DINO, iBOT, MSN, DeiT: vit_small\) or 12 \(MoCo v3\): give num_heads"):
        mb.load_encoder(str(tmp_path / "v.safetensors"))
    expected = network(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(features(tmp_path / "v.safetensors", num_heads=heads), expected, rtol=1e-4, atol=1e-4)


def test_a_file_s_own_preprocessing_is_obeyed_whatever_the_container(tmp_path: Path, run_cli: Cli) -> None:
    from tests.models.layouts.massl_bench import make

    made = make(tmp_path)
    of_checkpoint = mb.load_encoder(str(made.path)).card
    exported = tmp_path / "exported.pth"
    assert run_cli("weights", "export", made.path, "--format", "massl", "--output", exported).code == 0
    of_export = mb.load_encoder(str(exported)).card
    assert of_checkpoint.preprocessing == of_export.preprocessing
    assert (of_export.preprocessing.crop, of_export.preprocessing.mean) == (32, (0.4, 0.4, 0.4))
    same = ("weights_sha256", "network_sha256", "pooling", "architecture")
    assert all(getattr(of_checkpoint, name) == getattr(of_export, name) for name in same)


def test_local_dir_is_timm_s(tmp_path: Path) -> None:
    from tests.models.layouts.timm_dir import make

    reference = make(tmp_path).source  # timm's own loading of it is not asked: 1.0.26 takes the file for a pickle
    encoder = mb.load_encoder(f"local-dir:{tmp_path}")
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(encoder(images), reference(images), rtol=1e-5, atol=1e-5)
    assert encoder.card.preprocessing.mean == (0.5, 0.5, 0.5)
    assert encoder.card.preprocessing_origin == "pretrained_cfg of its config.json"
    with pytest.raises(RequestError, match="no such directory; expected a directory that timm saved"):
        mb.load_encoder("local-dir:nowhere")


def test_settings_are_kept_by_manifests_and_records(tmp_path: Path, run_cli: Cli) -> None:
    add = ("weights", "add", TWO_HEADS, "--name", "two", "--num-heads", "2", "--pooling", "avg")
    answer = run_cli(*add, "--img-size", "48", "--preprocessing", "mean=0.5,0.5,0.5")
    assert answer.code == 0, answer.err
    by_name = mb.load_encoder("two").card
    direct = mb.load_encoder(
        str(TWO_HEADS), num_heads=2, pooling="avg", img_size=48, preprocessing={"mean": (0.5, 0.5, 0.5)}
    ).card
    same = ("weights_sha256", "network_sha256", "pooling", "preprocessing", "embed_dim")
    assert all(getattr(by_name, name) == getattr(direct, name) for name in same)
    assert (by_name.preprocessing.crop, by_name.pooling) == (48, "mean of the patch tokens after the final norm")
    assert run_cli(*SMALL, "--model", "two", "--num-heads", "1").code == 2
    _, _, _, answer = run_small(run_cli, "--model", TWO_HEADS, "--num-heads", 2, "--pooling", "token+avg")
    (path,) = Path("results").glob("*/knn/digits*.json")
    record = read_record(path)
    assert (record.request.model.num_heads, record.request.model.pooling) == (2, "token+avg")
    assert not [each for each in record.departures if "pooling" in each or "heads" in each]
    verified = run_cli("verify", path)
    assert verified.code == 0, verified.out + verified.err


def test_stems_that_shapes_do_not_tell(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=0)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=2, bias=False)
    network.maxpool = torch.nn.Identity()
    save_file(filled(network, seed=1).state_dict(), tmp_path / "r.safetensors")
    unsaid = mb.load_encoder(str(tmp_path / "r.safetensors"))
    assert "padding 1, stride 1, no pooling" in unsaid.card.notes[0]
    assert "arch='resnet_small_images_padding2': padding 2, stride 1, no pooling" in unsaid.card.notes[0]
    said = mb.load_encoder(str(tmp_path / "r.safetensors"), arch="resnet_small_images_padding2")
    images = torch.randn(2, 3, 32, 32)
    expected = network(images)
    torch.testing.assert_close(said(images) / expected.max(), expected / expected.max(), rtol=0, atol=1e-5)
    assert said.card.network_sha256 != unsaid.card.network_sha256
    assert (said.card.preprocessing.crop, said.card.notes) == (32, ())


def test_a_prefix_problem_never_says_arch(tmp_path: Path) -> None:
    torch.save(prefixed("net.model.", tiny_vit(seed=1).state_dict()), tmp_path / "v.pth")
    with pytest.raises(RequestError) as error:
        mb.load_encoder(str(tmp_path / "v.pth"))
    assert "lies behind the prefix net.model., which none knows; nearest: timm_vit" in str(error.value)
    assert " arch" not in str(error.value)


def test_a_huge_vit_has_sixteen_heads() -> None:
    tree = on_meta(lambda: timm.create_model("vit_huge_patch14_224", num_classes=0))
    described = describe_content(Content(file=Path("x.pth"), tree=tree), NO_SETTINGS, "x")
    with torch.device("meta"):
        network: Any = described.network.build()
    assert (network.blocks[0].attn.num_heads, described.network.architecture) == (16, "vit_huge_patch14")


@pytest.mark.parametrize(
    ("layout", "name", "other", "message"),
    [
        ("lightly", "backbone.0.weight", "backbone.conv1.weight", "two tensors are conv1.weight"),
        (
            "obow_raw",
            "feature_extractor._feature_blocks.0.Conv.weight",
            "feature_extractor.conv1.weight",
            "two tensors are conv1.weight",
        ),
        (
            "transformers_resnet",
            "resnet.embedder.embedder.convolution.weight",
            "resnet.conv1.weight",
            "two tensors are conv1.weight",
        ),
        (
            "transformers_vit",
            "vit.encoder.layer.0.attention.output.dense.weight",
            "vit.blocks.0.attn.qkv.weight",
            "two tensors are blocks.0.attn.qkv.weight",
        ),
    ],
)
def test_of_two_tensors_for_one_place_neither_is_taken(
    layout: str, name: str, other: str, message: str, tmp_path: Path
) -> None:
    made = layouts()[layout].make(tmp_path)
    if made.path.is_dir():
        tensors = load_file(made.path / "model.safetensors")
        save_file({**tensors, other: tensors[name].clone()}, made.path / "model.safetensors")
    else:
        content = read_checkpoint(made.path)
        state = content.get("state_dict", content.get("network"))
        state[other] = state[name].clone()
        torch.save(content, made.path)
    with pytest.raises(RequestError, match=message):
        build_checkpoint(made.path, "x", made.settings)


def test_a_container_that_is_held_many_times_is_looked_at_once(tmp_path: Path) -> None:
    held: Any = [torch.ones(3)]
    for _ in range(30):  # 2³⁰ ways lead to the tensor, deeper than any trainer puts one
        held = [held, held]
    tree = {"teacher": prefixed("backbone.", tiny_vit(seed=1).state_dict()), "optimizer": held}
    found = recognise(Content(file=tmp_path / "x.pth", tree=tree), ModelSettings(num_heads=2), "x")
    assert [len(names) for names in found.left_out.values()] == [1]
