"""Files of many channels and odd types, written for tests."""

import io
import struct

import imagecodecs
import numpy as np
import tifffile

from ibot.data.channels.read import read_header, read_levels
from ibot.data.channels.stored import How


def tiff(values, **options):
    """The bytes of a TIFF."""
    out = io.BytesIO()
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(out, values, metadata=None, **options)
    return out.getvalue()


def pages(*arrays, **options):
    """The bytes of a TIFF with a page for each array; `options` of each page may be lists."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for values in arrays:
            writer.write(values, photometric="minisblack", metadata=None, **options)
    return out.getvalue()


def packed_tiff(values, bits):
    """A TIFF whose gray levels take `bits` bits each, packed."""
    data = imagecodecs.packints_encode(values, bits)
    height, width = values.shape
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    directory = struct.pack("<H", len(tags))
    for tag, kind, value in tags:
        directory += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def read(content, **how):
    """Levels of bytes, of which the header says the same as the pixels."""
    header = read_header(io.BytesIO(content), How(**how))
    levels = read_levels(io.BytesIO(content), How(**how))
    assert levels.values.shape == (header.height, header.width, len(header.names))
    assert levels.names == header.names and levels.values.dtype == np.float32
    return levels


def header(content, **how):
    """The header of bytes."""
    return read_header(io.BytesIO(content), How(**how))


def levels(content, **how):
    """The levels of bytes."""
    return read_levels(io.BytesIO(content), How(**how))
