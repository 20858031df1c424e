"""timm's architectures as second witnesses: renamed into a published layout and read back, they give their features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.checkpoints import build_checkpoint
from tests.models import vit_layouts
from tests.models.layouts import filled
from tests.models.reference_vit import SourceVit

Write = Callable[[SourceVit], Any]


def directory(kind: str, names: Callable[..., Any], **config: Any) -> Write:
    """Returns what writes a directory of transformers."""

    def write(source: SourceVit) -> Any:
        told = {"model_type": kind, "num_attention_heads": 2, **config}
        return vit_layouts.Directory(names(source), told)

    return write


def dinov2_names(source: SourceVit) -> Any:
    return vit_layouts.transformers_vit(source, scales="dinov2")


def from_timm(network: Any) -> SourceVit:
    """Returns the tensors of a ViT of timm (`VisionTransformer` or `Eva`) under `SourceVit`'s names."""
    state = dict(network.state_dict())
    t: dict[str, torch.Tensor] = {
        "patch.w": state["patch_embed.proj.weight"],
        "norm.w": state["norm.weight"],
        "norm.b": state["norm.bias"],
    }
    t |= {"patch.b": state["patch_embed.proj.bias"]} if "patch_embed.proj.bias" in state else {}
    t |= {"cls": state["cls_token"][0, 0]} if "cls_token" in state else {}
    t |= {"reg": state["reg_token"][0]} if "reg_token" in state else {}
    t |= {"pos": state["pos_embed"][0]} if "pos_embed" in state else {}
    if "reg" in t and "pos" in t:  # authors keep a position of the class token apart: any part of it
        t |= {"pos": torch.cat([torch.full((1, network.embed_dim), 0.25), t["pos"]]), "cls": t["cls"] - 0.25}
    t |= {"pre.w": state["norm_pre.weight"], "pre.b": state["norm_pre.bias"]} if "norm_pre.weight" in state else {}
    t |= {"proj": state["head.weight"].T} if "head.weight" in state else {}
    rope = getattr(network, "rope", None)
    t |= {"periods": rope.periods.clone()} if rope is not None else {}
    for block in range(len(network.blocks)):
        at = f"blocks.{block}."
        t |= {f"{block}.ls{n}": state[f"{at}ls{n}.gamma"] for n in (1, 2) if f"{at}ls{n}.gamma" in state}
        t |= {f"{block}.ls{n}": state[f"{at}gamma_{n}"] for n in (1, 2) if f"{at}gamma_{n}" in state}
        t |= {f"{block}.{part}.b": state[f"{at}attn.{part}_bias"] for part in "qv" if f"{at}attn.q_bias" in state}
        for kind in ("weight", "bias"):
            k = kind[0]
            t |= {f"{block}.n{n}.{k}": state[f"{at}norm{n}.{kind}"] for n in (1, 2)}
            if f"{at}attn.qkv.{kind}" in state:
                t |= {
                    f"{block}.{p}.{k}": each
                    for p, each in zip("qkv", state[f"{at}attn.qkv.{kind}"].chunk(3), strict=True)
                }
            t |= {f"{block}.o.{k}": state[f"{at}attn.proj.{kind}"], f"{block}.fc2.{k}": state[f"{at}mlp.fc2.{kind}"]}
            if f"{at}mlp.fc1_g.{kind}" in state:
                t |= {
                    f"{block}.gate.{k}": state[f"{at}mlp.fc1_g.{kind}"],
                    f"{block}.up.{k}": state[f"{at}mlp.fc1_x.{kind}"],
                }
            elif len(state[f"{at}mlp.fc1.weight"]) == 2 * state[f"{at}mlp.fc2.weight"].shape[1]:
                t |= {
                    f"{block}.{p}.{k}": e
                    for p, e in zip(("gate", "up"), state[f"{at}mlp.fc1.{kind}"].chunk(2), strict=True)
                }
            else:
                t[f"{block}.fc1.{k}"] = state[f"{at}mlp.fc1.{kind}"]
    return SourceVit(t=t, heads=2, depth=len(network.blocks), patch=network.patch_embed.patch_size[0])


TOKEN: dict[str, Any] = {"global_pool": "token"}
WITNESSES: list[tuple[str, Write, dict[str, Any], dict[str, Any]]] = [
    ("vit_small_patch16_224", vit_layouts.moco_v3, {}, {}),
    ("vit_base_patch16_224", vit_layouts.mae_pretraining, {}, {}),
    ("vit_large_patch16_224", vit_layouts.msn, {}, {"pooling": "token"}),
    ("vit_huge_patch14_gap_224", vit_layouts.ijepa, {}, {}),
    ("vit_giant_patch16_gap_224", vit_layouts.ijepa, {}, {}),
    ("vit_base_patch14_dinov2", vit_layouts.dinov2, {}, {}),
    ("vit_base_patch14_reg4_dinov2", vit_layouts.dinov2, {}, {}),
    ("vit_giant_patch14_dinov2", vit_layouts.dinov2_run, {"mlp_ratio": 3}, {}),
    ("vit_giant_patch14_reg4_dinov2", vit_layouts.franca, {"mlp_ratio": 3}, {}),
    ("vit_small_patch16_dinov3_qkvb", vit_layouts.dinov3, TOKEN, {}),
    ("vit_small_plus_patch16_dinov3_qkvb", vit_layouts.dinov3, TOKEN, {}),
    ("vit_7b_patch16_dinov3", vit_layouts.dinov3, TOKEN, {}),
    ("vit_base_patch16_clip_quickgelu_224", vit_layouts.openai_clip, {"num_classes": 24, "embed_dim": 128}, {}),
    ("vit_base_patch16_224", directory("vit", vit_layouts.transformers_vit, layer_norm_eps=1e-6), {}, {}),
    ("vit_base_patch14_reg4_dinov2", directory("dinov2_with_registers", dinov2_names), {}, {}),
    ("vit_base_patch16_dinov3_qkvb", directory("dinov3_vit", vit_layouts.transformers_dinov3), TOKEN, {}),
]


@pytest.mark.parametrize("number", range(len(WITNESSES)), ids=lambda number: f"{number}-{WITNESSES[number][0]}")
def test_timm_gives_the_same_features(number: int, tmp_path: Path) -> None:
    arch, write, changed, settings = WITNESSES[number]
    tiny = {"num_classes": 0, "embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8, **changed}
    network = filled(timm.create_model(arch, **tiny), seed=number)
    if "dinov3" in arch and write is vit_layouts.dinov3:  # which stores the periods, and rounds them
        network.rope.periods.copy_(network.rope.periods.bfloat16())  # type: ignore[arg-type]
    if tiny["num_classes"]:
        torch.nn.init.zeros_(network.head.bias)  # type: ignore[arg-type]
    path = vit_layouts.write_content(tmp_path, write(from_timm(network)))
    heads: dict[str, Any] = {} if path.is_dir() or "clip" in arch or "dinov3" in arch else {"num_heads": 2}
    encoder = build_checkpoint(path, "x", ModelSettings(**heads, **settings))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-5, atol=1e-5)
