"""What the views of an image need of it: of a picture larger than memory a part, in the coarsest
level that has as many pixels as they show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ibot.config.schema import AugmentConfig
from ibot.data.params import num_views, view_params, view_size
from ibot.data.sets.images import Images, Pixels, RegionImages, Room, read_into
from ibot.types import ViewParams


@dataclass(frozen=True, slots=True)
class Part:
    """What was read of an image."""

    pixels: Pixels
    """[h, w, C]."""
    size: tuple[int, int]
    """Height and width of the whole image."""
    place: tuple[float, float, float, float] | None = None
    """Where the pixels lie in it: top, left, height, width; None: they are all of it."""


def read_part(
    images: Images,
    index: int,
    config: AugmentConfig,
    seed: int,
    epoch: int,
    room: Room | None = None,
) -> Part:
    """What the views of an image in an epoch need of it; all of it where parts cost as much.

    Its size comes first, from the header, then the parameters of the views, then the pixels of the
    boxes of all views together. room: where whole images may be laid. Raises UnreadableImage.
    """
    # The first says it of most: a protocol's own check costs 30 us, as much as to draw a mask.
    if not hasattr(images, "read_level") or not isinstance(images, RegionImages):
        pixels = images.read(index) if room is None else read_into(images, index, room)
        return Part(pixels, pixels.shape[:2])
    size = images.size(index)
    params = view_params(config, seed, epoch, np.array([index]), np.array([size]))
    boxes = params.box[0].astype(np.int64)
    top, left = boxes[:, :2].min(0).tolist()
    bottom, right = (boxes[:, :2] + boxes[:, 2:]).max(0).tolist()
    # A turned view takes its rows from columns.
    shown = np.array([max(view_size(config, view)) for view in range(num_views(config))])
    most = float((boxes[:, 2:].min(1) / shown).min())
    pixels, place = images.read_level(index, (top, left, bottom - top, right - left), most)
    return Part(pixels, size, place)


def in_parts(params: ViewParams, parts: Sequence[Part]) -> ViewParams:
    """The parameters of the views of whole images, with boxes in pixels of what was read of them.

    Of the largest level they are the same boxes; of others they are rounded to its pixels.
    """
    if all(part.place is None for part in parts):
        return params
    box = params.box.copy()
    for row, part in enumerate(parts):
        if part.place is not None:
            box[row] = _in_part(params.box[row], part.pixels.shape[:2], part.place)
    return replace(params, box=box)


def _in_part(
    boxes: NDArray[np.int32], size: tuple[int, int], place: tuple[float, float, float, float]
) -> NDArray[np.int32]:
    """Boxes [V, 4] of a whole image in pixels of a part of it, inside of the part."""
    inside = np.array(size)
    scale = inside / np.array(place[2:])
    first = np.rint((boxes[:, :2] - np.array(place[:2])) * scale).astype(np.int64)
    first = first.clip(0, inside - 1)
    length = np.rint(boxes[:, 2:] * scale).astype(np.int64).clip(1, inside - first)
    return np.concatenate([first, length], axis=1).astype(np.int32)
