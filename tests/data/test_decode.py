import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from ibot.data.decode import (
    UnreadableImage,
    decode,
    decode_file,
    holds_more,
    image_size,
    open_image,
)
from ibot.data.formats import extensions
from ibot.data.sets.scan import scan


def quadrant_means(image):
    h, w = image.shape[0] // 2, image.shape[1] // 2
    return [
        q.reshape(-1, 3).mean(0)
        for q in (image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:])
    ]


def test_every_odd_file_is_read_or_refused_as_its_manifest_says(broken):
    folder, entries = broken
    assert len(entries) == 48
    for entry in entries:
        if entry["expect"] == "ignore":
            continue
        try:
            image = decode(folder / entry["file"])
        except UnreadableImage as error:
            assert entry["expect"] in ("refuse", "either"), f"{entry['file']} refused: {error}"
            assert error.reason == entry["reason"], entry["file"]
            continue
        assert entry["expect"] in ("read", "either"), f"{entry['file']} was read"
        assert (
            list(image.shape[1::-1]) == entry["size"]
            and image.dtype == np.uint8
            and image.shape[2] == 3
        )
        tolerance = entry.get("tolerance", 1)
        if "quadrants" in entry:
            np.testing.assert_allclose(
                quadrant_means(image), entry["quadrants"], atol=tolerance, err_msg=entry["file"]
            )
        if "rgb_mean" in entry:
            np.testing.assert_allclose(
                image.reshape(-1, 3).mean(0), entry["rgb_mean"], atol=tolerance
            )
        if "pixel" in entry:
            np.testing.assert_array_equal(image[0, 0], entry["pixel"])


def test_sizes_are_known_without_the_pixels(broken):
    folder, entries = broken
    for file in (folder / entry["file"] for entry in entries):
        for orientation in ("apply", "ignore"):
            try:
                image = decode(file, orientation)
            except UnreadableImage:
                continue
            assert image_size(file, orientation) == image.shape[:2], file.name


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_sizes_are_those_of_upright_pictures(tmp_path, monkeypatch, kind, turned):
    if f".{kind}" not in extensions():
        pytest.skip(f"this Pillow reads no {kind}")
    exif, file = Image.Exif(), tmp_path / f"a.{kind}"
    exif[0x0112] = turned
    Image.new("RGB", (12, 8)).save(file, exif=exif)
    for orientation in ("apply", "ignore"):
        assert image_size(file, orientation) == decode(file, orientation).shape[:2]
    assert image_size(file) == ((12, 8) if turned > 4 else (8, 12))
    if kind != "tiff":
        monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
        assert image_size(file)[0] in (8, 12)


def test_the_size_of_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    Image.new("RGB", (12, 8)).save(tmp_path / "b.png")
    for name, limit, reason in (("a.png", 99, "not an image"), ("b.png", 95, "too many pixels")):
        with pytest.raises(UnreadableImage, match=reason):
            image_size(tmp_path / name, max_pixels=limit)
    with pytest.raises(UnreadableImage, match="missing"):
        image_size(tmp_path / "c.png")


def test_sixteen_bits_are_scaled_by_their_range(broken):
    folder, _ = broken
    column = np.arange(256)
    gray = decode(folder / "grey_16bit_ramp.png").astype(int)
    assert np.abs(gray - column[None, :, None]).max() <= 1
    rgb = decode(folder / "rgb_16bit.png").astype(int)
    assert np.abs(rgb - np.stack([column, column // 2, 255 - column], -1)).max() <= 1


def test_transparency_shows_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = [255, 0, 0, 255]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = decode(tmp_path / "a.png")
    assert got[0, 0].tolist() == [255, 0, 0] and got[1, 0].tolist() == [255, 255, 255]


def test_palette_with_transparency_is_composited(broken):
    folder, _ = broken
    theirs = Image.open(folder / "palette_transparency.png").convert("RGBA")
    alpha = np.asarray(theirs)[..., 3:] / 255
    want = np.asarray(theirs)[..., :3] * alpha + 255 * (1 - alpha)
    assert 0 < alpha.mean() < 1
    assert np.abs(decode(folder / "palette_transparency.png") - want).max() <= 2


def test_exif_orientation_can_be_ignored(broken):
    folder, _ = broken
    assert decode(folder / "exif_orientation_6.jpg", "ignore").shape == (96, 64, 3)
    assert decode(folder / "exif_orientation_6.jpg").shape == (64, 96, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
def test_common_formats_give_their_pixels(tmp_path, suffix):
    image = np.asarray(
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).resize((32, 24))
    )
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", **options)
    got = decode(tmp_path / f"a.{suffix}")
    assert np.abs(got.astype(int) - image).max() <= (8 if suffix == "jpg" else 0)


def test_float_images_are_scaled(tmp_path):
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for factor in (1, 300):
        Image.fromarray(values * factor).save(tmp_path / "a.tif")
        assert np.abs(decode(tmp_path / "a.tif")[..., 0] - values * 255).max() <= 0.5


def test_float_values_that_are_not_numbers_do_not_set_the_range(tmp_path):
    values = np.array([[-1, 1, np.nan], [0, np.inf, -np.inf]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif")[..., 0].tolist() == [[0, 255, 0], [128, 255, 0]]


def encoded(format, **options):
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).resize((12, 8)).save(
        file, format, **options
    )
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_do_not_cost_the_picture(tmp_path, format):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    good, rng = exif.tobytes(), np.random.default_rng(0)
    whole = {(8, 12), (12, 8)}  # turned or not, as the tag was hit or not
    for damage in [b"Exif\0\0garbage", *[None] * 150]:
        if damage is None:
            damage = bytearray(good)
            for position in rng.integers(6, len(good), 3):
                damage[position] = rng.integers(256)
        (tmp_path / "a").write_bytes(encoded(format, exif=bytes(damage)))
        assert decode(tmp_path / "a").shape[:2] in whole


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "DDS"]
)
def test_damaged_bytes_are_read_or_refused_and_never_crash(tmp_path, format):
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    good, rng, refused = encoded(format), np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(good[: rng.integers(1, len(good) + 1)] if rng.random() < 0.3 else good)
        for position in rng.integers(0, min(len(damaged), 200), 4):
            damaged[position] = rng.choice([0, 1, 127, 128, 255])
        (tmp_path / "a").write_bytes(damaged)
        try:
            decode(tmp_path / "a")
        except UnreadableImage:
            refused += 1
    assert refused


def test_a_large_file_is_refused_from_its_header(tmp_path):
    header = encoded("PNG")[:16] + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    with (tmp_path / "a.png").open("wb") as file:
        file.write(
            header
            + zlib.crc32(header[12:]).to_bytes(4, "big")
            + (1 << 20).to_bytes(4, "big")
            + b"IDAT"
        )
        file.truncate(64 << 20)
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_programs_are_no_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(tmp_path / "a.jpg")


def test_whole_files_of_a_layout_that_cannot_be_read_are_not_called_corrupt(shared_data):
    scientific = shared_data / "scientific"
    for name in (
        "s2_6band_uint16_interleaved.tif",
        "worms_2channel_uint16.tif",
        "s2_rgb_float32.tif",
    ):
        with pytest.raises(UnreadableImage, match="unsupported TIFF layout"):
            decode(scientific / name)


LEVELS = np.linspace(0, 1, 9)


def tiff(levels, *, photometric=1, order="<"):
    """Bytes of an uncompressed gray TIFF of one row."""
    kind = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    data = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    fields = {
        256: len(levels),
        257: 1,
        258: 8 * levels.itemsize,
        259: 1,
        262: photometric,
        273: 0,
        277: 1,
        278: 1,
    }
    fields |= {279: len(data), 339: kind}
    fields[273] = 8 + 2 + 12 * len(fields) + 4
    entries = b"".join(
        struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in fields.items()
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(fields))
    return head + entries + bytes(4) + data


def gray(content):
    return decode_file(io.BytesIO(content))[0, :, 0].tolist()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "f4"])
def test_gray_levels_span_black_to_white_by_the_range_of_their_type(kind, order):
    levels = LEVELS.astype("f4")
    if kind != "f4":
        info = np.iinfo(kind)
        levels = np.rint(info.min + LEVELS * (info.max - float(info.min))).astype(kind)
        want = np.rint((levels - float(info.min)) * 255 / (info.max - float(info.min)))
    else:
        want = np.rint(levels * 255)
    assert gray(tiff(levels, order=order)) == want.tolist()


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_where_the_lowest_level_is_white_it_is_shown_white(kind):
    levels = (
        LEVELS.astype(kind) if kind == "f4" else np.rint(LEVELS * np.iinfo(kind).max).astype(kind)
    )
    assert gray(tiff(levels, photometric=0)) == pytest.approx(
        255 - np.array(gray(tiff(levels))), abs=1
    )
    assert gray(tiff(levels, photometric=0))[::8] == [255, 0]


@pytest.mark.parametrize(
    ("levels", "want"),
    [
        (np.array([0, 1, 128, 255], "u4"), [0, 1, 128, 255]),  # of 8 bits
        (np.array([7, 7, 7, 7], "i4"), [7, 7, 7, 7]),
        (np.array([0, 257, 65535, 300], "i4"), [0, 1, 255, 1]),  # of 16 bits
        (np.array([0, 2**31, 2**32 - 1, 2**30], "u4"), [0, 128, 255, 64]),
        (np.array([-100, 0, 155, 28], "i4"), [0, 100, 255, 128]),  # their own range
        (np.array([70000, 170000, 120000, 70000], "u4"), [0, 255, 128, 0]),
    ],
)
def test_levels_of_32_bits_are_those_of_8_or_16_where_they_fit_else_their_own_range(levels, want):
    assert gray(tiff(levels)) == want


@pytest.mark.parametrize("kind", ["i2", "i4", "f4"])
def test_packed_levels_in_the_other_byte_order_are_the_same(tmp_path, kind):
    levels = LEVELS.astype(kind) if kind == "f4" else (1000 * LEVELS).astype(kind)
    for order in "<>":
        content = bytearray(tiff(levels, order=order))
        data = zlib.compress(bytes(content[-levels.nbytes :]))
        del content[-levels.nbytes :]
        for tag, value in ((259, 8), (279, len(data))):  # deflate
            place = content.index(struct.pack(order + "HHI", tag, 4, 1)) + 8
            content[place : place + 4] = struct.pack(order + "I", value)
        assert gray(bytes(content) + data) == gray(tiff(levels))


def test_twelve_bits_are_scaled_by_their_range():
    content = bytearray(tiff(np.zeros(6, "u1")))
    place = content.index(struct.pack("<HHI", 258, 4, 1)) + 8
    content[place : place + 4] = struct.pack("<I", 12)
    place = content.index(struct.pack("<HHI", 256, 4, 1)) + 8
    content[place : place + 4] = struct.pack("<I", 4)
    content[-6:] = int("000400800fff", 16).to_bytes(6, "big")
    assert gray(bytes(content)) == [0, 64, 128, 255]


def test_the_transparent_level_of_sixteen_bits_shows_white(tmp_path):
    Image.fromarray(np.array([[0, 1000, 40000]], np.uint16)).save(
        tmp_path / "a.png", transparency=1000
    )
    assert decode(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255, 156]


def test_a_larger_image_is_read_where_it_is_allowed_and_the_refusal_names_the_setting(tmp_path):
    header = encoded("PNG")[:16] + struct.pack(">II", 16000, 12000) + b"\x08\x02\0\0\0"
    content = header + struct.pack(">II", zlib.crc32(header[12:]), 0) + b"IDAT" + bytes(4)
    (tmp_path / "a.png").write_bytes(content)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        UnreadableImage, match=r"16000 x 12000; data.max_pixels or --max-pixels"
    ) as caught:
        decode(tmp_path / "a.png")
    assert caught.value.reason == "too many pixels"
    assert open_image((tmp_path / "a.png").open("rb"), 192_000_000).size == (16000, 12000)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode(tmp_path / "a.png", max_pixels=191_999_999)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_limits_that_others_set_in_pillow_are_not_ours(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(tmp_path / "a.jpg").shape == (30, 40, 3)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode(tmp_path / "a.jpg", max_pixels=1199)


def test_further_pages_and_bands_are_noticed(tmp_path):
    page = Image.new("RGB", (4, 4))
    page.save(tmp_path / "one.tif")
    for name in ("pages.tif", "frames.gif", "frames.webp"):
        page.save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", (4, 4), "red")])
    (tmp_path / "bands.tif").write_bytes(banded(5))
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    more = {path.name: holds_more(path) for path in tmp_path.iterdir()}
    assert more.pop("one.tif") == more.pop("broken.tif") == (False, False)
    assert more.pop("bands.tif") == (False, True) and set(more.values()) == {(True, False)}
    assert scan(tmp_path).notes == (
        "only the first page and up to three bands are read: 3 with further pages or frames, 1 "
        "with further bands",
    )


def banded(bands):
    """An RGB TIFF of one pixel with further bands."""
    content, extra = tiff(np.zeros(1, "u1")), bands - 3
    fields = {256: 1, 257: 1, 258: 8, 259: 1, 262: 2, 273: 200, 277: bands, 278: 1, 279: bands}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items() if tag != 258
    )
    entries += struct.pack("<HHIHH", 338, 3, extra, 0, 0)
    bits = struct.pack("<HHII", 258, 3, bands, 180)
    entries = entries[:24] + bits + entries[24:]
    content = b"II*\0" + struct.pack("<IH", 8, 10) + entries + bytes(4)
    return content.ljust(180, b"\0") + struct.pack(f"<{bands}H", *([8] * bands)) + bytes(10 + bands)


def test_a_reader_that_logs_errors_is_not_heard(caplog, tmp_path):
    (tmp_path / "a.tif").write_bytes(banded(13))
    with pytest.raises(UnreadableImage, match="unsupported TIFF layout"):
        decode(tmp_path / "a.tif")
    assert not caplog.records


def test_what_is_beyond_pillows_own_limit_is_told_as_that(tmp_path, monkeypatch):
    path = tmp_path / "large.tif"
    Image.new("RGB", (64, 64)).save(path, compression="tiff_deflate")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImage, match="too many pixels for Pillow's reader"):
        decode(path)
