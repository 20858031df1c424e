"""ViTs in published layouts: what the sweep over all layouts does not try, and timm's models as second witnesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.encoder import Encoder
from massl_bench.models.weights.export import ExportedModel, export_weights
from tests.models import vit_layouts
from tests.models.layouts import clip, dinov3, layouts
from tests.models.reference_vit import antialiased, make_vit, quick_gelu

TWO_HEADS = ModelSettings(num_heads=2)


def assert_features(encoder: Encoder, source: Any, *sizes: tuple[int, int]) -> None:
    for size in sizes:
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(encoder(images), source(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers", "dinov3", "mae"])
def test_an_oblong_image(name: str, tmp_path: Path) -> None:
    file = layouts()[name].make(tmp_path)
    assert_features(build_checkpoint(file.path, "x", TWO_HEADS), file.source, (24, 48))


def test_open_clip_does_not_tell_its_activation(tmp_path: Path) -> None:
    source = make_vit(**clip.OPTIONS, positions=antialiased)
    torch.save(vit_layouts.open_clip(source), tmp_path / "w.pt")
    with pytest.raises(RequestError, match=r"activation of CLIP's MLPs is not in the tensors.*arch='"):
        build_checkpoint(tmp_path / "w.pt", "x", TWO_HEADS)


@pytest.mark.parametrize(("quick", "act"), [(True, quick_gelu), (False, torch.nn.functional.gelu)])
def test_open_clip_with_its_config(quick: bool, act: Any, tmp_path: Path) -> None:
    source = make_vit(**clip.OPTIONS, positions=antialiased, act=act)
    torch.save(vit_layouts.open_clip(source), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(f'{{"model_cfg": {{"quick_gelu": {str(quick).lower()}}}}}')
    encoder = build_checkpoint(tmp_path, "x", TWO_HEADS)
    assert encoder.card.embed_dim == 24
    assert_features(encoder, source.projection, (32, 32), (48, 48))


def test_dinov3_with_a_bias_of_keys_is_refused(tmp_path: Path) -> None:
    content = vit_layouts.dinov3(make_vit(**dinov3.OPTIONS))
    torch.save({name: t for name, t in content.items() if not name.endswith("bias_mask")}, tmp_path / "w.pth")
    with pytest.raises(RequestError, match="its keys have a bias that no mask takes away"):
        build_checkpoint(tmp_path / "w.pth", "x", TWO_HEADS)


def test_shards_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"model": {"backbone._flat_param": torch.randn(9)}, "iteration": 3}, tmp_path / "m.rank_0.pth")
    with pytest.raises(RequestError, match=r"shard of a model under FSDP.*FULL_STATE_DICT"):
        build_checkpoint(tmp_path / "m.rank_0.pth", "x")
    folder = tmp_path / "sharded_teacher_checkpoint"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"x")
    (folder / ".metadata").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"distributed checkpoint of torch \(DCP\).*dcp_to_torch"):
        build_checkpoint(folder, "x")


def test_openai_clip_in_torchscript_is_read_without_executing_it(tmp_path: Path) -> None:
    source = clip.LAYOUT  # the same layout in its published container
    network = make_vit(**clip.OPTIONS, width=128, act=quick_gelu)
    module = torch.nn.Module()
    for name, tensor in vit_layouts.openai_clip(network).items():
        parent = module
        *path, last = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.register_buffer(last, tensor)
    torch.jit.script(module).save(str(tmp_path / "ViT-B-32.pt"))
    encoder = build_checkpoint(tmp_path / "ViT-B-32.pt", "x")
    assert encoder.card.origins["weights"] == f"adapter {source.adapter}"
    assert_features(encoder, network.projection, (32, 32))


def test_capi_is_known_and_refused(tmp_path: Path) -> None:
    state = {
        f"backbone.encoder.blocks.0.residual1.fn.{part}.weight": torch.randn(4, 4) for part in ("q_proj", "k_proj")
    }
    torch.save({**state, "backbone.rope.freqs": torch.randn(4)}, tmp_path / "capi.pth")
    with pytest.raises(RequestError, match="a checkpoint of CAPI"):
        build_checkpoint(tmp_path / "capi.pth", "x")


def test_selective_kernels_of_simclr_are_known_and_refused(tmp_path: Path) -> None:
    file = layouts()["simclr_v2"].make(tmp_path)
    state = torch.load(file.path, weights_only=True)
    state["resnet"]["net.1.blocks.0.net.2.mixing_conv.weight"] = torch.randn(4, 4, 1, 1)
    torch.save(state, tmp_path / "sk1.pth")
    with pytest.raises(RequestError, match="selective kernels"):
        build_checkpoint(tmp_path / "sk1.pth", "x")


@pytest.mark.parametrize("name", ["mae", "dinov2_registers"])
def test_an_export_keeps_how_positions_are_resampled(name: str, tmp_path: Path) -> None:
    file = layouts()[name].make(tmp_path)
    encoder = build_checkpoint(file.path, "x", TWO_HEADS)
    exported = tmp_path / "exported.safetensors"
    export_weights(ExportedModel(encoder=encoder, arch=None, citation="x", training={}), exported, "safetensors")
    assert_features(build_checkpoint(exported, "x"), file.source, (32, 32), (48, 48))


def test_a_resnet_of_clip_is_known_and_refused(tmp_path: Path) -> None:
    torch.save(
        {"visual.attnpool.k_proj.weight": torch.randn(4, 4), "visual.conv1.weight": torch.randn(4, 3, 3, 3)},
        tmp_path / "c.pt",
    )
    with pytest.raises(RequestError, match=r"a ResNet of CLIP.*resnet50_clip"):
        build_checkpoint(tmp_path / "c.pt", "x")
