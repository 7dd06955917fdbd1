"""What comes of files by way of simplejpeg, beside Pillow's."""

import io

import numpy as np
import pytest
from PIL import Image

from ibot.data import decode_fast
from ibot.data.decode import UnreadableImage, decode, decode_file


def outcome(read, *given):
    try:
        return read(*given)
    except UnreadableImage as error:
        return str(error)


def same(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and one == other
    return one.dtype == other.dtype == np.uint8 and np.array_equal(one, other)


@pytest.fixture
def by_simplejpeg(monkeypatch):
    """A list that grows with every picture simplejpeg decodes."""
    simplejpeg = pytest.importorskip("simplejpeg")
    pictures = []

    def decode_jpeg(data, space, **place):
        pictures.append(simplejpeg.decode_jpeg(data, space, **place))
        return pictures[-1]

    monkeypatch.setattr(decode_fast, "_decoder", lambda: decode_jpeg)
    return pictures


@pytest.fixture
def noise():
    """A picture with edges, slopes and noise, whose sides are no multiples of blocks."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:101, :75]
    smooth = np.stack([x * 3, y * 2, (x * y) % 256], axis=-1) % 256
    return Image.fromarray((smooth * 0.7 + rng.integers(0, 77, smooth.shape)).astype(np.uint8))


@pytest.mark.parametrize("orientation", ["apply", "ignore"])
def test_odd_and_damaged_files_come_out_as_pillow_gives_them(broken, orientation, by_simplejpeg):
    folder, entries = broken
    assert len(entries) > 20
    for entry in entries:
        path = folder / (entry if isinstance(entry, str) else entry["file"])
        want = outcome(decode, path, orientation)
        assert same(outcome(decode_fast.decode, path, orientation), want), path.name
    assert by_simplejpeg


@pytest.mark.parametrize(
    "how",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True, "subsampling": 2},
        {"quality": 20},
        {"quality": 100, "subsampling": 0},
        {"optimize": True, "restart_marker_blocks": 3},
        {"keep_rgb": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("tag", [1, 3, 5, 6])
def test_pictures_of_every_sampling_are_pillows_bit_by_bit(noise, how, tag, by_simplejpeg):
    exif = Image.Exif()
    exif[0x0112] = tag
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG", exif=exif, **how)
    got = decode_fast.decode_file(io.BytesIO(buffer.getvalue()))
    np.testing.assert_array_equal(got, decode_file(io.BytesIO(buffer.getvalue())))
    assert got.shape == ((75, 101, 3) if tag > 4 else (101, 75, 3))
    assert len(by_simplejpeg) == 1


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_printers_colours_are_left_to_pillow(noise, mode, by_simplejpeg):
    buffer = io.BytesIO()
    noise.convert(mode).save(buffer, "JPEG")
    data = buffer.getvalue()
    np.testing.assert_array_equal(
        decode_fast.decode_file(io.BytesIO(data)), decode_file(io.BytesIO(data))
    )
    assert not by_simplejpeg


def test_what_simplejpeg_refuses_is_refused_or_read_by_pillow(noise, by_simplejpeg):
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG", quality=90)
    whole, rng = buffer.getvalue(), np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(2, len(data), 3):
            data[place] = rng.integers(256)
        data = bytes(data[: rng.integers(len(data) // 2, 2 * len(data))])
        want = outcome(decode_file, io.BytesIO(data))
        got = outcome(decode_fast.decode_file, io.BytesIO(data))
        kinds.add(isinstance(want, str))
        # A picture that both read is the same; simplejpeg is the stricter of the two.
        assert same(got, want)
    assert kinds == {True, False} and by_simplejpeg


def test_a_large_picture_is_refused_with_the_same_words(noise):
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    words = [
        outcome(read, io.BytesIO(buffer.getvalue()), "apply", 100)
        for read in (decode_file, decode_fast.decode_file)
    ]
    assert words[0] == words[1] and "75 x 101" in words[0]


def test_without_simplejpeg_all_is_pillows(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(decode_fast, "_decoder", lambda: None)
    path = tmp_path / "a.jpg"
    noise.save(path)
    np.testing.assert_array_equal(decode_fast.decode(path), decode(path))
    assert outcome(decode_fast.decode, tmp_path / "none.jpg") == "missing"


def test_pixels_are_laid_into_room_where_there_is_some(noise, broken, by_simplejpeg):
    folder, entries = broken
    paths = [folder / (entry if isinstance(entry, str) else entry["file"]) for entry in entries]
    memory, offered = np.empty(4 * 10**6, np.uint8), []

    def room(height, width):
        if 3 * height * width > len(memory):
            return None
        offered.append(memory[: 3 * height * width].reshape(height, width, 3))
        return offered[-1]

    laid = 0
    for path in paths:
        memory[:] = 7
        got = outcome(decode_fast.decode, path, "apply", 10**8, room)
        assert same(got, outcome(decode, path, "apply", 10**8)), path.name
        laid += any(got is place for place in offered)
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    buffer.seek(0)
    assert decode_fast.decode_file(buffer, room=room) is offered[-1] and laid
    buffer.seek(0)
    assert decode_fast.decode_file(buffer, room=lambda *_: None).base is not memory
