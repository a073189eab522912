"""Image files: what Pillow would flatten without a word is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from folder_cases import noise
from PIL import Image

from arnas.data.sources.decode import decode
from arnas.runtime.errors import UserError


def with_chunk(data: bytes, place: int, kind: bytes, content: bytes) -> bytes:
    """Put a chunk into a PNG."""
    chunk = struct.pack(">I", len(content)) + kind + content
    return data[:place] + chunk + struct.pack(">I", zlib.crc32(kind + content)) + data[place:]


def deep_png(colour: int, channels: int) -> bytes:
    """Return a PNG of 10x10 pixels with 16 bits a channel, which Pillow cannot write in colour."""
    data = b"\x89PNG\r\n\x1a\n"
    data = with_chunk(
        data, len(data), b"IHDR", struct.pack(">IIBBBBB", 10, 10, 16, colour, 0, 0, 0)
    )
    rows = bytes(10 * (1 + 10 * 2 * channels))
    data = with_chunk(data, len(data), b"IDAT", zlib.compress(rows))
    return with_chunk(data, len(data), b"IEND", b"")


def deep_tiff(channels: int) -> bytes:
    """Return a TIFF of 10x10 colours with 16 bits a channel."""
    tags = [(256, 10), (257, 10), (258, 0), (259, 1), (262, 2), (273, 0), (277, channels)]
    tags += [(278, 10), (279, 200 * channels), (338, 2)]
    tags = tags if channels == 4 else tags[:-1]
    bits = 8 + 2 + 12 * len(tags) + 4
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for tag, value in tags:
        count = channels if tag == 258 else 1
        number = {258: bits, 273: bits + 2 * channels}.get(tag, value)
        data += struct.pack("<HHII", tag, 3 if tag not in {273, 279} else 4, count, number)
    return data + bytes(4) + struct.pack(f"<{channels}H", *[16] * channels) + bytes(200 * channels)


DEEP = {
    "grey PNG": deep_png(0, 1),
    "colour PNG": deep_png(2, 3),
    "grey PNG with alpha": deep_png(4, 2),
    "colour PNG with alpha": deep_png(6, 4),
    "colour TIFF": deep_tiff(3),
    "colour TIFF with alpha": deep_tiff(4),
    "colour PPM": b"P6 10 10 65535\n" + bytes(600),
    "colour PPM in words": b"P3 10 10 1023\n" + b"0 " * 300,
}


@pytest.mark.parametrize("case", DEEP)
def test_colours_of_more_than_8_bits_are_refused(case: str) -> None:
    with Image.open(io.BytesIO(DEEP[case])) as image:
        assert image.convert("RGB").size == (10, 10), "Pillow reads it"
    with pytest.raises(UserError, match=r"it has more than 8 bits a channel"):
        decode(DEEP[case], "x")


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG", "MPO"])
def test_8_bits_and_one_frame_are_read(form: str) -> None:
    image, file = noise(5), io.BytesIO()
    changes = {"WEBP": {"lossless": True}, "MPO": {"save_all": True, "append_images": [noise(6)]}}
    image.save(file, form, **changes.get(form, {}))
    with Image.open(io.BytesIO(file.getvalue())) as again:
        expected = np.asarray(again.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(decode(file.getvalue(), "x"), expected)


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "WEBP"])
def test_several_frames_are_refused(form: str) -> None:
    file = io.BytesIO()
    more = [noise(8), noise(9)]
    noise(7).save(file, form, save_all=True, append_images=more)
    with pytest.raises(UserError, match=r"^x cannot be used as an image \(it has 3 frames, needed"):
        decode(file.getvalue(), "x")
