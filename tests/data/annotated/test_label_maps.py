"""Pairs of images and label maps in every layout, and what is said of those that do not fit."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from ibot.data.annotated.label_coding import (
    IGNORED,
    Coding,
    ade20k,
    counted,
    default_palette,
    read_coding,
)
from ibot.data.annotated.label_maps import open_label_maps, recoded, with_counted_classes
from ibot.data.decode import UnreadableImage
from ibot.errors import DataError

VALUES = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def write(folder, names=("a", "b"), values=VALUES, images=True, ending="", mode=None):
    """Images and maps of the same values, in `folder` or in (images, maps)."""
    pictures, maps = folder
    for place in (pictures, maps):
        place.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        if images:
            pixels = np.full((*values.shape[:2], 3), i, np.uint8)
            Image.fromarray(pixels).save(pictures / f"{name}.jpg")
        picture = Image.fromarray(values) if mode is None else mode(values)
        picture.save(maps / f"{name}{ending}.png")


@contextmanager
def refused(pattern, kind=DataError):
    with pytest.raises(kind) as caught:
        yield
    what = caught.value.what if kind is DataError else str(caught.value)
    assert re.search(pattern, what) and "\n" not in what, what
    assert kind is not DataError or caught.value.fix


def layout(root, kind):
    """The folders (images, maps) of both parts."""
    if kind == "ade20k":
        return [
            (root / "images" / part, root / "annotations" / part)
            for part in ("training", "validation")
        ]
    held = "test" if kind == "test" else "val"
    return [(root / part, root / f"{part}annot") for part in ("train", held)]


@pytest.mark.parametrize("kind", ["val", "test", "ade20k"])
def test_parts_are_found_and_each_image_gets_the_map_of_its_name(tmp_path, kind):
    first, second = layout(tmp_path, kind)
    write(first)
    write(second, names=("c",), values=VALUES[:, :2].copy())
    train, val = open_label_maps(str(tmp_path))
    assert (len(train), len(val)) == (2, 1) and val.name(0) == "c.jpg"
    if kind == "ade20k":
        assert len(train.classes) == 150 and train.coding.first == 1
        expected = [[IGNORED, 0, 1], [1, IGNORED, IGNORED]]
    else:
        train, val = with_counted_classes(train, val)
        assert train.classes == ("0", "1", "2") and train.notes
        expected = [[0, 1, 2], [2, IGNORED, 0]]
    pixels, labels = train.pair(1)
    assert labels.tolist() == expected and labels.dtype == np.int16
    assert pixels.shape == (2, 3, 3) and train.size(1) == (2, 3)
    assert val.pair(0)[1].shape == (2, 2)


def test_any_pair_of_folders_is_split_by_the_seed(tmp_path):
    names = [f"x/{i}" for i in range(10)]
    for place in (tmp_path / "pictures" / "x", tmp_path / "masks" / "x"):
        place.mkdir(parents=True)
    write((tmp_path / "pictures", tmp_path / "masks"), names, ending="_mask")
    folders = {"images": str(tmp_path / "pictures"), "labels": str(tmp_path / "masks")}
    found = [open_label_maps("", **folders, split=0.3, seed=seed) for seed in (0, 0, 1)]
    sets = [[part.name(i) for i in range(len(part))] for pair in found for part in pair]
    assert sets[:2] == sets[2:4] != sets[4:] and [len(s) for s in sets] == [7, 3] * 3
    assert sorted(sets[0] + sets[1]) == sorted(f"{name}.jpg" for name in names)
    train = found[0][0]
    assert train.maps.name(3) == train.name(3).replace(".jpg", "_mask.png")
    assert train.taken([2, 0]).name(1) == train.name(0)
    assert train.fingerprint() != train.taken([2, 0]).fingerprint() != found[0][1].fingerprint()
    with refused("no validation part"):
        open_label_maps("", **folders)
    with refused("--images is given without --labels"):
        open_label_maps("", images=folders["images"])


def palette_map(values):
    picture = Image.fromarray(values)
    picture.putpalette(default_palette(256).tobytes())
    return picture


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        (palette_map, VALUES, VALUES),
        (lambda v: Image.fromarray(v.astype(np.uint16) * 100), VALUES, VALUES.astype(int) * 100),
        (lambda v: Image.fromarray(v > 0), VALUES, VALUES > 0),
        (lambda v: Image.fromarray(np.stack([v] * 3, -1)), VALUES, VALUES),
        (lambda v: Image.fromarray(np.stack([v, v * 0 + 255], -1)), VALUES, VALUES),
    ],
    ids=["palette", "16 bits", "1 bit", "grey in RGB", "grey with alpha"],
)
def test_values_are_read_as_they_are_stored(tmp_path, mode, values, expected):
    write((tmp_path / "train", tmp_path / "trainannot"), values=values, mode=mode)
    train, _ = open_label_maps(str(tmp_path), str(tmp_path))
    coding = Coding(classes=tuple(map(str, range(2**15 - 1))), ignored=())
    assert train.values() == set(np.unique(expected).tolist())
    assert (recoded((train, train), "")[0]).coding == train.coding
    assert (coding.decoded(train._stored(0), "") == expected).all()


def test_colours_are_read_where_they_are_listed_and_refused_elsewhere(tmp_path):
    colours = default_palette(3)
    pixels = colours[np.array([[0, 1], [2, 1]])]
    write((tmp_path / "train", tmp_path / "trainannot"), values=pixels)
    train, _ = open_label_maps(str(tmp_path), str(tmp_path))
    with refused("holds colours, not numbers"):
        train.label_map(0)
    about = {"classes": ["sea", "land"], "void": 2, "palette": colours.tolist()}
    (tmp_path / "classes.json").write_text(json.dumps(about))
    train, _ = open_label_maps(str(tmp_path), str(tmp_path))
    assert train.label_map(0).tolist() == [[0, 1], [IGNORED, 1]]
    assert train.coding.palette().tolist() == colours[:2].tolist()
    (tmp_path / "classes.json").write_text(json.dumps({**about, "palette": [[1, 2, 3]] * 2}))
    train, _ = open_label_maps(str(tmp_path), str(tmp_path))
    with refused("which no class has"):
        train.label_map(0)


def test_masks_of_another_size_and_values_of_no_class_are_named(tmp_path):
    pictures, maps = tmp_path / "train", tmp_path / "trainannot"
    write((pictures, maps))
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    Image.fromarray(VALUES[:1]).save(maps / "a.png")
    train, _ = open_label_maps(str(tmp_path), str(tmp_path))
    with refused("holds the value 2"):
        train.pair(0)
    train, _ = recoded((train, train), ignore=(2, 255))
    with refused("a.jpg' and its label map have different sizes"):
        train.pair(0)
    assert train.label_map(1).tolist() == [[0, 1, IGNORED], [IGNORED, IGNORED, 0]]
    (maps / "b.png").write_bytes(b"")
    with refused("empty file", UnreadableImage):
        train.label_map(1)
    (maps / "b.png").unlink()
    with refused("1 of 2 images in .* have no label map"):
        open_label_maps(str(tmp_path), str(tmp_path))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no folder of images with label maps") as caught:
        open_label_maps(str(tmp_path / "bare"))
    assert caught.value.why.startswith("it holds no folders;")
    with refused("no folder of images with label maps"):
        open_label_maps(str(pictures))
    Image.fromarray(VALUES).save(maps / "a.jpg")
    (maps / "a.png").unlink()
    Image.fromarray(VALUES).save(maps / "b.png")
    train, _ = open_label_maps(str(tmp_path), str(tmp_path))
    with refused("is a JPEG"):
        train.label_map(0)


def test_what_the_values_of_the_maps_suggest():
    assert counted([0, 3, 255]).classes == ("0", "1", "2", "3")
    binary = counted([0, 255])
    assert binary.classes == ("0", "255")
    assert binary.decoded(np.array([[0, 255]], np.uint8), "").tolist() == [[0, 1]]
    from_one = counted([0, 1, 2], ignored=(0,))
    assert (from_one.classes, from_one.first) == (("1", "2"), 1)
    assert 255 not in counted([0, 255, 300]).ignored
    with refused("hold no class"):
        counted([255])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.txt", "sky\nroad\n", Coding(classes=("sky", "road"))),
        ("c.json", '["sky", "road"]', Coding(classes=("sky", "road"))),
        ("c.json", '{"classes": ["a"], "ignore": [7, 9], "first": 1}', None),
        (
            "o.txt",
            "Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tsky, blue\n",
            ade20k(("wall", "sky, blue")),
        ),
    ],
)
def test_classes_are_read_from_files(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_coding(tmp_path / name) == (
        expected or Coding(classes=("a",), ignored=(7, 9), first=1)
    )


@pytest.mark.parametrize("place", ["pictures", "masks", ""])
def test_a_file_of_classes_lies_with_the_images_with_the_maps_or_above(tmp_path, place):
    write((tmp_path / "pictures", tmp_path / "masks"))
    (tmp_path / place / "classes.txt").write_text("sea\nland\nsky\n")
    folders = {"images": str(tmp_path / "pictures"), "labels": str(tmp_path / "masks")}
    train, val = open_label_maps("", **folders, split=0.5)
    assert train.classes == val.classes == ("sea", "land", "sky")


@pytest.mark.parametrize(
    ("name", "text", "pattern"),
    [
        ("c.json", "{", "does not say which classes"),
        ("c.json", '{"classes": ["a"], "palette": [[1, 2]]}', "does not say which classes"),
        ("c.json", '{"classes": ["a"], "palette": [[1, 2, 300]]}', "does not say which classes"),
        ("c.txt", "\n", "names no class"),
        ("none.txt", None, "cannot be read"),
    ],
)
def test_files_that_name_no_classes_are_refused(tmp_path, name, text, pattern):
    if text is not None:
        (tmp_path / name).write_text(text)
    with refused(pattern):
        read_coding(tmp_path / name)
