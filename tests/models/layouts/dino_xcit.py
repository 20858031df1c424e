"""DINO's XCiTs: backbone files in their authors' names, which timm's code takes apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

from tests.models.layouts import Layout, Made, Published, State, filled, on_meta


def their_names(state: State) -> State:
    """facebookresearch/xcit 9a7df94 xcit.py: one projection for the class attention, `pos_embeder`."""
    theirs = {name.replace("pos_embed.", "pos_embeder."): tensor for name, tensor in state.items()}
    for name in [name for name in theirs if name.startswith("cls_attn_blocks.") and ".attn.q." in name]:
        parts = [theirs.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        theirs[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return theirs


def tiny_xcit(seed: int, arch: str = "xcit_small_12_p8_224") -> Any:
    """Returns an XCiT of two blocks and two blocks of class attention."""
    return filled(timm.create_model(arch, num_classes=0, embed_dim=32, depth=2, num_heads=4), seed)


def make(folder: Path) -> Made:
    network = tiny_xcit(3)
    torch.save(their_names(network.state_dict()), folder / "xcit.pth")
    return Made(path=folder / "xcit.pth", source=network, side=32, other_side=48, crop=224, heads=4, patch=8)


def _published(arch: str) -> Published:
    def content() -> Any:
        return their_names(on_meta(lambda: timm.create_model(f"{arch}_224", num_classes=0)))

    return Published(content=content, heads=4 if "nano" in arch else 8, crop=224, arch=f"{arch}_224")


LAYOUT = Layout(
    adapter="dino_xcit",
    read_in="facebookresearch/dino 144f705 hubconf.py; facebookresearch/xcit 9a7df94 xcit.py",
    make=make,
    published={
        arch: _published(arch)
        for arch in ("xcit_small_12_p16", "xcit_small_12_p8", "xcit_medium_24_p16", "xcit_medium_24_p8")
    },
)
