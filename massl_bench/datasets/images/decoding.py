"""From a file to pixels: the only place where images are opened.

An image is data of others. Only the formats of a list are tried, for some of Pillow's others start programs or open
further files; a size is looked at before memory is taken for it; and what lies in the place of a file must be one.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from massl_bench.core.errors import CellError, MasslBenchError, one_line
from massl_bench.core.files import open_regular
from massl_bench.core.wording import asked
from massl_bench.datasets.images.integrity import (
    JPEG_START,
    PNG_START,
    check_jpeg_end,
    check_png,
    decode_jpeg,
)

MAX_PIXELS = 89_478_485
"""As many as fill a quarter of a GiB in RGB, where Pillow begins to warn."""

_FORMATS = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif"),  # of pillow-heif, where it is installed and registered
    "ICO": (".ico",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "MPO": (".mpo",),
    "PCX": (".pcx",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "TGA": (".tga",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
}
"""The formats that are read, by Pillow's name, with the suffixes of their files. Not among them: EPS (Pillow hands it
to Ghostscript), IPTC and others that contain a file of any format, WMF, and containers that need plugins."""

_BY_SUFFIX_ONLY = {"TGA": (".tga",)}
"""Formats without a mark of their own, which any damaged file could be taken for."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the EXIF orientation, as its standard has it (and Pillow's `exif_transpose`, which rewrites the tags too)."""

_TAGGED = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})

ORIENTED = "massl_bench.oriented"
"""In the `info` of a decoded image: whether its file says that it has to be turned, turned or not."""

_LARGE_PIXELS = 1 << 24
_large_one = threading.Lock()
"""Held while a large image is decoded: threads that decode ahead would need the memory of as many."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # there is a limit of our own


class DerivedImage(ABC):
    """An image that is made of another one, each time that it is decoded."""

    @abstractmethod
    def render(self) -> Image.Image:
        """Returns the image in RGB; raises what PIL raises where the other one is damaged."""


EncodedImage = bytes | Path | NDArray[np.uint8] | DerivedImage
"""A file's content, a file, pixels [H, W, 3], or what is made of one of them."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the images of a dataset are decoded."""

    upright: bool = False
    """Whether they are turned as their EXIF orientation says, as viewers do; published scripts do not."""
    strict: bool = False
    """Whether a JPEG is damaged where its decoder only notices something, and goes on."""
    max_pixels: int = MAX_PIXELS
    """Of an image; larger ones are refused."""
    border: int = 0
    """Pixels that are cut off each side."""


STORED = Decoding()
"""The pixels as they are stored: how the published evaluations read their datasets."""


class ImageLimitError(ValueError):
    """An image is larger than what is allowed: nothing is wrong with it."""

    def __init__(self, pixels: str, max_pixels: int) -> None:
        super().__init__(f"{pixels} pixels, more than the limit of {max_pixels:,}")


@dataclass(frozen=True)
class Unreadable:
    """Why an image gave no pixels."""

    what: str
    remedy: str
    damaged: bool
    """Whether the file is at fault, on any machine: only then may it be left out as corrupt."""
    of_a_file: bool = False
    """Whether `what` is of the file that holds many images, and says all there is to say."""

    def error(self, image: str, advice: str = "") -> CellError:
        """Returns what is raised where the image may not be left out; `advice` follows the remedy."""
        return CellError(self.what if self.of_a_file else f"{image}: {self.what}; {self.remedy}{advice}")

    @classmethod
    def of(cls, error: Exception) -> Unreadable:
        """Returns what an exception of `decode_rgb`, of a preprocessing, or of a split that reads its files means."""
        if isinstance(error, MasslBenchError):
            return cls(str(error), "", False, of_a_file=True)
        if isinstance(error, ImageLimitError):
            return cls(str(error), f"allow more with {asked('max_pixels', 'N')}, or remove the image", False)
        if isinstance(error, MemoryError):
            text = "this machine has not enough memory for it"
            return cls(text, "free some, use fewer workers or a smaller batch, or remove the image", False)
        if isinstance(error, OSError) and error.errno is not None:
            return cls(f"it cannot be read: {error.strerror}", "repair or remove it", False)
        return cls(f"corrupt image: {one_line(error)}", "repair or remove it", True)


@cache
def image_suffixes() -> frozenset[str]:
    """Returns the suffixes, in lower case, of the images that can be read on this machine."""
    known = _known_formats()
    return frozenset(suffix for name, suffixes in _FORMATS.items() if name in known for suffix in suffixes)


@cache
def _known_formats() -> frozenset[str]:
    Image.init()
    return frozenset(_FORMATS) & (frozenset(Image.OPEN) | {"MPO"})  # Pillow's JPEG reader returns these


@cache
def _formats_of(suffix: str) -> tuple[str, ...]:
    """Returns the formats to try for a file of that suffix; the usual ones first."""
    usual = ("JPEG", "PNG", "WEBP")
    tried = [*usual, *sorted(_known_formats() - {*usual, "MPO"})]
    return tuple(name for name in tried if suffix in _BY_SUFFIX_ONLY.get(name, (suffix,)))


def decode_rgb(encoded: EncodedImage, decoding: Decoding = STORED) -> Image.Image:
    """Returns the image in RGB, decoded completely; transparency is left out.

    Of 16-bit values the high byte is taken, as PIL does for colours (it clips grey ones).

    Raises:
        ImageLimitError: It has more pixels than are allowed.
        ValueError: The pixels have 32 bits, of which nothing says what is white; or the border is all there is.
        Exception: What PIL raises for a damaged image, which can be anything.
    """
    if isinstance(encoded, DerivedImage):
        return encoded.render()
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded)
    with open_image(encoded, decoding) as image:
        if image.width * image.height <= _LARGE_PIXELS:
            return _inner(_rgb(image, decoding), decoding.border)
        with _large_one:
            return _inner(_rgb(image, decoding), decoding.border)


def _inner(image: Image.Image, border: int) -> Image.Image:
    if not border:
        return image
    if min(image.size) <= 2 * border:
        raise ValueError(f"its {image.width} × {image.height} pixels are nothing but the border of {border}")
    return image.crop((border, border, image.width - border, image.height - border))


def decode_mask(encoded: bytes | Path) -> Image.Image:
    """Returns the values of an image of one channel of 8 bits, those of a palette image as its palette is indexed.

    Raises:
        ValueError: It has several channels, or other values.
        Exception: What PIL raises for a damaged image.
    """
    with open_image(encoded, STORED) as image:
        image.load()
        if image.mode not in ("L", "P"):
            raise ValueError(f"expected a mask of one channel of 8 bits, found the mode {image.mode}")
        return Image.frombytes("L", image.size, image.tobytes())


def _rgb(image: Image.Image, decoding: Decoding) -> Image.Image:
    stored_as, turn = image.format, turn_of(image)
    pixels_HW3 = jpeg_pixels(image, decoding) if stored_as == "JPEG" else None
    if pixels_HW3 is not None:
        rgb = Image.fromarray(pixels_HW3)
    else:
        image.load()
        rgb = _without_other_channels(image, stored_as)
    if turn is None:
        return rgb
    if decoding.upright:
        rgb = rgb.transpose(turn)
    rgb.info[ORIENTED] = True
    return rgb


def jpeg_pixels(image: Image.Image, decoding: Decoding) -> NDArray[np.uint8] | None:
    """Returns the pixels [H, W, 3] of an opened JPEG as they are stored, by a decoder that is faster than Pillow.

    Returns:
        The pixels that Pillow would return; None where the decoder is not there, or not for this kind, or notices
        something that Pillow may read on behind.

    Raises:
        ValueError: It notices something, and `decoding` is strict.
    """
    content = image.fp  # type: ignore[attr-defined]  # of an opened image
    # Colours of printing are converted by Pillow, a little otherwise.
    if image.mode not in ("RGB", "L") or not isinstance(content, io.BytesIO):
        return None
    try:
        return decode_jpeg(content.getvalue())
    except ValueError:
        if decoding.strict:
            raise
        return None


def _without_other_channels(image: Image.Image, stored_as: str | None) -> Image.Image:
    if image.mode == "RGB":
        return image
    # The formats whose grey values have 16 bits at most, wherever PIL gives them as 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and stored_as in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
    if image.mode == "P":
        image.info.pop("transparency", None)  # PIL warns where it is left out in the conversion
    return image.convert("RGB")


@contextmanager
def open_image(encoded: bytes | Path, decoding: Decoding = STORED) -> Iterator[Image.Image]:
    """Yields an image whose header was read; a PNG was checked as a whole, and the end of a JPEG looked for.

    Raises:
        OSError: There is no regular file.
        ImageLimitError: It has more pixels than are allowed.
        Exception: As of `decode_rgb`.
    """
    if isinstance(encoded, bytes):
        yield _opened(io.BytesIO(encoded), encoded[: len(PNG_START)], "", decoding)
        return
    with open_regular(encoded) as file:
        start = file.read(len(PNG_START))
        file.seek(0)
        # What bears its own marks of being whole is read whole, to be checked.
        whole = start.startswith((PNG_START, JPEG_START))
        yield _opened(io.BytesIO(file.read()) if whole else file, start, encoded.suffix.lower(), decoding)


def _opened(file: BinaryIO, start: bytes, suffix: str, decoding: Decoding) -> Image.Image:
    if not start:
        raise ValueError("there is no image")
    if isinstance(file, io.BytesIO):
        if start == PNG_START:
            check_png(file.getvalue())
        elif decoding.strict and start.startswith(JPEG_START):
            check_jpeg_end(file.getvalue())
    # The limit is the user's in place of Pillow's own.
    if Image.MAX_IMAGE_PIXELS is not None and decoding.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = decoding.max_pixels
    try:
        image = Image.open(file, formats=_formats_of(suffix))
    except UnidentifiedImageError:
        raise ValueError("no image of a format that is read here") from None
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        pixels = f"it has {int(found[1]):,}" if found else "it has far too many"
        raise ImageLimitError(pixels, decoding.max_pixels) from None
    if image.width * image.height > decoding.max_pixels:
        raise ImageLimitError(f"it has {image.width:,} × {image.height:,}", decoding.max_pixels)
    return image


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Returns what makes an image upright by its EXIF orientation; None where it is, or nothing says otherwise."""
    if _TAGGED.isdisjoint(image.info):
        return None  # most images; TIFF, which keeps the tag elsewhere, is turned by Pillow
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
