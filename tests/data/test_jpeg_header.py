"""Headers of JPEG files read here, beside Pillow's reader."""

import io

import numpy as np
import pytest
from PIL import Image

from ibot.data.jpeg_header import plain_size

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 50, 3), dtype=np.uint8))


def saved(picture=PICTURE, **how):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **how)
    return buffer.getvalue()


def by_pillow(data):
    """Height and width of three channels that are not turned; None of all else, "" where refused"""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
    except Exception:
        return ""
    upright = image.getexif().get(0x0112, 1) not in range(2, 9)
    return (image.height, image.width) if image.mode == "RGB" and upright else None


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"subsampling": 2, "quality": 30},
        {"progressive": True},
        {"optimize": True, "restart_marker_blocks": 3},
        {"keep_rgb": True},
        {"comment": b"words"},
        {"icc_profile": bytes(3000)},
        {"dpi": (300, 300)},
    ],
    ids=str,
)
def test_plain_headers_are_read(how):
    assert plain_size(saved(**how)) == (33, 50) == by_pillow(saved(**how))


def test_all_that_may_turn_or_stop_pillow_is_left_to_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved()
    for other in (
        saved(exif=exif),
        saved(xmp=b'<x tiff:Orientation="6"/>'),
        saved(PICTURE.convert("L")),
        saved(PICTURE.convert("CMYK")),
        data[:2] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + data[2:],
        data[:2] + b"\xff\xee\x00\x07Adobe" + data[2:],
        data[:2] + b"\xff\xff" + data[2:],
        data[:20],
        b"\xff\xd8\xff",
        b"",
    ):
        assert plain_size(other) is None


def test_what_photoshop_added_is_passed_where_pillow_passes_it():
    data, found = saved(), []
    block = b"8BIM\x04\x04\x03abc\0\0\0\x05words\0" + b"8BIM\x03\xed\0\0\0\0\0\x02ab"
    for length in range(len(block) + 1):
        added = b"Photoshop 3.0\0" + block[:length]
        other = data[:2] + b"\xff\xed" + (len(added) + 2).to_bytes(2, "big") + added + data[2:]
        assert plain_size(other) == (by_pillow(other) or None), length
        found.append(plain_size(other))
    assert found.count(None) == 2 and len(found) > 30


def test_no_damaged_header_is_read_otherwise_than_by_pillow():
    rng, whole = np.random.default_rng(1), [saved(), saved(progressive=True, comment=b"some words")]
    found = set()
    for turn in range(1500):
        data = bytearray(whole[turn % 2])
        for place in rng.integers(2, 700, rng.integers(1, 4)):
            data[place] = rng.choice([0, 1, 2, 17, 0xC0, 0xC2, 0xDB, 0xE2, 0xFF, rng.integers(256)])
        size = plain_size(bytes(data[: rng.integers(500, len(data))]))
        if size is not None:
            assert size == by_pillow(bytes(data))
        found.add(size is None)
    assert found == {True, False}
