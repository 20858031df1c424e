"""Files of ViTs in published layouts, small, from a network of `reference_vit`; each with what misleads a reader.

Twins beside the weights that are meant, heads whose names look like a backbone's, prefixes inside names, classifiers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from massl_bench.core.model_settings import NO_SETTINGS, ModelSettings
from tests.models.layouts import Layout, Made, Published, prefixed
from tests.models.reference_vit import SourceVit, make_vit, with_fixed_positions

State = dict[str, Tensor]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


def layout(  # what a layout's module says
    adapter: str,
    write: Callable[[SourceVit], Any],
    source: Callable[[], SourceVit],
    *,
    feature: Callable[[SourceVit, Tensor], Tensor] = SourceVit.token,
    any_size: bool = True,
    crop: int = 32,
    known_heads: bool = False,
    twins: tuple[str, ...] = (),
    left_out: frozenset[str] = frozenset(),
    published: dict[str, Published] | None = None,
    **made: Any,
) -> Layout:
    """Returns a layout by the function that writes its files; networks are for 32 × 32 pixels, patches of 8."""

    def make(folder: Path) -> Made:
        network = source()
        path = write_content(folder, write(network))
        return Made(
            path=path,
            source=lambda images: feature(network, images),
            side=32,
            other_side=48 if any_size else None,
            crop=crop,
            heads=network.heads,
            patch=network.patch,
            settings=NO_SETTINGS if known_heads else ModelSettings(num_heads=network.heads),
            twins=dict.fromkeys(twins, lambda images: feature(twin(network), images)),
            left_out=left_out,
            **made,
        )

    read_in = (write.__doc__ or "").splitlines()[0]
    return Layout(adapter=adapter, read_in=read_in, make=make, published=published or {})


def write_content(folder: Path, content: Any) -> Path:
    """Writes a file of torch; a `Directory` as it says."""
    if isinstance(content, Directory):
        return content.write(folder / "model")
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def published(
    write: Callable[[SourceVit], Any],
    width: int,
    depth: int,
    heads: int,
    arch: str,
    *,
    patch: int = 16,
    crop: int = 224,
    grid: int | None = 14,
    hidden: int | None = None,
    fixed: bool | None = None,
    **options: Any,
) -> Published:
    """Returns a published file of these dimensions, without values but, on request, those of its positions."""
    hidden = hidden or 4 * width

    def content() -> Any:
        sizes = {"width": width, "depth": depth, "heads": heads, "patch": patch, "grid": grid, "hidden": hidden}
        source = make_vit(device="meta", **{**sizes, **options})
        if fixed is not None:
            source.t["pos"] = torch.randn(source.t["pos"].shape)
        return write(with_fixed_positions(source) if fixed else source)

    return Published(content=content, heads=heads, crop=crop, arch=arch)


def twin(source: SourceVit) -> SourceVit:
    """Returns the same network with other values: what must not be taken."""
    return replace(source, t={name: tensor * 0.9 + 0.01 for name, tensor in source.t.items()})


def fused(source: SourceVit, *, swiglu: tuple[str, ...] = ("w12", "w3"), blocks: str = "blocks.{0}.") -> State:
    """Returns a state dict in the names of DeiT's and DINO's `vision_transformer.py`, with DINOv2's additions.

    Args:
        source: the network.
        swiglu: what the layers of a gated MLP are called: two where gate and value are one layer, or three.
        blocks: what blocks are called, by their number and, for four chunks, `{1}`, the chunk.
    """
    t = source.t
    state = {"patch_embed.proj.weight": t["patch.w"], "norm.weight": t["norm.w"], "norm.bias": t["norm.b"]}
    state |= {"patch_embed.proj.bias": t["patch.b"]} if "patch.b" in t else {}
    state |= {"cls_token": t["cls"][None, None]} if "cls" in t else {}
    state |= {"pos_embed": t["pos"][None]} if "pos" in t else {}
    for block in range(source.depth):
        at = blocks.format(block, block * 4 // source.depth)
        for number in (1, 2):
            state |= {f"{at}norm{number}.{kind}": t[f"{block}.n{number}.{kind[0]}"] for kind in ("weight", "bias")}
            if f"{block}.ls{number}" in t:
                state[f"{at}ls{number}.gamma"] = t[f"{block}.ls{number}"]
        for kind in ("weight", "bias"):
            parts = [t.get(f"{block}.{part}.{kind[0]}") for part in "qkv"]
            if parts[0] is not None:
                state[f"{at}attn.qkv.{kind}"] = torch.cat(
                    [torch.zeros_like(parts[0]) if p is None else p for p in parts]
                )
            state[f"{at}attn.proj.{kind}"] = t[f"{block}.o.{kind[0]}"]
            state |= _mlp(t, block, kind, f"{at}mlp.", swiglu)
    return state


def _mlp(t: State, block: int, kind: str, at: str, swiglu: tuple[str, ...]) -> State:
    k = kind[0]
    down = t[f"{block}.fc2.{k}"]
    if f"{block}.fc1.{k}" in t:
        return {f"{at}fc1.{kind}": t[f"{block}.fc1.{k}"], f"{at}fc2.{kind}": down}
    gate, up = t[f"{block}.gate.{k}"], t[f"{block}.up.{k}"]
    if len(swiglu) == 2:
        return {f"{at}{swiglu[0]}.{kind}": torch.cat([gate, up]), f"{at}{swiglu[1]}.{kind}": down}
    return {f"{at}{name}.{kind}": tensor for name, tensor in zip(swiglu, (gate, up, down), strict=True)}


def dino_head(prefix: str) -> State:
    """Returns a projector whose names hold those of a backbone."""
    names = ["mlp.0.weight", "backbone.blocks.0.attn.qkv.weight", "last_layer.weight_g", "patch_embed.proj.weight"]
    return {f"{prefix}{name}": torch.randn(3, 3) for name in names}


def msn(source: SourceVit) -> Any:
    """facebookresearch/msn 4388dc1 src/msn_train.py `save_checkpoint`; DDP around both encoders; head `fc` inside."""
    head = {f"fc.{name}.weight": torch.randn(4, 4) for name in ("fc1", "bn1", "fc2", "bn2", "fc3")}
    return {
        "encoder": prefixed("module.", {**fused(twin(source)), **head}),
        "opt": {"state": {0: {"exp_avg": torch.randn(3)}}, "param_groups": [{"lr": 0.1}]},
        "prototypes": torch.randn(8, 4),
        "target_encoder": prefixed("module.", {**fused(source), **head}),
        **{"epoch": 3, "loss": 0.5, "batch_size": 8, "world_size": 1, "lr": 0.1, "temperature": 0.1},
    }


def ijepa(source: SourceVit) -> Any:
    """facebookresearch/ijepa 52c1ae9 src/train.py `save_checkpoint`; DDP around all three; no class token."""
    predictor = {"predictor_pos_embed": torch.randn(1, 4, 6), "predictor_blocks.0.attn.qkv.weight": torch.randn(18, 6)}
    return {
        "encoder": prefixed("module.", fused(twin(source))),
        "predictor": prefixed("module.", {**predictor, "mask_token": torch.randn(1, 1, 6)}),
        "target_encoder": prefixed("module.", fused(source)),
        "opt": {"state": {0: {"exp_avg": torch.randn(3)}}},
        **{"scaler": None, "epoch": 3, "loss": 0.5, "batch_size": 8, "world_size": 1, "lr": 0.1},
    }


def moco_v3(source: SourceVit) -> Any:
    """facebookresearch/moco-v3 c349e6e main_moco.py; the builder's two encoders and predictor in one state dict."""
    head = {"head.0.weight": torch.randn(4, 4), "head.1.running_mean": torch.randn(4)}
    state = {
        **prefixed("base_encoder.", {**fused(source), **head}),
        **prefixed("momentum_encoder.", {**fused(twin(source)), **head}),
        "predictor.base_encoder.blocks.0.attn.qkv.weight": torch.randn(4, 4),
        "predictor.0.weight": torch.randn(4, 4),
    }
    training = {"optimizer": {"state": {0: torch.randn(3)}}, "scaler": {"scale": 1.0}}
    return {"epoch": 3, "arch": "vit_small", "state_dict": prefixed("module.", state), **training}


def mae_encoder(source: SourceVit) -> Any:
    """facebookresearch/mae efb2a80 models_vit.py: the encoder alone under `model`; fixed positions, stored."""
    return {"model": fused(source)}


def mae_pretraining(source: SourceVit) -> Any:
    """facebookresearch/mae efb2a80 models_mae.py, util/misc.py `save_model`: with mask token, decoder, optimizer."""
    decoder = {"mask_token": torch.randn(1, 1, 6), "decoder_pos_embed": torch.randn(1, 17, 6)}
    names = ["embed.weight", "blocks.0.attn.qkv.weight", "norm.weight", "pred.weight", "blocks.0.norm1.weight"]
    decoder |= {f"decoder_{name}": torch.randn(6, 6) for name in names}
    return {"model": {**decoder, **fused(source)}, "optimizer": {"state": {0: torch.randn(3)}}, "epoch": 3}


def mae_tuned(source: SourceVit) -> Any:
    """facebookresearch/mae efb2a80 main_finetune.py with `global_pool`: `fc_norm` and `head`, no `norm`."""
    state = {name.removeprefix("norm."): tensor for name, tensor in fused(source).items() if name.startswith("norm.")}
    tuned = {name: tensor for name, tensor in fused(source).items() if not name.startswith("norm.")}
    head = {"head.weight": torch.randn(3, source.width), "head.bias": torch.randn(3)}
    return {"model": {**tuned, **prefixed("fc_norm.", state), **head}, "epoch": 3}


def _dinov2(source: SourceVit, blocks: str = "blocks.{0}.") -> State:
    registers = {"register_tokens": source.t["reg"][None]} if "reg" in source.t else {}
    return {**fused(source, blocks=blocks), **registers, "mask_token": torch.randn(1, source.width)}


def dinov2(source: SourceVit) -> Any:
    """facebookresearch/dinov2 b8931f7 hub/backbones.py: flat, loaded strictly into models/vision_transformer.py."""
    return _dinov2(source)


def dinov2_run(source: SourceVit) -> Any:
    """facebookresearch/dinov2 b8931f7 train/train.py `teacher_checkpoint.pth`: backbone and both heads, no student."""
    return {"teacher": {**prefixed("backbone.", _dinov2(source)), **dino_head("dino_head."), **dino_head("ibot_head.")}}


def franca(source: SourceVit) -> Any:
    """valeoai/Franca 24f8c60 hubconf.py: blocks in four chunks, whose numbers count through; SwiGLU."""
    backbone = _dinov2(source, blocks="blocks.{1}.{0}.")
    return {"teacher": {**prefixed("backbone.", backbone), **dino_head("dino_head."), **dino_head("ibot_head.")}}


def dinov3(source: SourceVit) -> Any:
    """facebookresearch/dinov3 6876159 hub/backbones.py, models/vision_transformer.py, layers/attention.py: flat.

    The bias of keys is stored, with values, and a mask takes it away.
    """
    state = fused(source, swiglu=("w1", "w2", "w3"))
    for name in [name for name in state if name.endswith("qkv.bias")]:
        third = len(state[name]) // 3
        mask = torch.ones_like(state[name])
        mask[third : 2 * third] = 0
        state[name] = state[name] + 0.3 * (1 - mask)
        state[f"{name}_mask"] = mask
    extra = {"storage_tokens": source.t["reg"][None], "mask_token": torch.randn(1, source.width)}
    norm = {"local_cls_norm.weight": torch.randn(source.width), "local_cls_norm.bias": torch.randn(source.width)}
    return {**state, **extra, **norm, "rope_embed.periods": source.t["periods"].bfloat16()}


def ibot_student(source: SourceVit) -> Any:
    """bytedance/ibot da316d8 README, the 22k files: the student's backbone under `state_dict`, with `masked_embed`."""
    return {"state_dict": {**fused(source), "masked_embed": torch.randn(1, source.width)}}


def clip_tower(source: SourceVit) -> State:
    """openai/CLIP d05afc4 clip/model.py `VisionTransformer`."""
    t = source.t
    state = {"conv1.weight": t["patch.w"], "class_embedding": t["cls"], "positional_embedding": t["pos"]}
    state |= {"proj": t["proj"]} if "proj" in t else {}
    for kind in ("weight", "bias"):
        k = kind[0]
        state |= {f"ln_pre.{kind}": t[f"pre.{k}"], f"ln_post.{kind}": t[f"norm.{k}"]}
        for block in range(source.depth):
            at = f"transformer.resblocks.{block}."
            state |= {f"{at}ln_{number}.{kind}": t[f"{block}.n{number}.{k}"] for number in (1, 2)}
            state[f"{at}attn.in_proj_{kind}"] = torch.cat([t[f"{block}.{part}.{k}"] for part in "qkv"])
            state[f"{at}attn.out_proj.{kind}"] = t[f"{block}.o.{k}"]
            state[f"{at}mlp.c_fc.{kind}"], state[f"{at}mlp.c_proj.{kind}"] = (
                t[f"{block}.fc1.{k}"],
                t[f"{block}.fc2.{k}"],
            )
    return state


def _text_tower(source: SourceVit) -> State:
    text = {name: tensor for name, tensor in clip_tower(twin(source)).items() if name.startswith("transformer.")}
    others = {"positional_embedding": torch.randn(5, 6), "text_projection": torch.randn(6, 6)}
    others |= {"token_embedding.weight": torch.randn(9, 6), "ln_final.weight": torch.randn(6)}
    return {**text, **others, "logit_scale": torch.tensor(4.6)}


def openai_clip(source: SourceVit) -> Any:
    """openai/CLIP d05afc4 clip/model.py `build_model`: both towers, and three sizes that its files hold as tensors."""
    sizes = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(5), "vocab_size": torch.tensor(9)}
    return {**prefixed("visual.", clip_tower(source)), **_text_tower(source), **sizes}


def open_clip(source: SourceVit) -> Any:
    """mlfoundations/open_clip 89fb801 factory.py `load_state_dict`: `state_dict` of a trainer, under DDP."""
    state = {**prefixed("visual.", clip_tower(source)), **_text_tower(source)}
    return {"epoch": 3, "name": "run", "state_dict": prefixed("module.", state), "optimizer": {"state": {}}}


def transformers_vit(source: SourceVit, *, prefix: str = "", scales: str = "", fifth: bool = False) -> State:
    """huggingface/transformers 5.24.0, models/vit, vit_mae, vit_msn, ijepa, dinov2(_with_registers): names of tensors.

    Args:
        source: the network.
        prefix: of a task model.
        scales: `dinov2` for that model's names of norms and layers.
        fifth: as version 5 has them in memory.
    """
    t, dinov2_names = source.t, bool(scales)
    state = {"embeddings.patch_embeddings.projection.weight": t["patch.w"]}
    state |= {"embeddings.patch_embeddings.projection.bias": t["patch.b"]}
    state |= {"embeddings.position_embeddings": t["pos"][None]}
    state |= {"embeddings.cls_token": t["cls"][None, None]} if "cls" in t else {}
    state |= {"embeddings.register_tokens": t["reg"][None]} if "reg" in t else {}
    norms = ("norm1", "norm2") if dinov2_names else ("layernorm_before", "layernorm_after")
    for block in range(source.depth):
        at = f"layers.{block}." if fifth else f"encoder.layer.{block}."
        if dinov2_names:
            state |= {f"{at}layer_scale{n}.lambda1": t[f"{block}.ls{n}"] for n in (1, 2)}
        for kind in ("weight", "bias"):
            k = kind[0]
            state |= {f"{at}{norm}.{kind}": t[f"{block}.n{n}.{k}"] for n, norm in enumerate(norms, 1)}
            names = {p: f"{p}_proj" for p in "qkvo"} if fifth else _FOURTH
            state |= {f"{at}attention.{name}.{kind}": t[f"{block}.{part}.{k}"] for part, name in names.items()}
            if f"{block}.gate.{k}" in t and fifth:
                layers = {"mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "fc2"}
                state |= {f"{at}{name}.{kind}": t[f"{block}.{part}.{k}"] for name, part in layers.items()}
            elif dinov2_names or fifth:
                state |= _mlp(t, block, kind, f"{at}mlp.", ("weights_in", "weights_out"))
            else:
                state[f"{at}intermediate.dense.{kind}"] = t[f"{block}.fc1.{k}"]
                state[f"{at}output.dense.{kind}"] = t[f"{block}.fc2.{k}"]
    state |= {f"layernorm.{kind}": t[f"norm.{kind[0]}"] for kind in ("weight", "bias")}
    state |= {"pooler.dense.weight": torch.randn(4, 4), "embeddings.mask_token": torch.randn(1, 4)}
    task = {"classifier.weight": torch.randn(3, 4), "decoder.layers.0.attention.q_proj.weight": torch.randn(3, 3)}
    return {**prefixed(prefix, state), **(task if prefix else {})}


_FOURTH = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"}


def transformers_dinov3(source: SourceVit, *, prefix: str = "") -> State:
    """huggingface/transformers 5.24.0 models/dinov3_vit: names of tensors; with `model.` before layers in memory."""
    t = source.t
    state = {"embeddings.cls_token": t["cls"][None, None], "embeddings.register_tokens": t["reg"][None]}
    state["embeddings.mask_token"] = torch.randn(1, 1, source.width)
    for kind in ("weight", "bias"):
        k = kind[0]
        state[f"embeddings.patch_embeddings.{kind}"], state[f"norm.{kind}"] = t[f"patch.{k}"], t[f"norm.{k}"]
        for block in range(source.depth):
            at = f"{prefix}layer.{block}."
            state |= {f"{at}norm{n}.{kind}": t[f"{block}.n{n}.{k}"] for n in (1, 2)}
            state |= {f"{at}layer_scale{n}.lambda1": t[f"{block}.ls{n}"] for n in (1, 2)}
            projections = {part: t.get(f"{block}.{part}.{k}") for part in "qkvo"}
            state |= {f"{at}attention.{p}_proj.{kind}": each for p, each in projections.items() if each is not None}
            gated = f"{block}.gate.{k}" in t
            layers = {"gate_proj": "gate", "up_proj": "up"} if gated else {"up_proj": "fc1"}
            layers["down_proj"] = "fc2"
            state |= {f"{at}mlp.{name}.{kind}": t[f"{block}.{part}.{k}"] for name, part in layers.items()}
    return state


@dataclass(frozen=True)
class Directory:
    """A directory as transformers' `save_pretrained` writes it."""

    state: State
    config: dict[str, Any]
    processor: dict[str, Any] | None = None

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in self.state.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config))
        if self.processor is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(self.processor))
        return folder
