"""How parts of an image are come by: from its tiles where it has some, else from the whole."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images, Pixels
from ibot.data.sets.subsets import SubsetImages
from ibot.data.tiled import TiledPicture, tiled_picture


def picture_of(images: Images, index: int) -> TiledPicture | None:
    """The picture in the file of an image; None where it has to be read whole: another format, in
    an archive, in memory.

    Raises UnreadableImage.
    """
    while isinstance(images, SubsetImages):
        images, index = images.base, int(images.indices[index])
    if isinstance(images, FileImages) and images.archives is None:
        return tiled_picture(images.path(index))
    return None


@lru_cache(maxsize=1)
def whole(images: Images, index: int) -> Pixels:
    """Pixels of an image [H, W, C]; those of the last one are kept, of which more windows may be
    wanted.

    Not to be written to. Raises UnreadableImage.
    """
    return images.read(index)


class Sizes(NamedTuple):
    """What the headers of all images of a set tell."""

    sizes: NDArray[np.int64]
    """int64 [n, 2], height and width; 0, 0 of those that cannot be read."""
    tiled: NDArray[np.bool_]
    """bool [n], whether parts can be read."""
    bad: list[str]
    """Name and reason of each that cannot be read."""


def sizes_of(images: Images) -> Sizes:
    """Height and width of all images from their headers."""
    found = Sizes(np.zeros((len(images), 2), np.int64), np.zeros(len(images), np.bool_), [])
    for index in range(len(images)):
        try:
            picture = picture_of(images, index)
            found.tiled[index] = picture is not None
            found.sizes[index] = images.size(index) if picture is None else picture.size
        except UnreadableImage as error:
            found.bad.append(f"'{images.name(index)}': {error}")
    return found
