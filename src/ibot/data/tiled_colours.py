"""From the values that a tiled file stores to bytes of red, green and blue, part by part.

As `decode` reads whole pictures; what that scales by the range of all pixels (whole numbers of 32
bits, floats) is scaled here by the range of the type, 0..1 for floats: a part does not know the
rest of its picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.channels.levels import to_levels
from ibot.data.decode import BACKGROUND, UnreadableImage
from ibot.data.tiled_levels import Level

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
"""Photometric interpretations."""
_ALPHA = (1, 2)
"""Kinds of further bands that mean opacity."""


def to_rgb(values: NDArray[Any], level: Level) -> NDArray[np.uint8]:
    """Stored values [h, w, C] of a level as uint8 [h, w, 3].

    Gray and palette become RGB, opacity is composited on white.
    Raises UnreadableImage for values that are no colours.
    """
    page = level.page
    kind, extra = int(page.photometric), tuple(map(int, page.extrasamples))
    colours = values.shape[2] - len(extra)
    if kind == _PALETTE and colours == 1 and page.colormap is not None:
        table = (np.asarray(page.colormap) >> 8).astype(np.uint8).T
        return np.ascontiguousarray(table[values[..., 0]])
    shades = _bytes(values, level)
    if kind == _CMYK and colours == 4:
        whole = Image.fromarray(np.ascontiguousarray(shades[..., :4]), "CMYK")
        return np.asarray(whole.convert("RGB"))
    alone = not extra or (len(extra) == 1 and extra[0] in _ALPHA)
    gray = kind in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and colours == 1 and alone
    if not gray and not (kind in (_RGB, _YCBCR) and colours == 3):
        raise UnreadableImage(
            "no colour picture",
            f"{values.shape[2]} bands of photometric kind {kind}; data.channels=all reads them",
        )
    rgb = np.repeat(shades[..., :1], 3, axis=2) if gray else shades[..., :3]
    if extra and extra[0] in _ALPHA:
        rgb = _on_white(rgb, shades[..., colours], premultiplied=extra[0] == 1)
    return np.ascontiguousarray(rgb)


def _bytes(values: NDArray[Any], level: Level) -> NDArray[np.uint8]:
    """Levels 0..1 as bytes; bytes of a full range stay as they are."""
    inverted = int(level.page.photometric) == _WHITE_IS_ZERO
    bits = level.page.bitspersample
    bits = int(bits) if isinstance(bits, int) and values.dtype.kind in "ui" else 0
    if values.dtype == np.uint8 and bits in (0, 8):
        return 255 - values if inverted else values
    levels = np.nan_to_num(to_levels(values, bits=bits, inverted=inverted), copy=False)
    return np.rint(levels * 255).clip(0, 255).astype(np.uint8)


def _on_white(
    rgb: NDArray[np.uint8], opacity: NDArray[np.uint8], *, premultiplied: bool
) -> NDArray[np.uint8]:
    mode = "RGBa" if premultiplied else "RGBA"
    layer = Image.fromarray(np.dstack([rgb, opacity]), mode).convert("RGBA")
    white = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
    return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
