"""Damage that decoders smooth over: what the format of an image lets anybody find out without a second copy of it.

A PNG has a checksum of each chunk, of which Pillow leaves out those of the pixels. A JPEG has none: its decoder notices
that bytes are missing or left over at the end of a scan, and Pillow drops the notice. Bytes of a JPEG that change
without changing the length of what follows, and most of GIF, BMP, TIFF and WebP, cannot be told from an image.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import CellError, one_line

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file")
"""How libjpeg's notices of lost bytes begin; others are of rare kinds of JPEG that Pillow may know."""


def check_png(content: bytes) -> None:
    """Raises `ValueError` where a chunk of a PNG does not have its checksum, or the last one is missing."""
    view, at = memoryview(content), len(PNG_START)
    while True:
        kind = content[at + 4 : at + 8]
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if end + 4 > len(content):
            raise ValueError("it ends in the middle of a chunk: bytes are missing")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"the chunk {kind.decode('latin-1')!a} at byte {at} does not have its checksum")
        if kind == b"IEND":
            return
        at = end + 4


def check_jpeg_end(content: bytes) -> None:
    """Raises `ValueError` where the mark that ends a JPEG is missing."""
    if content.rfind(_JPEG_END) < 0:
        raise ValueError("its end is missing: bytes are lost")


def decode_jpeg(content: bytes) -> NDArray[np.uint8] | None:
    """Returns the pixels of a JPEG, RGB [H, W, 3], equal to those that Pillow returns.

    Returns:
        None where the decoder is not installed, or does not read this kind (CMYK, arithmetic coding, …).

    Raises:
        ValueError: libjpeg noticed that bytes are missing or left over.
    """
    strict = _strict_decoder()
    if strict is None:
        return None
    try:
        pixels: NDArray[np.uint8] = strict.decode_jpeg(content, strict=True)
    except MemoryError:
        raise
    except Exception as error:  # what it cannot read is for Pillow to say
        if str(error).startswith(_DAMAGE):
            raise ValueError(str(error)) from None
        return None
    return pixels


@cache
def _strict_decoder() -> Any:
    """Returns the module whose decoder reports what libjpeg notices, or None where it is not installed.

    Raises:
        CellError: It is there and cannot be imported: that is no fault of an image.
    """
    try:
        import simplejpeg
    except ModuleNotFoundError:
        return None
    except Exception as error:  # built for another numpy: a ValueError
        raise CellError(f"simplejpeg cannot be imported: {one_line(error)}; pip install --upgrade simplejpeg") from None
    return simplejpeg
