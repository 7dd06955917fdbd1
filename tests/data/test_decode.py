import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ibot.data.decode import UnreadableImage, decode


@pytest.fixture(scope="session")
def broken(shared_data, tmp_path_factory):
    """The folder of odd and damaged files, with its manifest."""
    folder = tmp_path_factory.mktemp("broken")
    with tarfile.open(shared_data / "broken" / "broken.tar") as archive:
        archive.extractall(folder, filter="tar")
    return folder / "broken", json.loads((shared_data / "broken" / "manifest.json").read_text())["files"]


def quadrant_means(image):
    h, w = image.shape[0] // 2, image.shape[1] // 2
    return [q.reshape(-1, 3).mean(0) for q in (image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:])]


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
        assert list(image.shape[1::-1]) == entry["size"] and image.dtype == np.uint8 and image.shape[2] == 3
        tolerance = entry.get("tolerance", 1)
        if "quadrants" in entry:
            np.testing.assert_allclose(quadrant_means(image), entry["quadrants"], atol=tolerance, err_msg=entry["file"])
        if "rgb_mean" in entry:
            np.testing.assert_allclose(image.reshape(-1, 3).mean(0), entry["rgb_mean"], atol=tolerance)
        if "pixel" in entry:
            np.testing.assert_array_equal(image[0, 0], entry["pixel"])


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
    image = np.asarray(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).resize((32, 24)))
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", **options)
    got = decode(tmp_path / f"a.{suffix}")
    assert np.abs(got.astype(int) - image).max() <= (8 if suffix == "jpg" else 0)


def test_float_images_are_scaled(tmp_path):
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for factor in (1, 300):
        Image.fromarray(values * factor).save(tmp_path / "a.tif")
        assert np.abs(decode(tmp_path / "a.tif")[..., 0] - values * 255).max() <= 0.5
