"""Pixels of every kind of file that is no ordinary photograph."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from massl_bench.datasets import corrupt_images, decode_rgb
from massl_bench.datasets.images.decoding import STORED, Decoding, jpeg_pixels, open_image
from massl_bench.datasets.splits import FileSplit

RAMP = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_values_are_scaled(kind: str) -> None:
    pixels_HW3 = np.asarray(decode_rgb(encoded(Image.fromarray(RAMP), kind)))
    assert np.array_equal(pixels_HW3, np.repeat((RAMP // 256)[..., None], 3, axis=2))


def test_16_bit_grey_values_of_either_byte_order() -> None:
    twelve_bits = b"P5\n64 64\n4095\n" + (RAMP >> 4).astype(">u2").tobytes()
    assert np.abs(np.asarray(decode_rgb(twelve_bits))[..., 0].astype(int) - RAMP // 256).max() <= 1
    big = encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF")
    assert np.array_equal(np.asarray(decode_rgb(big))[..., 0], RAMP // 256)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_values_are_refused(dtype: type[np.generic], tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 4096).astype(dtype).reshape(64, 64)).save(tmp_path / "one.tiff")
    split = FileSplit(tmp_path, ["one.tiff"], None, None)
    assert corrupt_images(split) == [
        "one.tiff: corrupt image: 32-bit pixels have no defined range; save it with 8 or 16 bits"
    ]


@pytest.mark.parametrize("transparency", [bytes(range(256)), b"\x00\x80", 3])
def test_transparent_palettes_keep_their_colours(transparency: bytes | int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_rgb(encoded(image, "PNG", transparency=transparency))
    assert found.tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("saved", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 20}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_faster_decoder_returns_pillows_pixels(mode: str, saved: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **saved)
    with open_image(buffer.getvalue()) as image:
        fast = jpeg_pixels(image, STORED)
    assert fast is not None
    np.testing.assert_array_equal(fast, np.asarray(Image.open(buffer).convert("RGB")))


@pytest.mark.parametrize("lost", [2, 300])
def test_what_pillow_reads_on_behind_is_read_as_pillow_reads_it(lost: int) -> None:
    """The faster decoder stops at lost bytes; unless asked to be strict, Pillow is the judge."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(buffer, "JPEG", quality=95)
    damaged = buffer.getvalue()[:-lost]
    found = []
    for decode in (decode_rgb, lambda content: Image.open(io.BytesIO(content)).convert("RGB")):
        try:
            found.append(np.asarray(decode(damaged)).tobytes())
        except OSError as error:
            found.append(str(error).encode())
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"lost|missing|[Pp]remature"):
        decode_rgb(damaged, Decoding(strict=True))
