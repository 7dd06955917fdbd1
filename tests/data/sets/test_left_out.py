"""What is read of the data and what is not: parts, columns and files left out are named."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from ibot.config.reading import RGB, Channels
from ibot.data.sets.open import find_labelled, open_images, open_labelled, open_parts


def jpeg(seed=0, mode="RGB"):
    shape = (20, 24, 3) if mode == "RGB" else (20, 24)
    pixels = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    Image.fromarray(pixels, mode).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


def write(root, *names, content=None):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(i) if content is None else content)


@pytest.fixture
def three_parts(tmp_path):
    """A maker of a set in a form with the parts train, val and test, each of two classes."""
    names = [f"{part}/{name}/0.jpg" for part in ("train", "val", "test") for name in "ab"]

    def make(form):
        if form == "folder":
            write(tmp_path, *names)
            return tmp_path
        if form == "list":
            write(tmp_path, *names)
            rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
            (tmp_path / "all.csv").write_text("\n".join(["path,label,split", *rows]))
            return tmp_path / "all.csv"
        if form == "tar":
            for part in ("train", "val", "test"):
                with tarfile.open(tmp_path / f"{part}-0.tar", "w") as shard:
                    for name in "ab":
                        content = jpeg()
                        about = tarfile.TarInfo(f"{name}/0.jpg")
                        about.size = len(content)
                        shard.addfile(about, io.BytesIO(content))
            return tmp_path
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = {
            "image": [jpeg(i) for i in range(6)],
            "label": ["a", "b"] * 3,
            "split": [name.split("/")[0] for name in names],
        }
        parquet.write_table(pa.table(table), tmp_path / "all.parquet")
        return tmp_path / "all.parquet"

    return make


@pytest.mark.parametrize("form", ["folder", "list", "tar", "parquet"])
def test_parts_that_are_held_out_are_named_whatever_holds_them(three_parts, form):
    data = str(three_parts(form))
    images = open_images(data)
    assert len(images) == 2
    (note,) = images.notes
    assert note.startswith("only the training part 'train") and "is read; beside it" in note
    beside = note.partition("beside it")[2]
    assert "val" in beside and "test" in beside
    train, val = open_labelled(data)
    assert train.notes == (), "the validation part is read too"
    (left,) = val.notes
    assert left.startswith("of the parts held out 'val") and "not read: 'test" in left
    assert find_labelled(data)[1].notes == val.notes
    parts = open_parts(data)
    assert parts["train"].notes == () and parts["val"].notes == val.notes


@pytest.mark.parametrize("form", ["folder", "list"])
def test_nothing_is_said_of_parts_that_are_read(three_parts, form, tmp_path):
    data = str(three_parts("folder"))
    (tmp_path / "test").rename(tmp_path.parent / f"{tmp_path.name}-test")
    if form == "list":
        (tmp_path / "all.csv").write_text("path,label\ntrain/a/0.jpg,a\ntrain/b/0.jpg,b")
        assert open_images(str(tmp_path / "all.csv")).notes == ()
        return
    train, val = open_labelled(data)
    assert train.notes == val.notes == ()


def test_the_columns_of_a_table_that_were_taken_and_those_that_could_be_meant_are_named(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def save(name, **columns):
        parquet.write_table(pa.table(columns), tmp_path / name)
        return open_images(str(tmp_path / name)).notes

    few = {"thumb": [jpeg(i) for i in range(4)], "image": [jpeg(9 + i) for i in range(4)]}
    pictures, classes = save("a.parquet", **few, kind=list("abab"))
    assert "of the column 'image'; not read: 'thumb'" in pictures
    assert classes.startswith("no classes: no column is called 'label'; there are 'kind'")
    said = save("b.parquet", image=few["image"], fine_label=[0, 1, 0, 1])
    assert said == ("classes are those of the column 'fine_label'",)
    assert save("c.parquet", image=few["image"], label=[0, 1, 0, 1]) == ()


def test_what_lies_beside_pictures_is_counted_with_how_it_is_read(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg")
    np.save(tmp_path / "c.npy", np.zeros((8, 8, 3)))
    write(tmp_path, "d.parquet", "e.zarr/0.0.jpg", "f.heic_", ".hidden/g.jpg", content=b"some")
    files, folders = open_images(str(tmp_path)).notes
    assert files.startswith("4 files passed over: ") and "1 .npy" in files and "1 .zarr" in files
    assert "data.channels=all, or --channels all, reads .npy beside pictures" in files
    assert "name .parquet or .zarr itself as the data" in files
    assert folders == "1 folder passed over: 1 .hidden"


def test_a_picture_is_a_set_of_one(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "photo").write_bytes(jpeg())
    for name in ("a.jpg", "photo"):
        images = open_images(str(tmp_path / name))
        assert (len(images), images.name(0), images.root) == (1, name, tmp_path)
        assert images.read(0).shape == (20, 24, 3)


def channel_files(root, names, channels, mode="L"):
    for i, name in enumerate(names):
        write(root, *(f"{name}_{c}.jpg" for c in channels), content=jpeg(i, mode))


@pytest.mark.parametrize("channels", ["123456", ("B02", "B03", "B8A"), ("dapi", "gfp")])
def test_a_file_for_each_channel_is_said_with_the_setting_that_joins_them(tmp_path, channels):
    channel_files(tmp_path, ["x/cell1", "x/cell2", "y/cell_3", "y/cell_10"], channels)
    images = open_images(str(tmp_path))
    (note,) = images.notes
    assert note.startswith("the files look like a channel of an image each: 4 names with ")
    assert f"with {', '.join(channels)} behind" in note
    pattern = "{name}_{channel}.jpg"
    assert note.endswith(f"to join them: data.channels=all 'data.channel_files={pattern}'")
    pytest.importorskip("tifffile")
    joined = open_images(str(tmp_path), channels=Channels("all", pattern))
    assert len(joined) == 4 and joined.channels == tuple(channels) and joined.notes == ()


def test_colours_numbers_and_names_that_differ_are_no_channels(tmp_path):
    channel_files(tmp_path / "colour", "abcd", "123", mode="RGB")
    channel_files(tmp_path / "frames", ["walk"], range(30))
    channel_files(tmp_path / "few", "ab", "12")
    channel_files(tmp_path / "uneven", "abc", "123")
    channel_files(tmp_path / "uneven", "d", "1")
    channel_files(tmp_path / "uneven", "e", "7")
    for name in ("colour", "frames", "few", "uneven"):
        images = open_images(str(tmp_path / name))
        assert images.notes == () and images.channels == RGB
