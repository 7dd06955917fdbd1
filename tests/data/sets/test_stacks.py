import sys

import numpy as np
import pytest
import zarr

from ibot.config.reading import RGB, Channels
from ibot.data.decode import UnreadableImage
from ibot.data.sets.open import find_labelled, open_images, open_labelled
from ibot.errors import MissingExtra

ALL = Channels(names="all")


def pictures(count=5, shape=(9, 8, 3), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (count, *shape)).astype(dtype)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_bytes_in_three_channels_or_one_are_colour_pictures(tmp_path, order, version):
    for name, shape in (("colour", (9, 8, 3)), ("gray", (9, 8)), ("one", (9, 8, 1))):
        values = np.asarray(pictures(shape=shape), order=order)
        with (tmp_path / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array(file, values, version=version)
        images = open_images(str(tmp_path / f"{name}.npy"))
        assert images.channels == RGB and images.size(2) == (9, 8) and len(images) == 5
        wanted = np.broadcast_to(values.reshape(5, 9, 8, -1), (5, 9, 8, 3))
        for i in range(5):
            assert np.array_equal(images.read(i), wanted[i])
        assert images.read(0).flags.writeable and images.notes == ()


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int16, np.float32, np.float64, bool])
def test_other_types_and_channels_are_levels(tmp_path, dtype):
    values = pictures(shape=(9, 8, 5), dtype=dtype)
    np.save(tmp_path / "a.npy", values)
    plain = open_images(str(tmp_path / "a.npy"))
    with pytest.raises(UnreadableImage, match=r"5 channels of type .*data.channels=all"):
        plain.read(0)
    images = open_images(str(tmp_path / "a.npy"), channels=ALL)
    got = images.read(3)
    kind = np.dtype(dtype)
    shift, span = (
        (0, 1) if kind.kind in "bf" else (np.iinfo(kind).min, 2 ** (8 * kind.itemsize) - 1)
    )
    wanted = (values[3].astype(np.float64) - shift) / span
    assert got.dtype == np.float32 and images.channels == ("1", "2", "3", "4", "5")
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_what_was_not_measured_is_the_mean_of_its_channel(tmp_path):
    values = pictures(shape=(9, 8, 2), dtype=np.float32)
    values[1, 4, 4] = np.nan
    values[2, 5, 5, 0] = -9999
    np.save(tmp_path / "a.npy", values)
    images = open_images(str(tmp_path / "a.npy"), channels=Channels(names="all", no_data=(-9999,)))
    for i in range(5):
        got = images.read(i)
        assert np.isfinite(got).all() and got.min() >= 0
        known = np.isfinite(values[i]) & (values[i] != -9999)
        assert np.array_equal(got[known], values[i][known])


def test_channels_that_come_first_are_put_last_and_said(tmp_path):
    values = pictures(shape=(3, 20, 30))
    np.save(tmp_path / "a.npy", values)
    images = open_images(str(tmp_path / "a.npy"))
    assert images.size(0) == (20, 30)
    assert np.array_equal(images.read(2), values[2].transpose(1, 2, 0))
    assert images.notes == ("taken for [N, C, H, W]: 'a.npy uint8 [5, 3, 20, 30]'",)


def test_several_stacks_are_one_set_with_the_labels_of_all(tmp_path, names):
    for name, count in (("a", 2), ("b", 3)):
        np.save(tmp_path / f"{name}.npy", pictures(count, seed=count))
    np.save(tmp_path / "labels.npy", np.array([10, 9, 9, 10, 2]))
    images = open_images(str(tmp_path))
    assert names(images) == ["a.npy/00000", "a.npy/00001", *(f"b.npy/0000{i}" for i in range(3))]
    assert images.classes == ("2", "9", "10") and images.labels.tolist() == [2, 1, 1, 2, 0]
    assert np.array_equal(images.read(3), pictures(3, seed=3)[1])
    assert len(open_images(f"{tmp_path}/[ab].npy")) == 5


def test_parts_have_stacks_and_labels_of_their_own(tmp_path):
    for part, count in (("train", 4), ("val", 3)):
        np.save(tmp_path / f"{part}.npy", pictures(count))
        np.save(tmp_path / f"{part}-labels.npy", np.array(["b", "a", "b", "a"][:count]))
    train, val = open_labelled(str(tmp_path))
    assert (len(train), len(val), val.classes) == (4, 3, ("a", "b"))
    assert train.labels.tolist() == [1, 0, 1, 0] and find_labelled(str(tmp_path)) is not None


def test_a_folder_of_single_pictures_is_read_by_channels(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", pictures(1, (20, 30, 6), np.uint16, i)[0])
    images = open_images(str(tmp_path), channels=ALL)
    assert len(images) == 3 and images.read(0).shape == (20, 30, 6)


@pytest.mark.parametrize(
    ("values", "what", "why"),
    [
        (np.array([np.zeros((2, 2)), np.zeros((3, 3))], object), "holds values of type object", ""),
        (np.zeros((9, 8, 3), np.uint8), "is no stack", "one picture"),
        (np.zeros((9, 8), np.uint8), "is no stack", "[9, 8]"),
        (np.zeros((0, 9, 8, 3), np.uint8), "holds no pictures", "[0, 9, 8, 3]"),
        (np.array(["a", "b"]), "holds values of type", ""),
        (np.zeros((5, 9, 8, 3), np.int64), "holds values of type int64", "nobody scales"),
    ],
)
def test_other_arrays_are_refused(tmp_path, values, what, why, refused):
    np.save(tmp_path / "a.npy", values)
    assert why in refused(open_images, str(tmp_path / "a.npy"), match=what).why


class Trap:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_is_unpickled(tmp_path, refused, capsys):
    np.save(tmp_path / "a.npy", np.array([Trap()], object))
    refused(open_images, str(tmp_path / "a.npy"), match="values of type object")
    np.save(tmp_path / "b.npy", pictures(1))
    np.save(tmp_path / "b_labels.npy", np.array([Trap()], object))
    refused(open_images, str(tmp_path / "b.npy"), match="labels .* cannot be read")
    (tmp_path / "c.zarr").mkdir()
    codec = {"id": "pickle", "protocol": 5}
    about = f'{{"zarr_format": 2, "shape": [1], "filters": [{codec}]}}'.replace("'", '"')
    (tmp_path / "c.zarr" / ".zarray").write_text(about)
    assert "would run code" in refused(open_images, str(tmp_path / "c.zarr"), match="zarr arr").why
    assert capsys.readouterr().out == ""


def test_damage_and_what_does_not_fit_is_refused(tmp_path, refused):
    np.save(tmp_path / "a.npy", pictures())
    whole = (tmp_path / "a.npy").read_bytes()
    for content in (b"", b"no array" * 20, whole[:40]):
        (tmp_path / "a.npy").write_bytes(content)
        refused(open_images, str(tmp_path / "a.npy"), match="cannot be read as .npy")
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    refused(open_images, str(tmp_path / "a.npy"), match="is cut short")
    (tmp_path / "a.npy").write_bytes(whole)
    images = open_images(str(tmp_path / "a.npy"))
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    with pytest.raises(UnreadableImage, match="truncated"):
        images.read(4)
    (tmp_path / "a.npy").write_bytes(whole)
    for labels, match in (
        (np.arange(4), "4 labels for the 5 images"),
        (np.zeros(5), "holds no labels"),
        (np.zeros((5, 2), int), "holds no labels"),
    ):
        np.save(tmp_path / "labels.npy", labels)
        refused(open_images, str(tmp_path / "a.npy"), match=match)
    (tmp_path / "labels.npy").unlink()
    np.save(tmp_path / "b.npy", pictures(dtype=np.uint16))
    refused(open_images, str(tmp_path), match="different kinds of images")


@pytest.mark.parametrize("form", [2, 3])
def test_zarr_arrays_of_both_formats_are_read(tmp_path, form, names):
    values = pictures()
    zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(1, 9, 8, 3), zarr_format=form)
    images = open_images(str(tmp_path / "a.zarr"))
    assert names(images)[4] == "a.zarr/00004" and images.notes == ()
    for i in (4, 0, 2):
        assert np.array_equal(images.read(i), values[i])
    other = zarr.create_array(
        tmp_path / "g.zarr" / "images", data=values, chunks=(4, 9, 8, 3), zarr_format=form
    )
    assert other.shape == values.shape
    zarr.create_array(tmp_path / "g.zarr" / "labels", data=np.array([1, 0, 1, 0, 1]))
    images = open_images(str(tmp_path / "g.zarr" / "images"))
    assert images.labels.tolist() == [1, 0, 1, 0, 1]
    assert "read with the 4 of its chunk" in images.notes[0]


def test_zarr_groups_and_damaged_arrays_are_refused(tmp_path, refused):
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("images", data=pictures())
    error = refused(open_images, str(tmp_path / "g.zarr"), match="is a zarr group, not an array")
    assert error.why == "its arrays are 'images'" and error.fix.endswith("g.zarr/images")
    (tmp_path / "g.zarr" / "images" / "zarr.json").write_text("{")
    refused(open_images, str(tmp_path / "g.zarr" / "images"), match="cannot be read as a zarr")


def test_a_damaged_chunk_is_an_unreadable_image(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=pictures(), chunks=(1, 9, 8, 3))
    (tmp_path / "a.zarr" / "c" / "1" / "0" / "0" / "0").write_bytes(b"no chunk")
    images = open_images(str(tmp_path / "a.zarr"))
    with pytest.raises(UnreadableImage, match="cannot be read"):
        images.read(1)
    assert images.read(2).shape == (9, 8, 3)


def test_without_zarr_it_is_named(tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "a.zarr", data=pictures(), chunks=(1, 9, 8, 3))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtra) as caught:
        open_images(str(tmp_path / "a.zarr"))
    assert caught.value.fix.startswith('pip install "zarr>=')
