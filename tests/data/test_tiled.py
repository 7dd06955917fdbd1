import numpy as np
import pytest
from PIL import Image
from slides import halved, tissue, write_pyramid, write_svs

from ibot.data.decode import UnreadableImage, decode
from ibot.data.tiled import tiled_picture
from ibot.data.tiled_colours import to_rgb

tifffile = pytest.importorskip("tifffile", reason="extra slides")
pytest.importorskip("imagecodecs", reason="extra slides")


def whole(picture, level=0):
    level = picture.levels[level]
    return to_rgb(picture.read(level, (0, 0, level.height, level.width)), level)


def sizes(picture):
    return [(level.height, level.width) for level in picture.levels]


@pytest.mark.parametrize("subifds", [True, False])
@pytest.mark.parametrize("how", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=str)
def test_levels_are_found_in_subifds_and_in_pages(tmp_path, subifds, how):
    pixels = tissue(520, 390)
    picture = tiled_picture(write_pyramid(tmp_path / "a.tif", pixels, subifds=subifds, **how))
    assert sizes(picture) == [(520, 390), (130, 97), (32, 24)] and picture.size == (520, 390)
    assert [level.reduced for level in picture.levels] == [(1, 1), (4, 4), (16, 16)]
    for number, factor in enumerate((1, 4, 16)):
        np.testing.assert_array_equal(whole(picture, number), halved(pixels, factor))


def test_the_coarsest_level_that_suffices_is_chosen(tmp_path):
    picture = tiled_picture(write_pyramid(tmp_path / "a.tif", tissue(256, 256)))
    chosen = [picture.level(most).reduced[0] for most in (0.5, 1, 3.9, 4, 15.9, 16, 100)]
    assert chosen == [1, 1, 1, 4, 4, 16, 16]


def test_thumbnail_label_and_macro_of_a_slide_are_no_levels(tmp_path):
    pixels = tissue(512, 384)
    picture = tiled_picture(write_svs(tmp_path / "a.svs", pixels))
    assert sizes(picture) == [(512, 384), (128, 96)]
    assert np.abs(whole(picture).astype(int) - pixels).mean() < 3, "of what JPEG loses"


def test_a_box_reads_what_lies_in_it(tmp_path):
    pixels = tissue(300, 200)
    picture = tiled_picture(write_pyramid(tmp_path / "a.tif", pixels, ()))
    rng = np.random.default_rng(1)
    for _ in range(30):
        top, left = rng.integers(0, 299), rng.integers(0, 199)
        height, width = rng.integers(1, 300 - top + 1), rng.integers(1, 200 - left + 1)
        got = picture.read(picture.levels[0], (top, left, height, width))
        np.testing.assert_array_equal(got, pixels[top : top + height, left : left + width])


def gray16(pixels):
    return (pixels[..., 0].astype(np.uint16) * 257) ^ 3


KINDS = {
    "strips": (lambda p: p, {"tile": None, "rowsperstrip": 7}),
    "jpeg": (lambda p: p, {"compression": "jpeg"}),
    "planes": (lambda p: np.ascontiguousarray(np.moveaxis(p, 2, 0)), {"planarconfig": "separate"}),
    "gray": (lambda p: p[..., 0], {"photometric": "minisblack"}),
    "inverted": (lambda p: p[..., 0], {"photometric": "miniswhite"}),
    "gray of 16 bits": (gray16, {"photometric": "minisblack"}),
    "opacity": (lambda p: np.dstack([p, p[..., :1]]), {"extrasamples": ["unassalpha"]}),
    "bilevel": (lambda p: p[..., 0] > 99, {"photometric": "minisblack", "compression": None}),
    "predictor": (lambda p: p, {"predictor": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_the_colours_of_the_whole_picture(tmp_path, kind):
    change, how = KINDS[kind]
    stored = change(tissue(150, 130))
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stored, **{"photometric": "rgb", "compression": "zlib", "tile": (64, 64), **how}
    )
    want = decode(path).astype(int)
    got = whole(tiled_picture(path)).astype(int)
    # JPEG decoders and roundings differ by a level.
    assert got.shape == want.shape and np.abs(got - want).max() <= (2 if kind == "jpeg" else 1)


@pytest.mark.parametrize("codec", ["lzw", "zstd", "webp", "jpeg2000", "aperio_jp2000_ycbc"])
def test_codecs_that_pillow_may_lack_are_read(tmp_path, codec):
    pixels = tissue(150, 130)
    how = {"photometric": "rgb", "compression": codec, "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **how)
    np.testing.assert_array_equal(whole(tiled_picture(tmp_path / "a.tif")), pixels)


def test_palette_is_looked_up(tmp_path):
    index = np.random.default_rng(0).integers(0, 256, (80, 90), dtype=np.uint8)
    table = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint16) * 257
    tifffile.imwrite(
        tmp_path / "a.tif", index, photometric="palette", colormap=table, tile=(32, 32)
    )
    got = whole(tiled_picture(tmp_path / "a.tif"))
    np.testing.assert_array_equal(got, (table >> 8).astype(np.uint8).T[index])


def test_tables_of_jpeg_tiles_are_shared_and_chroma_is_halved(tmp_path):
    pixels = tissue(256, 256)
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, compression="jpeg", quality=90)
    picture = tiled_picture(path)
    assert picture.levels[0].page.jpegtables, "as libtiff writes them"
    assert np.abs(whole(picture).astype(int) - decode(path)).max() <= 2


def test_tiles_that_are_not_stored_are_empty(tmp_path):
    def tiles():
        yield np.full((64, 64), 200, np.uint8)
        yield from [None] * 5

    how = {"shape": (100, 180), "dtype": np.uint8, "tile": (64, 64), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", tiles(), photometric="minisblack", **how)
    got = whole(tiled_picture(tmp_path / "a.tif"))
    assert (got[:64, :64] == 200).all() and (got[64:] == 0).all() and (got[:, 64:] == 0).all()


def test_a_damaged_tile_spoils_only_what_touches_it(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", tissue(128, 128), ())
    level = tiled_picture(path).levels[0]
    content = bytearray(path.read_bytes())
    start = int(level.offsets[0, 3])
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    picture = tiled_picture(path)
    assert picture.read(picture.levels[0], (0, 0, 128, 64)).any()
    with pytest.raises(UnreadableImage, match="tile 3 cannot be decoded"):
        picture.read(picture.levels[0], (60, 60, 10, 10))


def test_a_file_cut_short_gives_what_is_there(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", tissue(128, 128), (), compression=None)
    offsets = tiled_picture(path).levels[0].offsets[0]
    path.write_bytes(path.read_bytes()[: int(offsets[3]) + 10])
    picture = tiled_picture(path)
    assert picture.read(picture.levels[0], (0, 0, 128, 64)).any()
    with pytest.raises(UnreadableImage, match="truncated: tile 3 ends after 10 of"):
        picture.read(picture.levels[0], (60, 60, 10, 10))


def test_what_is_no_colour_picture_is_refused_with_the_setting_that_reads_it(tmp_path):
    bands = np.zeros((64, 64, 5), np.uint16)
    how = {"photometric": "minisblack", "planarconfig": "contig", "tile": (32, 32)}
    tifffile.imwrite(tmp_path / "a.tif", bands, **how)
    picture = tiled_picture(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=r"5 bands .* data.channels=all reads them"):
        whole(picture)


def test_other_formats_have_no_tiles_and_damaged_headers_are_told(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert tiled_picture(tmp_path / "a.png") is None
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(4))
    with pytest.raises(UnreadableImage, match="corrupt TIFF header"):
        tiled_picture(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match="missing"):
        tiled_picture(tmp_path / "b.tif")


def test_a_picture_to_be_turned_is_left_to_pillow(tmp_path):
    tag = (274, "H", 1, 6, True)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue(60, 40), photometric="rgb", tile=(16, 16), extratags=[tag])
    assert tiled_picture(path) is None and decode(path).shape == (40, 60, 3)


def test_a_file_that_changed_is_read_anew(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", tissue(128, 128))
    assert tiled_picture(path) is tiled_picture(path), "the header is kept"
    write_pyramid(path, tissue(200, 100))
    assert tiled_picture(path).size == (200, 100)


def test_a_tile_that_declares_more_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ibot.data.tiled_levels.MAX_TILE", 64 * 64 * 3 - 1)
    with pytest.raises(UnreadableImage, match="too large a tile"):
        tiled_picture(write_pyramid(tmp_path / "a.tif", tissue(128, 128)))


def test_the_real_slide_has_its_levels(shared_data):
    path = shared_data / "scientific" / "slide_tiled_4608_rgb.tif"
    picture = tiled_picture(path)
    assert sizes(picture) == [(4608, 4608), (1152, 1152), (288, 288)]
    np.testing.assert_array_equal(whole(picture, 2), tifffile.imread(path, level=2))
    box = (1000, 2000, 300, 500)
    got = picture.read(picture.levels[0], box)
    np.testing.assert_array_equal(got, tifffile.imread(path)[1000:1300, 2000:2500])
