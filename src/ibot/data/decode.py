"""From the bytes of a file to upright 8-bit RGB pixels."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ibot.config.reading import MAX_PIXELS
from ibot.data.formats import heif_reader, is_heif
from ibot.data.quiet import quiet

BACKGROUND = (255, 255, 255)
"""Shown through transparent pixels: what most drawings and product photos were made for."""
Orientation = Literal["apply", "ignore"]
"""Whether a picture is turned upright by its EXIF tag."""
_NATIVE_ORDER = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
"""Pillow's names of levels in big-endian order, and of the same in the machine's."""
SCALED_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
_EXIF_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _BANDS, _SAMPLE_FORMAT = 258, 262, 277, 339
"""Tags of a TIFF: bits of a level; 0 where the lowest level is white; bands; 2 for signed
levels."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation; Pillow's rotations are
counter-clockwise."""
_TRANSPOSED = range(5, 9)
"""Orientations of pictures whose height is stored as their width."""


class UnreadableImage(Exception):
    """A file that gives no pixels; `reason` says why in a few words, the text what to do."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason


def decode(
    path: str | Path, exif_orientation: Orientation = "apply", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read the first frame of an image file as uint8 [H, W, 3].

    The content decides, not the name. Gray of other than 8 bits becomes bytes: up to 16 bits by the
    range of its type, signed or not; 32 bits as levels of 8 or of 16 bits where they fit, else by
    their own range; floats of 0..1 times 255, others by their own finite range; where the lowest
    level of a TIFF is white, so it is here. Transparency is composited on white; CMYK, palette and
    gray become RGB. Images of more than `max_pixels` pixels are refused.
    Raises UnreadableImage.
    """
    with opened(path) as file:
        return decode_file(file, exif_orientation, max_pixels)


def decode_file(
    file: BinaryIO, exif_orientation: Orientation = "apply", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """As `decode`, of an open file or a buffer that stands at its start.

    Raises UnreadableImage, and OSError where the first bytes cannot be read.
    """
    with quiet():
        image = open_image(file, max_pixels)
        return pixels_of(image, exif_orientation)


def pixels_of(image: Image.Image, exif_orientation: Orientation = "apply") -> NDArray[np.uint8]:
    """As `decode`, of an image that Pillow has opened. Raises UnreadableImage."""
    try:
        image.load()
        turn = turn_upright(image) if exif_orientation == "apply" else None
        upright = _to_rgb(image)
        return np.asarray(upright if turn is None else upright.transpose(turn))
    except Exception as error:  # on damaged bytes Pillow's readers raise almost anything
        raise UnreadableImage(_reason(error)) from None


def image_size(
    path: str | Path, exif_orientation: Orientation = "apply", max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Height and width of what `decode` gives, from the header. Raises UnreadableImage."""
    with opened(path) as file:
        return file_size(file, exif_orientation, max_pixels)


def file_size(
    file: BinaryIO, exif_orientation: Orientation = "apply", max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """As `image_size`, of an open file or a buffer that stands at its start."""
    with quiet():
        image = open_image(file, max_pixels)
        orientation = orientation_of(image)
        if orientation != 1 and isinstance(image, TiffImageFile):
            # Pillow's versions differ in whether loading turns the pixels of a TIFF.
            file.seek(0)
            return decode_file(file, exif_orientation, max_pixels).shape[:2]
        lies = exif_orientation == "apply" and orientation in _TRANSPOSED
        return (image.width, image.height) if lies else (image.height, image.width)


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A file to be read; what keeps it from that is raised as UnreadableImage."""
    try:
        # Not read in one piece: a slide of many gigabytes is refused from its header.
        with open(path, "rb") as file:  # noqa: PTH123 - a path object costs 8 us per image
            yield file
    except FileNotFoundError:
        raise UnreadableImage("missing") from None
    except OSError as error:
        raise UnreadableImage(_reason(error)) from None


def open_image(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image with its header read, its pixels not. Raises UnreadableImage."""
    head = file.read(32)
    if not head:
        raise UnreadableImage("empty file")
    file.seek(0)
    try:
        image = _identified(file, head)
    except Image.DecompressionBombError:
        raise UnreadableImage(
            "too many pixels", "Pillow's reader of this format allows no more"
        ) from None
    except Exception as error:  # as above
        raise UnreadableImage(_unrecognised(file, head, error)) from None
    if image.format == "EPS":
        raise UnreadableImage("not an image")  # a program, which Pillow would hand to Ghostscript
    if image.width * image.height > max_pixels:
        shape = f"{image.width} x {image.height}"
        raise UnreadableImage(
            "too many pixels",
            f"{shape}; data.max_pixels or --max-pixels allows more, data.window or --window reads "
            "it in windows",
        )
    if image.width < 1 or image.height < 1:
        raise UnreadableImage("bad dimensions")
    if isinstance(image, TiffImageFile):
        _mend_byte_order(image)
    return image


def holds_more(path: str | Path) -> tuple[bool, bool]:
    """Whether a file has further pages or frames, and bands, than are read; damaged ones: no."""
    with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123
        return file_holds_more(file)
    return False, False


def is_gray(path: str | Path) -> bool:
    """Whether a file holds one band of levels, by its header; damaged ones: no."""
    with suppress(UnreadableImage), opened(path) as file, quiet():
        return open_image(file, sys.maxsize).mode in ("1", "L", *SCALED_MODES)
    return False


def file_holds_more(file: BinaryIO) -> tuple[bool, bool]:
    """As `holds_more`, of an open file or a buffer that stands at its start."""
    with quiet(), suppress(OSError, UnreadableImage):
        image = open_image(file, sys.maxsize)
        with suppress(Exception):  # as above
            return bool(getattr(image, "is_animated", False)), _tag(image, _BANDS, 1) > len(
                image.getbands()
            )
    return False, False


def _mend_byte_order(image: TiffImageFile) -> None:
    """What libtiff unpacks is in the machine's order; Pillow takes some of it for the file's."""
    for i, tile in enumerate(image.tile):
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple):
            order = _NATIVE_ORDER.get(tile.args[0], tile.args[0])
            image.tile[i] = tile._replace(args=(order, *tile.args[1:]))


def _identified(file: BinaryIO, head: bytes) -> Image.Image:
    if is_heif(head) and (heif := heif_reader()) is not None:
        return heif(file)
    try:
        return Image.open(file)
    except Image.DecompressionBombError:
        # Pillow's limit is one for the whole process, and others may have set it; ours is checked
        # by the caller.
        for name in Image.ID:
            factory, accept = Image.OPEN[name]
            if accept is None or accept(head[:16]) is True:
                file.seek(0)
                with suppress(SyntaxError, IndexError, TypeError, struct.error):
                    return factory(file, "")
        raise


def turn_upright(image: Image.Image) -> Image.Transpose | None:
    """What turns a picture upright by its EXIF tag; None where it stands so."""
    return _UPRIGHT.get(orientation_of(image))


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation; 1 where it is absent or damaged, since the pixels may be whole."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # as above
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in SCALED_MODES or (image.mode == "L" and _is_signed(image)):
        return Image.fromarray(_scaled(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(
            Image.new("RGBA", image.size, (*BACKGROUND, 255)), layer
        ).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> NDArray[np.uint8]:
    """Gray levels of other types than unsigned bytes as such; no numbers become the lowest."""
    levels = _stored(image)
    low, high = _range(image, levels)
    shades = (levels.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    if _tag(image, _PHOTOMETRIC, 1) == 0:
        shades = 255 - shades
    # The one level of a PNG that is transparent.
    if isinstance(hidden := image.info.get("transparency"), int):
        shades[levels == hidden] = 255
    return np.rint(shades).clip(0, 255).astype(np.uint8)


def _stored(image: Image.Image) -> NDArray[Any]:
    """The levels in the file, all finite; Pillow mistakes signed bytes and unsigned 32 bits."""
    values = np.asarray(image)
    if image.mode == "F":
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        return np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if image.mode == "L":
        return values.view(np.int8)
    if image.mode == "I" and _tag(image, _BITS, 16) == 32 and not _is_signed(image):
        return values.view(np.uint32)
    return values


def _range(image: Image.Image, levels: NDArray[Any]) -> tuple[float, float]:
    """The levels that become black and white."""
    bits = _tag(image, _BITS, 16)  # what Pillow knows in 32 bits of other formats is scaled to 16
    if image.mode != "F" and bits <= 16:
        steps = 2**bits
        return (-steps / 2, steps / 2 - 1) if _is_signed(image) else (0.0, steps - 1.0)
    low, high = float(levels.min()), float(levels.max())
    for white in (1.0,) if image.mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= white:
            return 0.0, white
    return low, high


def _is_signed(image: Image.Image) -> bool:
    return _tag(image, _SAMPLE_FORMAT, 1) == 2


def _tag(image: Image.Image, tag: int, otherwise: int) -> int:
    """First value of a TIFF's tag; `otherwise` where it is absent, and of other formats."""
    value = image.tag_v2.get(tag, otherwise) if isinstance(image, TiffImageFile) else otherwise
    return int(value[0] if isinstance(value, tuple) else value)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "too much memory"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for Pillow's reader of this format"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"  # the disk's fault, not the file's
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return "truncated"
    return "corrupt"


def _unrecognised(file: BinaryIO, head: bytes, error: Exception) -> str:
    """Why Pillow did not open a file: a known signature with a bad header, or no image at all."""
    if "truncated" in str(error).lower():
        return "truncated"
    if (
        head.startswith(b"\x89PNG\r\n\x1a\n")
        and len(head) >= 24
        and 0 in struct.unpack(">II", head[16:24])
    ):
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
