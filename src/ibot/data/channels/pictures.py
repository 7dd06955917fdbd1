"""PNG of 8 and 16 bits, and all that the ordinary decoder reads, as levels."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.config.reading import RGB
from ibot.data.channels.levels import Levels, to_levels
from ibot.data.channels.stored import Header, How, is_transposed, require_size, upright
from ibot.data.decode import SCALED_MODES, UnreadableImage, decode_file, open_image, orientation_of
from ibot.data.quiet import quiet
from ibot.errors import MissingExtra

_PNG_NAMES = {0: ("1",), 2: RGB, 4: ("1", "alpha"), 6: (*RGB, "alpha")}
"""Of the colour types of PNG; palettes (3) are for the ordinary decoder."""
_DEPTH, _COLOUR = 24, 25
"""Where bits and colour type stand in a PNG."""


def picture_header(file: BinaryIO, how: How) -> Header:
    """Size and channels. Raises UnreadableImage."""
    with quiet():
        image = open_image(file, how.max_pixels)
        names = _names(file, image)
        require_size(image.height, image.width, len(names), how)
        lies = how.exif_orientation == "apply" and is_transposed(orientation_of(image))
        sides = image.height, image.width
        return Header(sides[lies], sides[not lies], names)


def read_picture(file: BinaryIO, how: How) -> Levels:
    """All channels: what is stored, but colours of palettes and other spaces as red, green, blue.

    Raises UnreadableImage, MissingExtra without imagecodecs for a PNG.
    """
    with quiet():
        image = open_image(file, how.max_pixels)
        names = _names(file, image)
        orientation = orientation_of(image) if how.exif_orientation == "apply" else 1
        if image.format == "PNG" and image.mode != "P":
            values = _png(file)
        elif image.mode in SCALED_MODES:
            values = _scaled(image)
        else:
            file.seek(0)
            colours = decode_file(file, how.exif_orientation, how.max_pixels)
            return Levels(to_levels(colours[..., : len(names)], no_data=how.no_data), names)
    levels = to_levels(values.reshape(*values.shape[:2], -1), no_data=how.no_data)
    return Levels(np.ascontiguousarray(upright(levels, orientation)), names)


def _names(file: BinaryIO, image: Image.Image) -> tuple[str, ...]:
    if image.format == "PNG" and image.mode != "P":
        return _PNG_NAMES[_byte(file, _COLOUR)]
    return ("1",) if image.mode in ("L", "1", *SCALED_MODES) else RGB


def _png(file: BinaryIO) -> NDArray[Any]:
    """Values of a PNG as stored: Pillow would make bytes of colours of 16 bits."""
    try:
        from imagecodecs import png_decode
    except ImportError:
        raise MissingExtra("imagecodecs", "channels") from None
    channels = len(_PNG_NAMES[_byte(file, _COLOUR)])
    depth = _byte(file, _DEPTH)
    file.seek(0)
    try:
        values = png_decode(file.read())
    except Exception as error:  # its own kinds
        words = " ".join(str(error).split())[:100]
        raise UnreadableImage("truncated" if "too small" in words else "corrupt", words) from None
    values = values.reshape(*values.shape[:2], -1)
    # One level that means transparent has become a channel of its own.
    return values[..., :channels].astype(np.uint16 if depth == 16 else np.uint8, copy=False)


def _scaled(image: Image.Image) -> NDArray[Any]:
    """Gray of 16 bits or floats; what Pillow knows in 32 bits, of formats but TIFF, has 16."""
    try:
        image.load()
    except Exception:  # on damaged bytes Pillow's readers raise almost anything
        raise UnreadableImage("corrupt") from None
    values = np.asarray(image)
    return values if values.dtype.kind == "f" else values.astype(np.uint16)


def _byte(file: BinaryIO, place: int) -> int:
    file.seek(place)
    return file.read(1)[0]
