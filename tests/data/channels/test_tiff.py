"""TIFF of every layout and type: right, or refused with the reason."""

import io

import numpy as np
import pytest

from ibot.data.channels.levels import to_levels
from ibot.data.decode import UnreadableImage, decode_file

tifffile = pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")
import channel_files as written  # noqa: E402 - needs both packages
from channel_files import pages, read, tiff  # noqa: E402

SHAPE = (48, 32)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def numbers(rng, kind, shape=SHAPE):
    dtype = np.dtype(kind)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind == "f":
        return rng.normal(0, 50, shape).astype(dtype)
    info = np.iinfo(dtype)
    drawn = rng.integers(info.min, info.max, shape, dtype.newbyteorder("="), endpoint=True)
    return drawn.astype(dtype)


@pytest.mark.parametrize(
    "kind", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8", "bool", ">u2", ">i4", ">f4"]
)
def test_each_type_in_either_byte_order(rng, kind):
    values = numbers(rng, kind)
    content = tiff(values, byteorder=">" if kind[0] == ">" else "<")
    assert np.array_equal(read(content).values[..., 0], to_levels(values))


LAYOUTS = {
    "interleaved": {},
    "planes": {"planarconfig": "separate"},
    "tiles": {"tile": (16, 16)},
    "planes in tiles": {"planarconfig": "separate", "tile": (16, 16)},
    "lzw": {"compression": "lzw", "rowsperstrip": 5},
    "deflate with predictor": {"compression": "zlib", "predictor": True, "rowsperstrip": 5},
    "zstd in tiles": {"compression": "zstd", "tile": (16, 16), "predictor": True},
    "BigTIFF": {"bigtiff": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_each_layout_and_compression(rng, layout, kind):
    values = numbers(rng, kind, (*SHAPE, 5))
    options = dict(LAYOUTS[layout])
    stored = np.moveaxis(values, -1, 0) if "planarconfig" in options else values
    if "planarconfig" not in options:
        options["planarconfig"] = "contig"
    levels = read(tiff(stored, **options))
    assert np.array_equal(levels.values, to_levels(values))
    assert levels.names == ("1", "2", "3", "4", "5")


def test_a_page_for_each_channel(rng):
    values = numbers(rng, "u2", (4, *SHAPE))
    levels = read(pages(*values))
    assert np.array_equal(levels.values, to_levels(np.moveaxis(values, 0, -1)))


def test_white_is_zero_is_turned_round(rng):
    for kind in ("u1", "u2", "i2", "f4"):
        values = numbers(rng, kind)
        levels = read(tiff(values, photometric="miniswhite")).values[..., 0]
        assert np.abs(levels - (1 - to_levels(values))).max() < 1e-6, kind


def test_channels_beside_an_inverted_picture_are_not_turned_round(rng):
    values = numbers(rng, "u2", (*SHAPE, 3))
    content = tiff(values, photometric="miniswhite", planarconfig="contig")
    levels = read(content).values
    assert np.abs(levels[..., 0] - (1 - to_levels(values[..., 0]))).max() < 1e-6
    assert np.array_equal(levels[..., 1:], to_levels(values[..., 1:]))


@pytest.mark.parametrize("bits", [4, 10, 12, 14])
def test_levels_of_few_bits_go_by_their_bits(rng, bits):
    values = rng.integers(0, 2**bits, SHAPE, np.uint16).astype("u1" if bits <= 8 else "u2")
    levels = read(written.packed_tiff(values, bits)).values[..., 0]
    assert np.array_equal(np.rint(levels * (2**bits - 1)), values)


def test_nan_infinity_and_no_data_of_the_file_are_no_numbers(rng):
    values = numbers(rng, "f4")
    values[0, :3] = np.nan, np.inf, -np.inf
    values[1, :2] = -9999
    content = tiff(values, extratags=[(42113, "s", 0, "-9999", True)])
    levels = read(content).values[..., 0]
    assert np.argwhere(np.isnan(levels)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
    kept = ~np.isnan(levels)
    assert np.array_equal(levels[kept], values[kept])


def test_no_data_of_whole_types_and_of_the_settings(rng):
    values = rng.integers(1, 60000, SHAPE, np.uint16)
    values[0, 0], values[0, 1] = 0, 65535
    content = tiff(values, extratags=[(42113, "s", 0, "0", True)])
    assert np.argwhere(np.isnan(read(content).values[..., 0])).tolist() == [[0, 0]]
    both = read(content, no_data=(65535.0,)).values[..., 0]
    assert np.argwhere(np.isnan(both)).tolist() == [[0, 0], [0, 1]]


def test_a_mask_beside_the_page_hides_what_it_does_not_hold(rng):
    values, mask = numbers(rng, "u2"), rng.random(SHAPE) < 0.5
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(values, photometric="minisblack", metadata=None)
        writer.write(mask, photometric="mask", subfiletype=4, metadata=None)
    levels = read(out.getvalue()).values[..., 0]
    assert np.array_equal(np.isnan(levels), ~mask)


def test_reduced_pictures_are_left_out(rng):
    values = numbers(rng, "u2", (*SHAPE, 5))
    for subifds in (1, None):
        out = io.BytesIO()
        with tifffile.TiffWriter(out) as writer:
            how = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
            writer.write(values, subifds=subifds, **how)
            writer.write(values[::2, ::2], subfiletype=1, **how)
        assert np.array_equal(read(out.getvalue()).values, to_levels(values))


def test_a_palette_becomes_its_colours(rng):
    values, table = numbers(rng, "u1"), rng.integers(0, 65536, (3, 256), np.uint16)
    levels = read(tiff(values, photometric="palette", colormap=table))
    assert levels.names == ("red", "green", "blue")
    assert np.array_equal(levels.values, to_levels(np.moveaxis(table[:, values], 0, -1)))


def test_colours_keep_16_bits_and_their_names(rng):
    values = numbers(rng, "u2", (*SHAPE, 4))
    levels = read(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))
    assert levels.names == ("red", "green", "blue", "alpha")
    assert np.array_equal(levels.values, to_levels(values))


def test_colours_in_jpeg_are_red_green_blue():
    values = np.full((*SHAPE, 3), (200, 90, 30), np.uint8)
    levels = read(tiff(values, photometric="rgb", compression="jpeg", tile=(16, 16)))
    assert levels.names == ("red", "green", "blue")
    assert np.abs(levels.values * 255 - values).max() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_as_the_ordinary_decoder_turns_them(rng, orientation):
    values = numbers(rng, "u1", (20, 30, 3))
    content = tiff(values, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    wanted = decode_file(io.BytesIO(content))
    assert np.array_equal(read(content).values, to_levels(wanted))
    as_stored = read(content, exif_orientation="ignore").values
    assert np.array_equal(as_stored, to_levels(values))


def test_names_of_ome_gdal_and_pages(rng):
    values = numbers(rng, "u2", (3, *SHAPE))
    out = io.BytesIO()
    about = {"axes": "CYX", "Channel": {"Name": ["DAPI", "Actin, red", "Tubulin"]}}
    tifffile.imwrite(out, values, ome=True, photometric="minisblack", metadata=about)
    assert read(out.getvalue()).names == ("DAPI", "Actin red", "Tubulin")
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{i}" role="description">{name}</Item>'
        for i, name in enumerate(("B02", "B03", "B8A"))
    )
    gdal = (42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True)
    content = tiff(np.moveaxis(values, 0, -1), planarconfig="contig", extratags=[gdal])
    assert read(content).names == ("B02", "B03", "B8A")
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for name, plane in zip(("one", "two", "three"), values, strict=True):
            tag = (285, "s", 0, name, True)
            writer.write(plane, photometric="minisblack", metadata=None, extratags=[tag])
    assert read(out.getvalue()).names == ("one", "two", "three")


# What is refused, and why.


def refused(content, reason, **how):
    for action in (written.header, written.levels):
        try:
            action(content, **how)
        except UnreadableImage as error:
            assert reason in str(error)
            return
    pytest.fail(f"not refused: {reason}")


def test_a_page_of_another_size_or_type_is_refused(rng):
    one, small = numbers(rng, "u2"), numbers(rng, "u2", (10, 12))
    refused(pages(one, one, small), "page 3 is 12 x 10, the first 32 x 48")
    refused(pages(one, numbers(rng, "f4")), "pages of different types")


def test_stacks_in_depth_or_time_are_refused(rng):
    values = numbers(rng, "u2", (4, *SHAPE))
    for options in (
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "TYX"}},
    ):
        out = io.BytesIO()
        tifffile.imwrite(out, values, photometric="minisblack", **options)
        refused(out.getvalue(), "4 pictures in depth or time")


def test_several_pages_of_colours_are_refused(rng):
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for _ in range(2):
            writer.write(numbers(rng, "u1", (*SHAPE, 3)), photometric="rgb", metadata=None)
    refused(out.getvalue(), "2 pages of several channels each")


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
def test_a_tile_that_cannot_be_decoded_is_refused(rng, compression):
    content = bytearray(tiff(numbers(rng, "u2"), tile=(16, 16), compression=compression))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        start, size = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
    content[start : start + size] = rng.bytes(size)
    refused(bytes(content), "corrupt")


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
def test_a_file_cut_short_is_refused(rng, compression):
    values = numbers(rng, "u1")
    content = tiff(values, compression=compression, rowsperstrip=16)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        end = file.pages[0].dataoffsets[-1] + file.pages[0].databytecounts[-1]
    refused(content[: end - 7], "truncated")


def test_an_unknown_compression_is_refused(rng):
    content = bytearray(tiff(numbers(rng, "u2"), rowsperstrip=8))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        place = file.pages[0].tags["Compression"].valueoffset
    content[place : place + 2] = (12345).to_bytes(2, "little")
    refused(bytes(content), "unknown compression")


def test_too_many_pixels_are_refused_from_the_header(rng):
    refused(tiff(numbers(rng, "u1")), "too many pixels", max_pixels=48 * 32 - 1)


def test_types_without_a_rule_are_refused(rng):
    refused(tiff(rng.normal(size=SHAPE).astype(np.complex64)), "complex64")
    refused(tiff(numbers(rng, "i8")), "int64")


def test_noise_after_a_signature_is_refused(rng):
    for signature in (b"II*\0", b"MM\0*", b"II+\0"):
        for _ in range(20):
            refused(signature + rng.bytes(200), "")
