"""`local-dir:DIR`: a directory in timm's hub layout, as in timm."""

from __future__ import annotations

from pathlib import Path

from massl_bench.core.errors import RequestError
from massl_bench.models.source import Opening, Reference, Source
from massl_bench.models.sources.checkpoint import opening_of


def _open(reference: Reference) -> Opening:
    folder = Path(reference.rest).expanduser()
    if not (folder / "config.json").is_file():
        found = "no config.json in it" if folder.is_dir() else "no such directory"
        raise RequestError(f"model {reference.text}: {found}; expected a directory that timm saved")
    return opening_of(folder, reference)


SOURCE = Source(
    name="local_dir",
    usage="local-dir:DIR",
    help="A directory in timm's hub layout: config.json and weights.",
    open=_open,
)
