"""How parts of an image are come by: from its tiles where it has some, else from the whole."""

from __future__ import annotations

from functools import lru_cache

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


def sizes_of(images: Images) -> tuple[NDArray[np.int64], list[str]]:
    """Height and width of all images, int64 [n, 2], from their headers; 0, 0 where one cannot be
    read, and why.
    """
    sizes, bad = np.zeros((len(images), 2), np.int64), []
    for index in range(len(images)):
        try:
            tiled = picture_of(images, index)
            sizes[index] = images.size(index) if tiled is None else tiled.size
        except UnreadableImage as error:
            bad.append(f"'{images.name(index)}': {error}")
    return sizes, bad
