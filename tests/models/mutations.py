"""Checkpoints, damaged and forged in many ways from one seed: bytes, pickles with right checksums, headers, indexes."""

from __future__ import annotations

import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.models.published import edit_pickle, trained, write_legacy, write_numpy1, write_zip

NAMES = (b"posix\nsystem", b"builtins\neval", b"builtins\ngetattr", b"torch\nload", b"__main__\nNet", b"os\nsystem")
OPCODES = b"()]}.0123acdeijlopqrstubhJKMNUVXBCT\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x91\x92\x93\x94\x95"


def small_vit() -> dict[str, torch.Tensor]:
    """Returns the state dict of a ViT of 64 dimensions, one block and images of 8 pixels."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 64),
        "pos_embed": (1, 5, 64),
        "patch_embed.proj.weight": (64, 3, 4, 4),
        "patch_embed.proj.bias": (64,),
        "blocks.0.attn.qkv.weight": (192, 64),
        "blocks.0.attn.qkv.bias": (192,),
        "blocks.0.attn.proj.weight": (64, 64),
        "blocks.0.mlp.fc1.weight": (64, 64),
        "blocks.0.mlp.fc1.bias": (64,),
        "blocks.0.mlp.fc2.weight": (64, 64),
        **{f"{place}.bias": (64,) for place in ("blocks.0.attn.proj", "blocks.0.mlp.fc2")},
        **{
            f"{place}.{kind}": (64,)
            for place in ("blocks.0.norm1", "blocks.0.norm2", "norm")
            for kind in ("weight", "bias")
        },
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def full() -> dict[str, Any]:
    """Returns the content of a trainer's checkpoint around `small_vit`."""
    weights = {f"backbone.{name}": tensor for name, tensor in small_vit().items()}
    return trained({"student": {f"module.{n}": t for n, t in weights.items()}, "teacher": weights, "epoch": 3})


def _bytes(content: bytes, rng: random.Random, span: int | None = None) -> bytes:
    """Returns bytes that are changed in one to four places of the first `span`."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(min(len(changed), span or len(changed)) or 1) if changed else 0
        length = rng.choice((1, 1, 2, 4, 8, 64, 1000))
        match rng.randrange(8):
            case 0 if changed:
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = rng.randbytes(length)
            case 4:
                changed[at : at + length] = bytes(min(length, len(changed) - at))
            case 5:
                changed[at:at] = changed[at : at + length]
            case 6:
                changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f"))
            case _:
                changed = changed[: max(1, at)] if rng.random() < 0.2 else changed
    return bytes(changed)


def _pickle(content: bytes, rng: random.Random) -> bytes:
    """Returns a pickle that is changed as an attacker would: opcodes, names, numbers."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed[at] = rng.choice(OPCODES)
            case 1:
                changed[at:at] = bytes(rng.choices(OPCODES, k=rng.choice((1, 2, 20))))
            case 2:
                changed[at:at] = b"c" + rng.choice(NAMES) + b"\n" + rng.choice((b"", b")R", b"(U\x01xtR", b"0"))
            case 3:
                changed[at:at] = b"\x8a\x08" + rng.randbytes(8)
            case 4:
                changed[at:at] = rng.choice((b"]", b"(", b"}", b"]" * 3000)) + rng.choice((b"", b"a" * 2999))
            case _:
                changed = bytearray(_bytes(bytes(changed), rng)) or bytearray(b".")
    return bytes(changed)


def _members(path: Path, rng: random.Random) -> None:
    """Rewrites a zip with other members: renamed, missing, twice, packed, longer, shorter."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    match rng.randrange(6):
        case 0:
            del members[at]
        case 1:
            members[at] = (
                rng.choice(("../" + name, "/" + name, name.replace("/", "\\"), name + "x", "\x1b[2J")),
                content,
            )
        case 2:
            members[at] = name, content[: len(content) // 2]
        case 3:
            members[at] = name, content * 3
        case 4:
            members.append((name.replace("data/", "data/../"), content))
        case _:
            members[at] = name, rng.randbytes(len(content))
    packed = zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", packed) as archive:
        for member, data in members:
            archive.writestr(member, data)


def _header(path: Path, rng: random.Random) -> None:
    """Rewrites the header of a safetensors file."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, rest = whole[8 : 8 + length], whole[8 + length :]
    if rng.random() < 0.5:
        header = _bytes(header, rng)
    else:
        value = json.loads(header)
        entry = value[rng.choice([name for name in value if name != "__metadata__"])]
        entry[rng.choice(list(entry))] = rng.choice(
            ([], [1 << 62, 4], [0, 0], "F8_E4M3", "C64", [1 << 40] * 9, None, -1)
        )
        value[rng.choice(("__metadata__", "\x1b[31m", "blocks.999999.x"))] = rng.choice(({"a": "b"}, [[]], entry))
        header = json.dumps(value).encode()
    size = len(header) if rng.random() < 0.9 else rng.randrange(1 << rng.randrange(64))
    path.write_bytes(struct.pack("<Q", size) + header + rest)


def _zip_bytes(path: Path, rng: random.Random) -> None:
    path.write_bytes(_bytes(path.read_bytes(), rng))


def _zip_pickle(path: Path, rng: random.Random) -> None:
    edit_pickle(path, lambda content: _pickle(content, rng))


def _legacy_start(path: Path, rng: random.Random) -> None:
    whole = path.read_bytes()
    start = whole.index(b".", 200) if rng.random() < 0.2 else min(len(whole), 9000)
    path.write_bytes(_pickle(whole[:start], rng) + whole[start:])


def _index(path: Path, rng: random.Random) -> None:
    value = json.loads(path.read_text())
    names = list(value["weight_map"])
    name = rng.choice(names)
    match rng.randrange(5):
        case 0:
            value["weight_map"][name] = rng.choice(
                ("../x", "/etc/passwd", "", ".", "a\x00b", "\ud800", 3, None, "y" * 5000)
            )
        case 1:
            del value["weight_map"][name]
        case 2:
            value["weight_map"]["\x1b[31m" + name] = value["weight_map"][name]
        case 3:
            value = rng.choice(([], {}, {"weight_map": []}, {"weight_map": {name: []}}))
        case _:
            path.write_bytes(_bytes(path.read_bytes(), rng))
            return
    path.write_text(json.dumps(value))


def write_series(folder: Path) -> Path:
    """Writes two safetensors files and their index."""
    tensors, names = small_vit(), dict[str, str]()
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = dict(list(tensors.items())[number - 1 :: 2])
        save_file(part, folder / file)
        names |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return index


def _write_safe(path: Path) -> Path:
    save_file(small_vit(), path, {"format": "pt"})
    return path


Mutation = tuple[str, Callable[[Path], Path], Callable[[Path, random.Random], None]]

MUTATIONS: dict[str, Mutation] = {
    "zip, bytes": ("c.pth", lambda path: write_zip(full(), path), _zip_bytes),
    "zip, pickle": ("c.pth", lambda path: write_zip(full(), path), _zip_pickle),
    "zip, members": ("c.pth", lambda path: write_zip(full(), path), _members),
    "plain zip, pickle": ("c.pth", lambda path: write_zip(small_vit(), path), _zip_pickle),
    "numpy 1, pickle": ("c.pth", lambda path: write_numpy1(full(), path), _zip_pickle),
    "legacy, bytes": ("c.pth", lambda path: write_legacy(full(), path), _zip_bytes),
    "legacy, pickle": ("c.pth", lambda path: write_legacy(full(), path), _legacy_start),
    "safetensors, bytes": ("c.safetensors", _write_safe, _zip_bytes),
    "safetensors, header": ("c.safetensors", _write_safe, _header),
    "index": ("model.safetensors.index.json", lambda path: write_series(path.parent), _index),
}


class Mutator:
    """Makes mutated files of one kind.

    Args:
        kind: of `MUTATIONS`.
        folder: to write to; empty.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        name, write, self._mutate = MUTATIONS[kind]
        self.path = write(folder / name)
        self._original = self.path.read_bytes()

    def file(self, seed: int) -> Path:
        """Returns the file, mutated as the seed says."""
        self.path.write_bytes(self._original)
        self._mutate(self.path, random.Random(seed))
        return self.path
