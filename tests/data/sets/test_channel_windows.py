import numpy as np
import pytest
from slides import halved, write_pyramid

from ibot.config.reading import Channels, Windows
from ibot.config.schema import AugmentConfig
from ibot.data.channels.images import ChannelImages
from ibot.data.channels.opening import with_channels
from ibot.data.channels.statistics import statistics_of
from ibot.data.decode import UnreadableImage
from ibot.data.needed import read_part
from ibot.data.sets.content import content
from ibot.data.sets.files import file_images
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.open import open_images, open_labelled
from ibot.data.sets.windows import windowed

tifffile = pytest.importorskip("tifffile", reason="extra slides")
ALL = Channels("all")


def bands(height, width, count, dtype=np.uint16, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 4000, (height // 8, width // 8, count))
    return np.kron(coarse, np.ones((8, 8, 1), int)).astype(dtype)


def interleaved(path, values):
    write_pyramid(path, values, (4,), photometric="minisblack", planarconfig="contig")


def pages(path, values):
    """One page a band, each with a reduced level in its SubIFD, as OME-TIFF has them."""
    how = {"photometric": "minisblack", "compression": "zlib", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path) as file:
        for band in np.moveaxis(values, 2, 0):
            file.write(band, subifds=1, **how)
            file.write(halved(band[..., None], 4)[..., 0], subfiletype=1, **how)


@pytest.mark.parametrize("write", [interleaved, pages])
def test_windows_have_the_levels_of_the_whole_image(tmp_path, write):
    values = bands(320, 256, 5)
    write(tmp_path / "a.tif", values)
    images = open_images(str(tmp_path), channels=ALL, windows=Windows(100))
    whole = open_images(str(tmp_path), channels=ALL)
    assert images.channels == whole.channels == ("1", "2", "3", "4", "5")
    assert isinstance(whole, ChannelImages) and len(images) == 3 * 3
    for index in range(9):
        _, (top, left, height, width) = images.place(index)
        want = whole.read(0)[top : top + height, left : left + width]
        np.testing.assert_array_equal(images.read(index), want)
        assert want.dtype == np.float32
    small = images.read_region(0, (0, 0, 64, 96), (16, 24))
    np.testing.assert_allclose(small, halved(values, 4)[:16, :24] / 65535, atol=1e-6)


def test_channels_of_an_ome_tiff_have_their_names(tmp_path):
    values = bands(256, 192, 3)
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "FITC", "CY5"]}}
    how = {"photometric": "minisblack", "tile": (64, 64)}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(np.moveaxis(values, 2, 0), subifds=1, metadata=names, **how)
        file.write(np.moveaxis(values[::2, ::2], 2, 0), subfiletype=1, **how)
    images = open_images(str(tmp_path), channels=Channels("CY5,DAPI"), windows=Windows(64))
    assert images.channels == ("CY5", "DAPI")
    np.testing.assert_allclose(images.read(4), values[64:128, 64:128, [2, 0]] / 65535, atol=1e-7)
    part, place = images.read_level(4, (0, 0, 64, 64), 2.0)
    assert part.shape == (32, 32, 2) and place == (0, 0, 64, 64), "from the SubIFDs of all pages"


def test_some_channels_are_chosen_in_their_order(tmp_path):
    values = bands(128, 128, 5)
    interleaved(tmp_path / "a.tif", values)
    images = open_images(str(tmp_path), channels=Channels("4,2"), windows=Windows(64))
    np.testing.assert_allclose(images.read(3), values[64:, 64:, [3, 1]] / 65535, atol=1e-7)


def test_what_was_not_measured_gets_the_mean_of_the_windows(tmp_path):
    values = bands(256, 192, 2, np.float32)
    values[:64, :40] = np.nan
    values[200:, :, 1] = -9999
    write_pyramid(tmp_path / "a.tif", values, (), photometric="minisblack", planarconfig="contig")
    asked = Channels("all", no_data=(-9999.0,))
    images = open_images(str(tmp_path), channels=asked, windows=Windows(64))
    mean, std = statistics_of(images)
    valid = np.where(values == -9999, np.nan, values)
    # A window that is mostly NaN is left out.
    kept = valid.copy()
    kept[:64, :64] = np.nan
    assert mean == pytest.approx(np.nanmean(kept, axis=(0, 1)), rel=1e-3) and min(std) > 0
    with pytest.raises(UnreadableImage, match="mostly invalid"):
        images.read(0)
    last = images.read(9)
    np.testing.assert_allclose(last[8:, :, 1], mean[1], rtol=1e-5)
    np.testing.assert_array_equal(last[:8], values[192:200, :64])
    given = Channels("all", no_data=(-9999.0,), mean=(7.0, 8.0))
    named = open_images(str(tmp_path), channels=given, windows=Windows(64))
    assert (named.read(9)[8:, :, 1] == 8).all(), "as the network has it"


def test_windows_with_too_few_valid_pixels_are_left_out(tmp_path):
    values = bands(256, 192, 3)
    values[:128] = 0
    interleaved(tmp_path / "a.tif", values)
    images = open_images(str(tmp_path), channels=ALL, windows=Windows(64, content=0.5))
    assert {images.place(i).box[0] for i in range(len(images))} == {128, 192}
    drawn = open_images(str(tmp_path), channels=ALL, windows=Windows(64, 40, 0.9, "random"))
    epoch = drawn.for_epoch(2, 0)
    assert all(content(epoch.base, *epoch.place(i)) >= 0.9 for i in range(40))


def test_training_reads_the_part_that_its_views_need(tmp_path):
    values = bands(640, 640, 3)
    interleaved(tmp_path / "a.tif", values)
    images = open_images(str(tmp_path), channels=ALL, windows=Windows(512, 8, at="random"))
    config = AugmentConfig(num_local=0, global_size=(32, 32), global_scale=(0.3, 1.0))
    part = read_part(images.for_epoch(0, 0), 3, config, 0, 0)
    assert part.pixels.dtype == np.float32 and part.pixels.shape[2] == 3
    assert part.size == (512, 512) and part.place[2] == 4 * part.pixels.shape[0]


def test_windows_of_channels_keep_their_class(tmp_path):
    for part in ("train", "val"):
        for number, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            interleaved(tmp_path / part / name / "1.tif", bands(128, 64, 4, seed=number))
    train, val = open_labelled(str(tmp_path), channels=ALL, windows=Windows(64))
    assert isinstance(val, LabelledImages) and train.labels.tolist() == [0, 0, 1, 1]
    assert val.read(2).shape == (64, 64, 4) and train.channels == ("1", "2", "3", "4")


def test_real_bands_are_seen_in_windows(shared_data):
    folder = shared_data / "scientific"
    for name in ("s2_13band_uint16_interleaved", "s2_13band_uint16_planar", "s2_13pages_uint16"):
        values = tifffile.imread(folder / f"{name}.tif")
        values = np.moveaxis(values, 0, -1) if len(values) == 13 else values
        images = windowed(with_channels(file_images(folder, [f"{name}.tif"]), ALL), Windows(48))
        assert len(images) == 4
        want = values[48:96, 48:96] / 65535
        np.testing.assert_allclose(images.read(3), want, atol=1e-7)


@pytest.mark.parametrize("overview", [True, False])
def test_a_mask_hides_the_same_in_windows_as_in_the_whole(tmp_path, overview):
    values, mask = bands(256, 192, 2), np.ones((256, 192), bool)
    mask[:20, 64:] = mask[200:220, :100] = False
    how = {"compression": "zlib", "tile": (64, 64), "metadata": None}
    levels = {"photometric": "minisblack", "planarconfig": "contig", **how}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(values, **levels)
        file.write(mask, photometric="mask", subfiletype=4, **how)
        file.write(halved(values, 4), subfiletype=1, **levels)
        if overview:
            file.write(mask[::4, ::4], photometric="mask", subfiletype=5, **how)
    images = open_images(str(tmp_path), channels=ALL, windows=Windows(64))
    whole = open_images(str(tmp_path), channels=ALL)
    assert isinstance(whole, ChannelImages) and np.isnan(whole.measured(0)).any()
    for index in (0, 1, 9):
        _, (top, left, height, width) = images.place(index)
        want = whole.measured(0)[top : top + height, left : left + width]
        np.testing.assert_array_equal(images.measured(index), want)
    part, place = images.read_level(5, (0, 0, 64, 64), 4.0)
    assert not np.isnan(part).any() and place == (0, 0, 64, 64)
    assert part.shape == ((16, 16, 2) if overview else (64, 64, 2)), "no level without its mask"
    assert content(images.base, 0, (192, 0, 64, 64)) == pytest.approx(44 / 64)


def test_bands_that_are_stored_in_different_ways_are_read_as_in_the_whole(tmp_path):
    values = bands(128, 128, 2)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for band, compression in zip(np.moveaxis(values, 2, 0), ("zlib", None), strict=True):
            how = {"photometric": "minisblack", "tile": (64, 64), "metadata": None}
            file.write(band, compression=compression, **how)
    images = open_images(str(tmp_path), channels=ALL, windows=Windows(64))
    np.testing.assert_allclose(images.read(3), values[64:, 64:] / 65535, atol=1e-7)


def test_how_many_values_of_windows_are_none_is_said(tmp_path):
    values = bands(128, 128, 2, np.float32)
    values[:16, :16, 0] = np.nan
    write_pyramid(tmp_path / "a.tif", values, (), photometric="minisblack", planarconfig="contig")
    images = open_images(str(tmp_path), channels=ALL, windows=Windows(64))
    statistics_of(images)
    assert any(note.startswith("256 of 32768 values in 4 sampled images") for note in images.notes)
