"""Image files into arrays: whole, of a known size, or one sentence that names the file."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from arnas.runtime.errors import UserError, one_line

DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
"""Modes of more than 8 bits a channel, which a conversion would clip to white."""

LONGEST = 20
"""An image that is resized may be so many times as long as wide: more would need much memory."""


def decode(
    data: bytes,
    where: str,
    *,
    grey: bool = False,
    check: Callable[[int, int], None] | None = None,
    side: int | None = None,
    resize: int | None = None,
) -> np.ndarray:
    """Decode an image file of any format that Pillow reads into uint8 of shape (C, H, W).

    Parameters
    ----------
    where
        Names the settings and the file, for messages.
    grey
        Whether one channel is wanted instead of three.
    check
        Called with width and height before the pixels are read; raises `ValueError` to refuse.
    side
        If given, the centre of so many pixels is kept.
    resize
        What the shorter side is resized to before, with antialiasing; by default `side`.

    Raises
    ------
    UserError
        When it is no image, is cut short, has more than 8 bits a channel or several frames, or is
        refused.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in DEEP or _is_deep(image):
                raise ValueError("it has more than 8 bits a channel")
            # Cameras append previews to a JPEG, which is then called MPO; the first is the picture.
            if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
                raise ValueError(f"it has {frames} frames, needed is one")
            if check is not None:
                check(*image.size)
            # Before the resizing: a palette's numbers cannot be averaged.
            channels = image.convert("L" if grey else "RGB")
        pixels = np.asarray(channels if side is None else _resized(channels, side, resize or side))
        return pixels[None] if grey else pixels.transpose(2, 0, 1)
    except UnidentifiedImageError:
        reason = "it is empty" if not data else "its format is unknown"
    except Exception as error:  # Pillow raises many kinds, by format and where the damage is
        reason = one_line(error) or type(error).__name__
    raise UserError(f"{where} cannot be used as an image ({reason}): replace it, or remove it.")


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Return whether the file has more bits a channel than the mode that Pillow gives it.

    Colours of 16 bits get a mode of 8; only the instructions for the decoder tell: ``RGB;16B`` in
    PNG and TIFF, the largest value in PPM.
    """
    for tile in image.tile:
        told = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(raw, str) and re.search(";16[BLN]", raw) for raw in told):
            return True
        if image.format == "PPM" and any(isinstance(top, int) and top > 255 for top in told):
            return True
    return False


def _resized(image: Image.Image, side: int, resize: int) -> Image.Image:
    """Return the centre of an image whose shorter side is made `resize` pixels long."""
    width, height = image.size
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(
            f"it has {width}x{height} pixels, allowed is one side {LONGEST} times the other"
        )
    from torchvision.transforms import functional  # a second and more that few need

    small: Image.Image = functional.resize(image, resize)
    centre: Image.Image = functional.center_crop(small, side)
    return centre


@contextmanager
def strict_images() -> Iterator[None]:
    """Let an image of absurd size be an error, and nothing else that Pillow warns of be heard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
