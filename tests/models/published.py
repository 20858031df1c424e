"""Checkpoints as official trainers write them: what they keep beside the weights, in every container."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


def trained(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a checkpoint with an optimizer whose rates come from schedules: arrays of numpy."""
    schedule = np.linspace(0.5, 0.0, 5)
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    parameter.grad = torch.ones(3)
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = schedule[1], np.float32(0.1)
    scaler = {"scale": 65536.0, "growth_factor": 2.0}
    return {
        **content,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(arch="vit_small", lr=0.0005),
        "fp16_scaler": scaler,
        "loss": np.float32(1.5),
    }


def write_zip(content: Any, path: Path) -> Path:
    """Writes as `torch.save` does today."""
    torch.save(content, path)
    return path


def write_legacy(content: Any, path: Path) -> Path:
    """Writes as `torch.save` did before 1.6, and does on request."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def write_numpy1(content: Any, path: Path) -> Path:
    """Writes as under numpy 1, whose pickles name `numpy.core`."""
    return edit_pickle(write_zip(content, path), lambda pickled: pickled.replace(b"cnumpy._core.", b"cnumpy.core."))


WRITERS = {"zip": write_zip, "legacy": write_legacy, "numpy1": write_numpy1}


def edit_pickle(path: Path, edit: Any) -> Path:
    """Rewrites a zip checkpoint with another pickle in it, everything else as it was."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, edit(content) if name.endswith("/data.pkl") else content)
    return path


def with_pickle(path: Path, pickled: bytes, **members: bytes) -> Path:
    """Writes a zip checkpoint around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in {"version": b"3\n", "byteorder": b"little", **members}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def pickled(value: Any, protocol: int = 2) -> bytes:
    """Returns the pickle of a value."""
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()
