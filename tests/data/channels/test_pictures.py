"""PNG, .npy, JPEG 2000 and ordinary pictures as levels."""

import io

import numpy as np
import pytest
from PIL import Image

from ibot.data.channels.levels import to_levels
from ibot.data.decode import UnreadableImage, decode_file

pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")
import channel_files as written  # noqa: E402 - needs both packages
from channel_files import read  # noqa: E402

SIZE = (20, 30)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def npy(values):
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "names", [("1",), ("1", "alpha"), ("red", "green", "blue"), ("red", "green", "blue", "alpha")]
)
def test_png_keeps_its_bits_and_all_channels(rng, kind, names):
    values = rng.integers(0, np.iinfo(kind).max, (*SIZE, len(names)), kind, endpoint=True)
    levels = read(imagecodecs.png_encode(values))
    assert levels.names == names
    assert np.array_equal(levels.values, to_levels(values))


def test_png_of_one_bit_of_a_palette_and_with_a_transparent_level(rng):
    bits = rng.random(SIZE) < 0.5
    assert np.array_equal(read(saved(Image.fromarray(bits), "png")).values[..., 0], bits)
    colours = Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).quantize(16)
    palette = read(saved(colours, "png"))
    assert palette.names == ("red", "green", "blue")
    assert np.array_equal(palette.values, to_levels(np.asarray(colours.convert("RGB"))))
    gray = Image.fromarray(rng.integers(0, 256, SIZE, np.uint8))
    levels = read(saved(gray, "png", transparency=3))
    assert levels.names == ("1",)
    assert np.array_equal(levels.values[..., 0], to_levels(np.asarray(gray)))


def test_damaged_png_is_refused(rng):
    content = imagecodecs.png_encode(rng.integers(0, 65535, (*SIZE, 3), np.uint16))
    with pytest.raises(UnreadableImage, match="truncated"):
        written.levels(content[:-200])
    altered = bytearray(content)
    altered[400] ^= 77
    with pytest.raises(UnreadableImage, match="corrupt"):
        written.levels(bytes(altered))


def test_photographs_as_the_ordinary_decoder_reads_them_upright(rng):
    photo = Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    for content in (saved(photo, "jpeg", exif=turned), saved(photo, "png", exif=turned)):
        levels = read(content)
        assert levels.names == ("red", "green", "blue") and levels.values.shape == (30, 20, 3)
        assert np.array_equal(levels.values, to_levels(decode_file(io.BytesIO(content))))


def test_gray_pictures_have_one_channel(rng):
    gray = rng.integers(0, 256, SIZE, np.uint8)
    assert np.array_equal(read(saved(Image.fromarray(gray), "bmp")).values[..., 0], to_levels(gray))
    wide = rng.integers(0, 65536, SIZE, np.uint16)
    pgm = b"P5 30 20 65535 " + wide.astype(">u2").tobytes()
    assert np.array_equal(read(pgm).values[..., 0], to_levels(wide))
    floats = rng.normal(size=SIZE).astype("<f4")
    pfm = b"Pf\n30 20\n-1.0\n" + floats[::-1].tobytes()
    assert np.array_equal(read(pfm).values[..., 0], floats)


@pytest.mark.parametrize(
    ("kind", "low", "high", "bits"),
    [("u1", 0, 256, 8), ("u2", 0, 65536, 16), ("u2", 0, 4096, 12), ("i2", -32768, 32768, 16)],
)
def test_jpeg_2000_of_any_components_and_bits(rng, kind, low, high, bits):
    values = rng.integers(low, high, (*SIZE, 6)).astype(kind)
    content = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, bitspersample=bits)
    levels = read(content)
    assert levels.names == ("1", "2", "3", "4", "5", "6")
    assert np.array_equal(levels.values, to_levels(values, bits=bits))


def test_jpeg_2000_cut_short_is_refused(rng):
    content = imagecodecs.jpeg2k_encode(rng.integers(0, 256, SIZE, np.uint8), level=0)
    for length in (60, 300, len(content) - 5):
        with pytest.raises(UnreadableImage):
            written.levels(content[:length])


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 5), (5, *SIZE), (*SIZE, 1), (1, *SIZE)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_with_the_channels_first_or_last(rng, shape, order):
    values = rng.integers(-30000, 30000, shape).astype(">i2", order=order)
    last = values if shape[:2] == SIZE else np.moveaxis(values, 0, -1)
    assert np.array_equal(read(npy(values)).values, to_levels(last.reshape(*SIZE, -1)))


def test_npy_that_is_no_plain_image_is_refused(rng):
    for values, reason in (
        (rng.normal(size=(20, 30, 20)), "no axis"),
        (rng.normal(size=(8, 8, 224)), "no axis"),
        (rng.normal(size=(2, 20, 30, 3)), "4 axes"),
        (np.array([{}, {}]), "no numbers"),
        (rng.integers(0, 9, SIZE), "int64"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            written.levels(npy(values))
    with pytest.raises(UnreadableImage, match="truncated"):
        written.levels(npy(rng.normal(size=SIZE))[:-1])


def test_other_files_are_refused():
    for content, reason in ((b"", "empty"), (b"<html>" * 20, "not an image")):
        with pytest.raises(UnreadableImage, match=reason):
            written.levels(content)


def test_altered_bytes_give_levels_or_a_reason(rng):
    """Whatever stands in a file, its header and its pixels agree, or it is refused."""
    values = rng.integers(0, 65536, (*SIZE, 3), np.uint16)
    contents = [
        npy(values),
        imagecodecs.png_encode(values),
        imagecodecs.jpeg2k_encode(values[..., 0].copy(), level=0),
        written.tiff(values, planarconfig="contig", compression="zlib", rowsperstrip=4),
        written.pages(*np.moveaxis(values, -1, 0)),
    ]
    done = 0
    for content in contents * 60:
        altered = bytearray(content)
        for place in rng.integers(0, min(300, len(content)), 3):
            altered[place] = rng.integers(256)
        try:
            levels = written.levels(bytes(altered), max_pixels=10_000)
        except UnreadableImage:
            continue
        header = written.header(bytes(altered), max_pixels=10_000)
        assert levels.values.shape == (header.height, header.width, len(header.names))
        done += 1
    assert done > 20
