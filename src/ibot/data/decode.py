"""From the bytes of a file to upright 8-bit RGB pixels."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 89_478_485
"""Larger images are refused from their header: a few bytes can declare terabytes."""
BACKGROUND = (255, 255, 255)
"""Shown through transparent pixels: what most drawings and product photos were made for."""
SCALED_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
_EXIF_ORIENTATION = 0x0112


class UnreadableImage(Exception):
    """A file that gives no pixels; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(path: str | Path, exif_orientation: Literal["apply", "ignore"] = "apply") -> NDArray[np.uint8]:
    """Read the first frame of an image file as uint8 [H, W, 3].

    The content decides, not the name. 16-bit gray is scaled by its range, not clipped; float images of 0..1 are scaled
    by 255, others by their own range; transparency is composited on white; CMYK, palette and gray become RGB.
    Raises UnreadableImage.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UnreadableImage("missing") from None
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror}") from None
    return decode_bytes(data, exif_orientation)


def decode_bytes(data: bytes, exif_orientation: Literal["apply", "ignore"] = "apply") -> NDArray[np.uint8]:
    """The same from the bytes of a file. Raises UnreadableImage."""
    if not data:
        raise UnreadableImage("empty file")
    image = _open(data)
    try:
        image.load()
        if exif_orientation == "apply" and image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return np.asarray(_to_rgb(image))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UnreadableImage(_reason(error)) from None


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width from the header alone, as stored. Raises UnreadableImage."""
    try:
        width, height = _open(Path(path).read_bytes()).size
    except OSError:
        raise UnreadableImage("missing") from None
    return height, width


def _open(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large images; ours are refused below
        try:
            image = Image.open(BytesIO(data))
        except Image.DecompressionBombError:
            raise UnreadableImage("too many pixels") from None
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
            raise UnreadableImage(_unidentified(data, error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage("too many pixels")
    if image.width < 1 or image.height < 1:
        raise UnreadableImage("bad dimensions")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in SCALED_MODES:
        return Image.fromarray(_scaled(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _scaled(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Gray values of more than 8 bits as bytes."""
    levels = np.nan_to_num(values.astype(np.float64))
    if mode == "F":
        low, high = float(levels.min()), float(levels.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        levels = (levels - low) * (255 / max(high - low, 1e-12))
    else:
        levels = levels / 257
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    text = str(error).lower()
    if "truncated" in text or isinstance(error, EOFError):
        return "truncated"
    return "corrupt"


def _unidentified(data: bytes, error: Exception) -> str:
    """Why Pillow did not recognise a file: a known signature with a bad header, or no image at all."""
    if "truncated" in str(error).lower():
        return "truncated"
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24 and 0 in struct.unpack(">II", data[16:24]):
        return "bad dimensions"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")):
        return "corrupt"
    return "not an image"
