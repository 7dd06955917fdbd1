"""How parts of an image are come by: from its tiles where it has some, else from the whole."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import RGB
from ibot.data.channels.images import ChannelImages
from ibot.data.channels.levels import Levels
from ibot.data.channels.sources import LevelFiles
from ibot.data.channels.tiff import page_levels
from ibot.data.decode import UnreadableImage
from ibot.data.regions import Read, read_colours
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images, Pixels
from ibot.data.sets.subsets import SubsetImages
from ibot.data.tiled import Box, TiledPicture, tiled_picture
from ibot.data.tiled_levels import Level

_LEVELS = (0, 1, 2, 3)
"""Photometric interpretations whose values are levels part by part: gray, RGB, palette."""
_PALETTE, _LUMA = 3, 6
"""That of a palette; and of luma and colour difference."""
_COLOUR_CODECS = (6, 7, 33003, 33005)
"""Compressions (JPEG, Aperio's JPEG 2000) of which tiles are decoded to RGB."""


class Tiles(NamedTuple):
    """A picture that is read in parts, and how."""

    picture: TiledPicture
    read: Read
    """As uint8 [h, w, 3], or float32 [h, w, C] with NaN where nothing was measured."""


def tiles_of(images: Images, index: int) -> Tiles | None:
    """The picture in the file of an image; None where it has to be read whole: another format, in
    an archive, in memory, in a file for each channel.

    Raises UnreadableImage.
    """
    images, index = _unwrapped(images, index)
    if isinstance(images, FileImages) and images.archives is None:
        picture = tiled_picture(images.path(index))
        return picture and (Tiles(picture, read_colours) if _has_colours(picture) else None)
    if not (isinstance(images, ChannelImages) and isinstance(images.base, LevelFiles)):
        return None
    files = images.base.base
    if not isinstance(files, FileImages) or files.archives is not None:
        return None
    picture = tiled_picture(files.path(index), every_page=True)
    if picture is None or not _has_levels(picture):
        return None
    names = _names(images.base, index)
    # Pages that are stored in different ways are no bands of one picture here.
    if len(names) != (len(RGB) if _is_palette(picture) else picture.levels[0].bands):
        return None
    return Tiles(picture, _reader(images, names))


@lru_cache(maxsize=64)
def _reader(images: ChannelImages, names: tuple[str, ...]) -> Read:
    """One for all files alike, so that they are told apart by their pictures alone."""
    return partial(_chosen_levels, images, names)


def _chosen_levels(
    images: ChannelImages, names: tuple[str, ...], picture: TiledPicture, level: Level, box: Box
) -> NDArray[np.float32]:
    levels = page_levels(level.page, picture.read(level, box), images.asked.no_data)
    if level.mask is not None:
        levels[picture.read(level.mask, box)[..., 0] == 0] = np.nan
    return images.chosen(Levels(levels, names))


def _has_levels(picture: TiledPicture) -> bool:
    return int(picture.levels[0].page.photometric) in (*_LEVELS, _LUMA) and _has_colours(picture)


def _has_colours(picture: TiledPicture) -> bool:
    """Whether luma and colour difference, where it is stored, becomes RGB with its tiles."""
    page = picture.levels[0].page
    return page.photometric != _LUMA or page.compression in _COLOUR_CODECS


def _is_palette(picture: TiledPicture) -> bool:
    return picture.levels[0].page.photometric == _PALETTE


@lru_cache(maxsize=4096)
def _names(files: LevelFiles, index: int) -> tuple[str, ...]:
    """Names of all channels in a file."""
    return files.header(index).names


@lru_cache(maxsize=1)
def whole(images: Images, index: int) -> Pixels:
    """Pixels of an image [H, W, C], NaN where nothing was measured; those of the last one are
    kept, of which more windows may be wanted.

    Not to be written to. Raises UnreadableImage.
    """
    images, index = _unwrapped(images, index)
    return images.measured(index) if isinstance(images, ChannelImages) else images.read(index)


def channels_of(images: Images) -> ChannelImages | None:
    """The set that chooses channels, below others that choose images; None for colour pictures."""
    while isinstance(images, SubsetImages):
        images = images.base
    return images if isinstance(images, ChannelImages) else None


def _unwrapped(images: Images, index: int) -> tuple[Images, int]:
    while isinstance(images, SubsetImages):
        images, index = images.base, int(images.indices[index])
    return images, index


class Sizes(NamedTuple):
    """What the headers of all images of a set tell."""

    sizes: NDArray[np.int64]
    """int64 [n, 2], height and width; 0, 0 of those that cannot be read."""
    tiled: NDArray[np.bool_]
    """bool [n], whether parts can be read."""
    bad: list[str]
    """Name and reason of each that cannot be read."""


def sizes_of(images: Images, max_pixels: int) -> Sizes:
    """Height and width of all images from their headers; what has to be read whole and has more
    than `max_pixels` cannot be read.
    """
    found = Sizes(np.zeros((len(images), 2), np.int64), np.zeros(len(images), np.bool_), [])
    for index in range(len(images)):
        try:
            tiles = tiles_of(images, index)
            size = images.size(index) if tiles is None else tiles.picture.size
            if tiles is None and size[0] * size[1] > max_pixels:
                shape = f"{size[1]} x {size[0]} without tiles"
                raise UnreadableImage("too many pixels", f"{shape}; write a tiled TIFF of it")
            found.tiled[index], found.sizes[index] = tiles is not None, size
        except UnreadableImage as error:
            found.bad.append(f"'{images.name(index)}': {error}")
    return found
