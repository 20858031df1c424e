"""From a path to a checkpoint's content: the file of weights, and the configuration that lies beside it."""

from __future__ import annotations

from pathlib import Path

from massl_bench.models.content import Content, Packing
from massl_bench.models.reading import open_checkpoint
from massl_bench.models.weights_path import NAMED_BY_LIBRARIES, has_config, weights_of


def open_content(path: Path, *, compared: bool = False) -> Content:
    """Returns the content of a checkpoint file, or of a directory with one.

    The JSON files of a directory belong to its weights; those beside a single file do where it is called as libraries
    call the weights of a `config.json`.

    Args:
        path: of the file or directory.
        compared: whether its files, as they are now, were compared with their checksums before.

    Raises:
        RequestError: There is no checkpoint, or which of several is meant is not clear; or it is not safe to read.
    """
    file = weights_of(path)
    folder = file.parent if path.is_dir() or (file.name in NAMED_BY_LIBRARIES and has_config(file.parent)) else None
    opened = open_checkpoint(file, compared=compared)
    parts = [part for part in opened.files if part != file]
    packing = Packing(container=opened.container, globals=tuple(opened.globals), stand_ins=dict(opened.stand_ins))
    return Content(file=file, tree=opened.content, metadata=opened.metadata, folder=folder, read=parts, packing=packing)
