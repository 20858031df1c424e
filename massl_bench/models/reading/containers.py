"""Which container a file is, by its bytes: its name may say anything."""

from __future__ import annotations

from pathlib import Path

from massl_bench.core.errors import RequestError
from massl_bench.core.files import open_regular
from massl_bench.models.reading.bounds import DamagedError
from massl_bench.models.reading.content import Content
from massl_bench.models.reading.pickles import read_legacy, read_zip
from massl_bench.models.reading.safe import begins_safetensors, read_safetensors
from massl_bench.models.reading.tensors import Source


def read_content(path: Path, *, compared: bool = False) -> Content:
    """Returns what a file of torch or safetensors holds; executes nothing, reads no tensor's values.

    Args:
        path: of the file.
        compared: as of `Source`.

    Raises:
        RequestError: It is none of them, or of a kind that is not read; the text is one line.
        RefusedError: It asks for code, or is made to be endless.
        DamagedError: It is damaged; so does any other error but `OSError`.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        first = file.read(512)
    source = Source.of(path, compared=compared)
    if first.startswith(b"PK\x03\x04"):
        return read_zip(source)
    if first[257:262] == b"ustar":
        raise RequestError(
            f"{path}: a tar archive, as torch before 0.1.10 wrote checkpoints: not read; load it with the torch that "
            "wrote it and save it again, or unpack the archive if it holds checkpoints"
        )
    if begins_safetensors(first, source.num_bytes):
        return read_safetensors(source)
    if first.startswith(b"\x80"):
        return read_legacy(source)
    raise DamagedError("")  # what it is instead, the message says
