"""ViTs in published layouts: features equal those of the source network, at the native and at one other size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.encoder import Encoder
from tests.models import vit_layouts as layouts
from tests.models.reference_vit import SourceVit, antialiased, make_vit, one_scale, to_size

NATIVE, OTHER = (32, 32), (48, 48)
TWO_HEADS = ModelSettings(num_heads=2)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def with_fixed_positions(source: SourceVit) -> SourceVit:
    """Gives a network the position embeddings of MAE and MoCo v3: sines and cosines of columns, then of rows."""
    quarter, grid = source.width // 4, 4
    rates = 10000.0 ** -(torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    by_column, by_row = line.repeat(grid, 1), line.repeat_interleave(grid, 0)
    source.t["pos"] = torch.cat([torch.zeros(1, source.width), torch.cat([by_column, by_row], dim=1)])
    return source


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout, the network in its file, and what its authors take of it."""

    write: Callable[[SourceVit], Any]
    source: Callable[[], SourceVit]
    feature: Callable[[SourceVit, Tensor], Tensor] = SourceVit.token
    adapter: str
    any_size: bool = True
    left_out: frozenset[str] = frozenset()
    settings: ModelSettings = field(default=TWO_HEADS)
    interpolation: str = "bicubic"


DINOV2 = {"grid": 4, "scales": True}
CLIP = {"pre_norm": True, "patch_bias": False, "project": 24, "eps": 1e-5}
DINOV3 = {"periods": True, "scales": True, "registers": 4, "grid": None, "key_bias": False, "eps": 1e-5}
CASES: dict[str, Case] = {
    "msn": Case(
        write=layouts.msn,
        source=lambda: make_vit(positions=one_scale),
        feature=SourceVit.token_before_norm,
        adapter="msn",
        left_out=frozenset({"projector", "prototypes", "optimizer", "the encoder that is trained"}),
        interpolation="bilinear",
    ),
    "ijepa": Case(
        write=layouts.ijepa,
        source=lambda: make_vit(cls=False),
        feature=SourceVit.mean,
        adapter="ijepa",
        any_size=False,
        left_out=frozenset({"predictor", "optimizer", "the encoder that is trained"}),
    ),
    "moco_v3": Case(
        write=layouts.moco_v3,
        source=lambda: with_fixed_positions(make_vit()),
        adapter="moco_v3",
        any_size=False,
        left_out=frozenset({"projector", "predictor", "the momentum encoder", "optimizer"}),
        interpolation="bilinear",
    ),
    "mae_encoder": Case(
        write=layouts.mae_encoder,
        source=lambda: with_fixed_positions(make_vit(positions=to_size)),
        adapter="mae",
    ),
    "mae_pretraining": Case(
        write=layouts.mae_pretraining,
        source=lambda: with_fixed_positions(make_vit(positions=to_size)),
        adapter="mae",
        left_out=frozenset({"mask token", "decoder", "optimizer"}),
    ),
    "mae_tuned": Case(
        write=layouts.mae_tuned,
        source=lambda: make_vit(positions=to_size),
        feature=SourceVit.normed_mean,
        adapter="mae",
        left_out=frozenset({"classifier"}),
    ),
    "ibot_student": Case(
        write=layouts.ibot_student, source=make_vit, adapter="timm_vit", left_out=frozenset({"mask token"})
    ),
    "dinov2": Case(
        write=layouts.dinov2,
        source=lambda: make_vit(**DINOV2),
        adapter="dinov2",
        left_out=frozenset({"mask token"}),
    ),
    "dinov2_registers": Case(
        write=layouts.dinov2,
        source=lambda: make_vit(**DINOV2, registers=4, positions=antialiased),
        adapter="dinov2",
        left_out=frozenset({"mask token"}),
    ),
    "dinov2_swiglu": Case(
        write=layouts.dinov2,
        source=lambda: make_vit(**DINOV2, gated=True),
        adapter="dinov2",
        left_out=frozenset({"mask token"}),
    ),
    "dinov2_run": Case(
        write=layouts.dinov2_run,
        source=lambda: make_vit(**DINOV2),
        adapter="dinov2",
        left_out=frozenset({"mask token", "projector"}),
    ),
    "franca": Case(
        write=layouts.franca,
        source=lambda: make_vit(**DINOV2, gated=True, depth=4, hidden=171),
        adapter="franca",
        left_out=frozenset({"mask token", "projector"}),
    ),
    "dinov3": Case(
        write=layouts.dinov3,
        source=lambda: make_vit(**DINOV3),
        adapter="dinov3",
        left_out=frozenset({"mask token", "norm of local crops in training"}),
    ),
    "dinov3_plus": Case(
        write=layouts.dinov3,
        source=lambda: make_vit(**DINOV3, gated=True),
        adapter="dinov3",
        left_out=frozenset({"mask token", "norm of local crops in training"}),
    ),
    "dinov3_7b": Case(
        write=layouts.dinov3,
        source=lambda: make_vit(**DINOV3, gated=True, qkv_bias=False),
        adapter="dinov3",
        left_out=frozenset({"mask token", "norm of local crops in training"}),
    ),
    "openai_clip": Case(
        write=layouts.openai_clip,
        source=lambda: make_vit(**CLIP, width=128, act=quick_gelu),
        feature=SourceVit.projection,
        adapter="clip",
        any_size=False,
        left_out=frozenset({"text tower", "scale of the loss", "sizes"}),
        settings=ModelSettings(),
    ),
}


def saved(case: Case, path: Path) -> tuple[SourceVit, Path]:
    source = case.source()
    torch.save(case.write(source), path)
    return source, path


def assert_features(encoder: Encoder, source: SourceVit, feature: Any, sizes: list[tuple[int, int]]) -> None:
    for size in sizes:
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(encoder(images), feature(source, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source, file = saved(case, tmp_path / "w.pth")
    encoder = build_checkpoint(file, "x", case.settings)
    assert encoder.card.origins["weights"] == f"adapter {case.adapter}"
    assert set(encoder.card.left_out) == case.left_out
    assert encoder.card.preprocessing.interpolation == case.interpolation
    assert_features(encoder, source, case.feature, [NATIVE, *([OTHER] if case.any_size else [])])
    if not case.any_size:
        with pytest.raises(RequestError, match="never resample its position embeddings"):
            encoder(torch.zeros(1, 3, *OTHER))


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers", "dinov3", "mae_encoder"])
def test_an_oblong_image(name: str, tmp_path: Path) -> None:
    source, file = saved(CASES[name], tmp_path / "w.pth")
    assert_features(build_checkpoint(file, "x", TWO_HEADS), source, SourceVit.token, [(24, 48)])


@pytest.mark.parametrize(("name", "key"), [("msn", "encoder"), ("ijepa", "encoder"), ("moco_v3", "momentum_encoder")])
def test_the_twin_is_taken_where_it_is_asked_for(name: str, key: str, tmp_path: Path) -> None:
    case = CASES[name]
    source, file = saved(case, tmp_path / "w.pth")
    encoder = build_checkpoint(file, "x", ModelSettings(num_heads=2, checkpoint_key=key))
    assert_features(encoder, layouts.twin(source), case.feature, [NATIVE])


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_more_or_less_is_an_error(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    for change in ("more", "less"):
        content = case.write(case.source())
        state = content
        for key in ("target_encoder", "state_dict", "model", "teacher"):
            state = state.get(key, state)
        last = next(each for each in reversed(state) if "blocks" in each and "base_encoder" not in each.split(".")[:1])
        if change == "more":
            state[f"{last}_more"] = torch.randn(3, 3)
        elif case.adapter != "moco_v3":
            del state[last]
        else:
            del state["module.base_encoder.blocks.1.mlp.fc2.bias"]
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(RequestError, match=r"missing|unexpected|knows nothing|not those of"):
            build_checkpoint(tmp_path / "w.pth", "x", case.settings)


def test_open_clip_does_not_tell_its_activation(tmp_path: Path) -> None:
    source = make_vit(**CLIP, positions=antialiased)
    torch.save(layouts.open_clip(source), tmp_path / "w.pt")
    with pytest.raises(RequestError, match=r"activation of CLIP's MLPs is not in the tensors.*--arch"):
        build_checkpoint(tmp_path / "w.pt", "x", TWO_HEADS)


@pytest.mark.parametrize(("quick", "act"), [(True, quick_gelu), (False, torch.nn.functional.gelu)])
def test_open_clip_with_its_config(quick: bool, act: Any, tmp_path: Path) -> None:
    source = make_vit(**CLIP, positions=antialiased, act=act)
    torch.save(layouts.open_clip(source), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(f'{{"model_cfg": {{"quick_gelu": {str(quick).lower()}}}}}')
    encoder = build_checkpoint(tmp_path, "x", TWO_HEADS)
    assert encoder.card.embed_dim == 24
    assert_features(encoder, source, SourceVit.projection, [NATIVE, OTHER])


def test_dinov3_with_a_bias_of_keys_is_refused(tmp_path: Path) -> None:
    content = layouts.dinov3(make_vit(**DINOV3))
    torch.save({name: t for name, t in content.items() if not name.endswith("bias_mask")}, tmp_path / "w.pth")
    with pytest.raises(RequestError, match="its keys have a bias that no mask takes away"):
        build_checkpoint(tmp_path / "w.pth", "x", TWO_HEADS)


def test_capi_is_known_and_refused(tmp_path: Path) -> None:
    state = {
        f"backbone.encoder.blocks.0.residual1.fn.{part}.weight": torch.randn(4, 4) for part in ("q_proj", "k_proj")
    }
    torch.save({**state, "backbone.rope.freqs": torch.randn(4)}, tmp_path / "capi.pth")
    with pytest.raises(RequestError, match="a checkpoint of CAPI"):
        build_checkpoint(tmp_path / "capi.pth", "x")
