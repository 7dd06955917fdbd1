"""From an open file to levels of all its channels: the content decides who reads it."""

from __future__ import annotations

from typing import BinaryIO

from ibot.data.channels import jpeg2000, npy, tiff
from ibot.data.channels.levels import Levels, to_levels
from ibot.data.channels.pictures import picture_header, read_picture
from ibot.data.channels.stored import Header, How
from ibot.data.decode import UnreadableImage, decode_file, file_size
from ibot.data.tiled import SIGNATURES as TIFF


def read_header(file: BinaryIO, how: How) -> Header:
    """Size and channels of a file that stands at its start. Raises UnreadableImage."""
    head = _head(file)
    if head.startswith(TIFF):
        with tiff.opened_tiff(file) as opened:
            found = tiff.layout(opened, how)
        if not found.ordinary:
            return found.header
        file.seek(0)
        size = file_size(file, how.exif_orientation, how.max_pixels)
        return Header(*size, found.header.names)
    if head.startswith(npy.SIGNATURE):
        return npy.npy_header(file, how)
    if head.startswith(jpeg2000.SIGNATURES) and (one := jpeg2000.jpeg2000_header(file, how)):
        return one
    file.seek(0)
    return picture_header(file, how)


def read_levels(file: BinaryIO, how: How) -> Levels:
    """All channels of a file that stands at its start. Raises UnreadableImage, MissingExtra."""
    head = _head(file)
    if head.startswith(TIFF):
        with tiff.opened_tiff(file) as opened:
            found = tiff.layout(opened, how)
            if not found.ordinary:
                return tiff.read_pages(opened, how)
        file.seek(0)
        colours = decode_file(file, how.exif_orientation, how.max_pixels)
        return Levels(to_levels(colours, no_data=how.no_data), found.header.names)
    if head.startswith(npy.SIGNATURE):
        return npy.read_npy(file, how)
    if head.startswith(jpeg2000.SIGNATURES) and jpeg2000.jpeg2000_header(file, how):
        file.seek(0)
        return jpeg2000.read_jpeg2000(file, how)
    file.seek(0)
    return read_picture(file, how)


def _head(file: BinaryIO) -> bytes:
    head = file.read(16)
    if not head:
        raise UnreadableImage("empty file")
    file.seek(0)
    return head
