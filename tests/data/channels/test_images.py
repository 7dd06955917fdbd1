"""Sets of chosen channels: from folders, lists, archives and files joined by a pattern."""

import json
import math
import pickle
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest

from ibot.config.reading import RGB, Channels
from ibot.data.channels import opening, statistics
from ibot.data.channels.images import ChannelImages
from ibot.data.channels.levels import to_levels
from ibot.data.channels.opening import with_mean
from ibot.data.channels.statistics import compute, statistics_of
from ibot.data.decode import UnreadableImage
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.open import find_labelled, open_images, open_labelled
from ibot.data.sets.subsets import SubsetImages
from ibot.errors import DataError, MissingExtra

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
from channel_files import tiff

ALL = Channels("all")
SHAPE = (24, 18)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "FOLDER", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def folder(tmp_path, rng):
    """Two classes of three images with four channels; values by name."""
    values = {}
    for name in ("dry/a", "dry/b", "dry/c", "wet/d", "wet/e", "wet/f"):
        values[name] = rng.integers(0, 65536, (*SHAPE, 4), np.uint16)
        path = tmp_path / "images" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(values[name], planarconfig="contig"))
    return tmp_path / "images", values


def write(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiff(values, **options))


def test_a_folder_of_classes_keeps_its_labels_and_gives_levels(folder):
    root, values = folder
    images = open_images(str(root), channels=ALL)
    assert isinstance(images, LabelledImages) and isinstance(images, Images)
    assert images.channels == ("1", "2", "3", "4") and images.classes == ("dry", "wet")
    for i in range(len(images)):
        pixels = images.read(i)
        assert pixels.dtype == np.float32 and images.size(i) == SHAPE
        assert np.array_equal(pixels, to_levels(values[images.name(i).removesuffix(".tif")]))
    assert not any("only the first page" in note for note in images.notes)
    assert images.provenance()["channels"] == ["1", "2", "3", "4"]


def test_colour_stays_as_it_was(folder):
    root, _ = folder
    images = open_images(str(root))
    assert images.channels == RGB and not isinstance(images, ChannelImages)


def test_channels_are_chosen_and_ordered_by_number(folder):
    root, values = folder
    images = open_images(str(root), channels=Channels("4,2"))
    assert images.channels == ("4", "2")
    assert np.array_equal(images.read(0), to_levels(values["dry/a"])[..., [3, 1]])
    again = open_images(str(root), channels=Channels(",".join(images.channels)))
    assert again.fingerprint() == images.fingerprint()
    assert again.fingerprint() != open_images(str(root), channels=ALL).fingerprint()


@pytest.mark.parametrize("names", ["5", "B02", "1,1", "0"])
def test_channels_that_are_not_there_are_refused(folder, names):
    with pytest.raises(DataError):
        open_images(str(folder[0]), channels=Channels(names))


def test_names_for_files_without_any_go_by_their_order_and_it_is_said(folder):
    images = open_images(str(folder[0]), channels=Channels("B02,B03,B04,B08"))
    assert images.channels == ("1", "2", "3", "4")
    assert any("do not name their channels" in note for note in images.notes)


def test_validation_parts_and_splits_are_read_alike(tmp_path, rng):
    for part in ("train", "val"):
        for name in ("dry/a", "dry/b", "wet/c", "wet/d"):
            write(tmp_path / part / f"{name}.tif", rng.integers(0, 9, SHAPE, np.uint16))
    train, val = open_labelled(str(tmp_path), channels=ALL)
    assert train.channels == val.channels == ("1",) and val.read(0).dtype == np.float32
    assert find_labelled(str(tmp_path), channels=ALL) is not None
    one, other = open_labelled(str(tmp_path / "train"), split=0.5, channels=ALL)
    assert len(one) == len(other) == 2 and other.read(1).shape == (*SHAPE, 1)


def test_lists_archives_and_subsets_are_read_alike(folder, tmp_path):
    root, values = folder
    table = tmp_path / "images.csv"
    table.write_text("path,label\nimages/dry/a.tif,x\nimages/wet/d.tif,y\n")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(root, arcname=".")
    whole = open_images(str(root), channels=ALL)
    listed = open_images(str(table), channels=ALL)
    packed = open_images(str(tmp_path / "images.tar"), channels=ALL)
    subset = SubsetImages(whole, [3, 0])
    for images, row, name in ((listed, 1, "wet/d"), (packed, 3, "wet/d"), (subset, 0, "wet/d")):
        assert images.channels == ("1", "2", "3", "4")
        assert np.array_equal(images.read(row), to_levels(values[name]))
    assert np.array_equal(pickle.loads(pickle.dumps(packed)).read(3), packed.read(3))


def test_images_of_other_channels_are_passed_over_with_the_reason(folder, rng):
    root, _ = folder
    write(root / "wet" / "z.tif", rng.integers(0, 9, (*SHAPE, 5), np.uint16), planarconfig="contig")
    for names in ("all", "2,3"):
        images = open_images(str(root), channels=Channels(names))
        with pytest.raises(UnreadableImage, match="other channels: 5"):
            images.read(len(images) - 1)
        images.read(0)


def test_npy_files_are_images_where_channels_are_asked_for(tmp_path, rng):
    values = rng.normal(size=(3, 5, *SHAPE)).astype(np.float32)
    for i, one in enumerate(values):
        (tmp_path / f"{'ab'[i % 2]}").mkdir(exist_ok=True)
        np.save(tmp_path / f"{'ab'[i % 2]}" / f"{i}.npy", one)
    images = open_images(str(tmp_path), channels=ALL)
    assert len(images) == 3 and images.channels == ("1", "2", "3", "4", "5")
    assert np.array_equal(images.read(1), np.moveaxis(values[2], 0, -1))


def test_the_packages_that_read_channels_are_named_where_they_are_missing(folder, monkeypatch):
    missing = SimpleNamespace(find_spec=lambda name: None if name == "tifffile" else name)
    monkeypatch.setattr(opening, "importlib", SimpleNamespace(util=missing))
    with pytest.raises(MissingExtra, match="tifffile"):
        open_images(str(folder[0]), channels=ALL)
    assert open_images(str(folder[0])).channels == RGB, "colour needs none of them"


# One file for each channel.


@pytest.fixture
def scattered(tmp_path, rng):
    values = {name: rng.integers(0, 256, (*SHAPE, 3), np.uint8) for name in "abcd"}
    for name, image in values.items():
        for channel in range(3):
            kind = "dry" if name in "ab" else "wet"
            write(tmp_path / "cells" / kind / f"{name}_{channel + 1}.tif", image[..., channel])
    return tmp_path / "cells", values


JOINED = Channels("all", "{name}_{channel}.tif")


def test_files_of_one_channel_are_joined_and_keep_their_class(scattered):
    root, values = scattered
    images = open_images(str(root), channels=JOINED)
    assert len(images) == 4 and images.name(2) == "wet/c" and images.channels == ("1", "2", "3")
    assert isinstance(images, LabelledImages) and images.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(images.read(2), to_levels(values["c"]))
    assert images.provenance()["images"] == 4
    two = open_images(str(root), channels=Channels("3,1", JOINED.files))
    assert np.array_equal(two.read(1), to_levels(values["b"])[..., [2, 0]])


def test_folders_of_channels_are_no_classes(tmp_path, rng):
    for channel in ("B1", "B2"):
        for name in "xy":
            write(tmp_path / channel / f"{name}.tif", rng.integers(0, 9, SHAPE, np.uint16))
    images = open_images(str(tmp_path), channels=Channels("all", "{channel}/{name}.tif"))
    assert images.channels == ("B1", "B2") and images.name(1) == "y"
    assert not isinstance(images, LabelledImages)
    with pytest.raises(DataError, match="no classes"):
        open_labelled(str(tmp_path), split=0.5, channels=Channels("all", "{channel}/{name}.tif"))


def test_a_missing_file_and_one_of_another_size_are_passed_over(scattered, rng):
    root, _ = scattered
    (root / "dry" / "a_2.tif").unlink()
    write(root / "wet" / "d_3.tif", rng.integers(0, 9, (5, 6), np.uint8))
    (root / "wet" / "c_1.tif").write_bytes(b"II*\0")
    images = open_images(str(root), channels=JOINED)
    assert any("1 image of 4 without a file for each channel" in note for note in images.notes)
    for row, reason in ((0, "channel 2 is missing"), (2, "c_1.tif"), (3, "different sizes")):
        with pytest.raises(UnreadableImage, match=reason):
            images.read(row)
    images.read(1)
    chosen = open_images(str(root), channels=Channels("1,3", JOINED.files))
    assert chosen.read(0).shape == (*SHAPE, 2), "a channel that nobody reads may be missing"


def test_a_pattern_without_channels_is_refused(scattered):
    with pytest.raises(DataError, match="joins files"):
        open_images(str(scattered[0]), channels=Channels("rgb", JOINED.files))


# What is no number.


@pytest.fixture
def holes(tmp_path, rng):
    values = rng.normal((3, 100), (1, 20), (4, *SHAPE, 2)).astype(np.float32)
    values[0, :4, :, 0] = np.nan
    values[1, 0, 0, 1] = -9999
    values[3, :13] = np.inf
    for i, one in enumerate(values):
        write(tmp_path / "holes" / f"{i}.tif", one, planarconfig="contig")
    values[values == -9999] = np.nan
    return tmp_path / "holes", values


def test_the_mean_of_the_channel_stands_where_there_is_no_number(holes):
    root, values = holes
    images = open_images(str(root), channels=Channels("all", no_data=(-9999.0,)))
    kept = values[:3].reshape(-1, 2).astype(np.float64)
    mean, std = statistics_of(images)
    assert mean == pytest.approx(np.nanmean(kept, 0)) and std == pytest.approx(np.nanstd(kept, 0))
    first = images.read(0)
    missing = np.isnan(values[0])
    assert np.array_equal(first[~missing], values[0][~missing])
    assert np.allclose(first[:4, :, 0], mean[0]) and np.isfinite(first).all()
    assert images.read(1)[0, 0, 1] == np.float32(mean[1])
    invalid = 4 * SHAPE[1] + 1
    assert any(note.startswith(f"{invalid} of ") for note in images.notes)


@pytest.mark.parametrize(
    "broken",
    [
        lambda kept: kept[: len(kept) // 2],
        lambda kept: b"[1, 2]",
        lambda kept: json.dumps({**json.loads(kept), "mean": [0.5], "std": [1.0]}).encode(),
        lambda kept: json.dumps({**json.loads(kept), "std": [1.0, 0.0]}).encode(),
        lambda kept: json.dumps({**json.loads(kept), "mean": [1.0, math.nan]}).encode(),
        lambda kept: json.dumps({**json.loads(kept), "about": "another set"}).encode(),
        lambda kept: json.dumps({**json.loads(kept), "images": 0}).encode(),
    ],
)
def test_statistics_in_the_cache_that_cannot_be_of_these_images_are_computed_again(
    holes, cache, broken
):
    root, _ = holes
    right = open_images(str(root), channels=ALL).statistics()
    (file,) = cache.iterdir()
    file.write_bytes(broken(file.read_bytes()))
    assert open_images(str(root), channels=ALL).statistics() == right
    assert json.loads(file.read_bytes())["mean"] == list(right.mean)


def test_a_given_mean_is_taken_in_place_of_that_of_the_data(holes):
    images = open_images(str(holes[0]), channels=Channels("all", mean=(7.0, 8.0)))
    assert (images.read(0)[:4, :, 0] == 7).all()
    other = open_images(str(holes[0]), channels=ALL)
    assert images.fingerprint() != other.fingerprint()


def test_a_run_takes_the_mean_of_its_network(holes):
    images = open_images(str(holes[0]), channels=ALL)
    images.statistics()
    again = with_mean(SubsetImages(images, [1, 0]), (7.0, 8.0))
    assert (again.read(1)[:4, :, 0] == 7).all()
    assert not (images.read(0)[:4, :, 0] == 7).any(), "the set itself stays as it is"
    assert again.base.notes == images.notes
    assert images.provenance()["invalid_share"] == pytest.approx(4 * 18 / (3 * 24 * 18 * 2))


def test_an_image_that_is_mostly_invalid_is_passed_over(holes):
    images = open_images(str(holes[0]), channels=ALL)
    with pytest.raises(UnreadableImage, match="mostly invalid: 54%"):
        images.read(3)
    assert images.statistics().unreadable == 1


def test_statistics_are_kept_until_the_data_change(holes, cache, rng):
    root, _ = holes
    first = statistics_of(open_images(str(root), channels=ALL))
    (kept,) = cache.iterdir()
    kept.write_text(kept.read_text().replace(str(first[0][0]), "12.5"))
    assert statistics_of(open_images(str(root), channels=ALL))[0][0] == 12.5
    kept.write_text("damaged")
    assert statistics_of(open_images(str(root), channels=ALL)) == first
    write(root / "4.tif", np.full((*SHAPE, 2), 50, np.float32), planarconfig="contig")
    assert statistics_of(open_images(str(root), channels=ALL)) != first


def test_statistics_of_pictures_and_of_flat_channels(tmp_path, rng):
    from PIL import Image

    pixels = rng.integers(0, 256, (*SHAPE, 3), np.uint8)
    pixels[..., 2] = 51
    (tmp_path / "p").mkdir()
    Image.fromarray(pixels).save(tmp_path / "p" / "a.png")
    for channels in (Channels(), ALL):
        found = compute(open_images(str(tmp_path / "p"), channels=channels))
        assert found.mean == pytest.approx(pixels.reshape(-1, 3).mean(0) / 255)
        assert found.std[0] == pytest.approx(pixels[..., 0].std() / 255)
        assert found.std[2] == 1, "what has one value is divided by 1"


def test_a_folder_of_which_nothing_can_be_read_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(DataError, match="none of 1 sampled images"):
        open_images(str(tmp_path), channels=ALL)
