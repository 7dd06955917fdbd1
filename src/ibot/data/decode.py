"""From the bytes of a file to upright 8-bit RGB pixels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ibot.process import ignored_warnings

MAX_PIXELS = 89_478_485
"""Larger images are refused from their header: a few bytes can declare terabytes."""
BACKGROUND = (255, 255, 255)
"""Shown through transparent pixels: what most drawings and product photos were made for."""
Orientation = Literal["apply", "ignore"]
"""Whether a picture is turned upright by its EXIF tag."""
SCALED_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation; Pillow's rotations are counter-clockwise."""


class UnreadableImage(Exception):
    """A file that gives no pixels; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(path: str | Path, exif_orientation: Orientation = "apply") -> NDArray[np.uint8]:
    """Read the first frame of an image file as uint8 [H, W, 3].

    The content decides, not the name. 16-bit gray is scaled by its range, not clipped; float images of 0..1 are scaled
    by 255, others by their own finite range; transparency is composited on white; CMYK, palette and gray become RGB.
    Raises UnreadableImage.
    """
    try:
        # Not read in one piece: a slide of many gigabytes is refused from its header.
        with open(path, "rb") as file:  # noqa: PTH123 - a path object costs 8 us per image
            return decode_file(file, exif_orientation)
    except FileNotFoundError:
        raise UnreadableImage("missing") from None
    except OSError as error:
        raise UnreadableImage(_reason(error)) from None


def decode_file(file: BinaryIO, exif_orientation: Orientation = "apply") -> NDArray[np.uint8]:
    """As `decode`, of an open file or a buffer that stands at its start.

    Raises UnreadableImage, and OSError where the first bytes cannot be read.
    """
    with ignored_warnings():  # Pillow warns of large images and of damaged EXIF data
        image = _open(file)
        try:
            image.load()
            if exif_orientation == "apply" and (turn := _UPRIGHT.get(_orientation(image))) is not None:
                image = image.transpose(turn)
            return np.asarray(_to_rgb(image))
        except Exception as error:  # on damaged bytes Pillow's readers raise almost anything
            raise UnreadableImage(_reason(error)) from None


def _open(file: BinaryIO) -> Image.Image:
    """The image with its header read, its pixels not. Raises UnreadableImage."""
    head = file.read(32)
    if not head:
        raise UnreadableImage("empty file")
    file.seek(0)
    try:
        image = Image.open(file)
    except Image.DecompressionBombError:
        raise UnreadableImage("too many pixels") from None
    except Exception as error:  # as above
        raise UnreadableImage(_unrecognised(file, head, error)) from None
    if image.format == "EPS":
        raise UnreadableImage("not an image")  # a program, which Pillow would hand to Ghostscript
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage("too many pixels")
    if image.width < 1 or image.height < 1:
        raise UnreadableImage("bad dimensions")
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 where it is absent or the EXIF data are damaged, since the pixels may be whole."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # as above
        return 1


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
    """Gray values of more than 8 bits as bytes; float values that are not numbers become the lowest one."""
    levels = values.astype(np.float64)
    if mode == "F":
        finite = levels[np.isfinite(levels)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        levels = np.nan_to_num(levels, nan=low, posinf=high, neginf=low)
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        levels = (levels - low) * (255 / max(high - low, 1e-12))
    else:
        levels = levels / 257
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "too much memory"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"  # the disk's fault, not the file's
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return "truncated"
    return "corrupt"


def _unrecognised(file: BinaryIO, head: bytes, error: Exception) -> str:
    """Why Pillow did not open a file: a known signature with a bad header, or no image at all."""
    if "truncated" in str(error).lower():
        return "truncated"
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24 and 0 in struct.unpack(">II", head[16:24]):
        return "bad dimensions"
    if head.startswith((b"II*\0", b"MM\0*")) and _has_tiff_fields(file):
        return "unsupported TIFF layout"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")):
        return "corrupt"
    return "not an image"


def _has_tiff_fields(file: BinaryIO) -> bool:
    """Whether the header of a TIFF is whole, so that it was refused for its bands or bits."""
    file.seek(0)
    try:
        TiffImageFile(file)
    except SyntaxError as error:
        return "unknown pixel mode" in str(error) or "samples per pixel" in str(error)
    except Exception:  # as above
        return False
    return False
