import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from ibot.data.decode import UnreadableImage
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.open import find_labelled, open_images, open_labelled
from ibot.data.sets.subsets import LabelledSubset


def test_a_folder_with_train_and_val_is_opened(tmp_path, make, names):
    make(
        tmp_path,
        "train/cat/1.jpg",
        "train/dog/1.jpg",
        "train/dog/2.jpg",
        "val/cat/1.jpg",
        "val/dog/3.jpg",
    )
    train, val = open_labelled(str(tmp_path))
    assert train.kind == "folder" and train.classes == val.classes == ("cat", "dog")
    assert train.root == tmp_path / "train" and names(train) == [
        "cat/1.jpg",
        "dog/1.jpg",
        "dog/2.jpg",
    ]
    assert (
        train.labels.tolist() == [0, 1, 1]
        and train.labels.dtype == np.int32
        and train.label(2) == 1
    )
    assert (
        val.root == tmp_path / "val"
        and val.read(1).shape == (4, 6, 3)
        and abs(int(val.read(1)[0, 0, 0]) - 40) <= 2
    )


def test_test_serves_as_validation_and_another_folder_can_be_named(tmp_path, make):
    make(tmp_path / "a", "train/x/1.jpg", "train/y/1.jpg", "test/x/1.jpg", "test/y/1.jpg")
    make(tmp_path / "b", "x/1.jpg", "y/1.jpg")
    assert open_labelled(str(tmp_path / "a"))[1].root == tmp_path / "a" / "test"
    train, val = open_labelled(
        str(tmp_path / "b"), str(tmp_path / "a")
    )  # never the training part of the other set
    assert (train.root, val.root) == (tmp_path / "b", tmp_path / "a" / "test")
    assert open_labelled(str(tmp_path / "a"), str(tmp_path / "b"))[1].root == tmp_path / "b"


def test_different_classes_are_named(tmp_path, make, refused):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/cow/1.jpg")
    error = refused(open_labelled, str(tmp_path), match="different classes")
    assert error.why == "only in training: 'dog'; only in validation: 'cow'"


def test_of_many_different_classes_five_are_named(tmp_path, make, refused):
    make(tmp_path, "train/c0/1.jpg", "train/c1/1.jpg", *(f"val/c{i}/1.jpg" for i in range(8)))
    error = refused(open_labelled, str(tmp_path), match="different classes")
    assert (
        error.why
        == "only in training: none; only in validation: 'c2', 'c3', 'c4', 'c5', 'c6' and 1 more"
    )


def test_without_a_validation_part_a_split_must_be_asked_for(tmp_path, make, refused):
    make(tmp_path, *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(5)))
    assert "--split 0.2" in refused(open_labelled, str(tmp_path), match="no validation part").fix
    train, val = open_labelled(str(tmp_path), split=0.2)
    assert (
        (len(train), len(val)) == (8, 2)
        and val.labels.tolist() == [0, 1]
        and train.classes == val.classes
    )


def test_a_split_beside_validation_images_is_refused(tmp_path, make, refused):
    make(
        tmp_path,
        *(
            f"{part}/{name}/{i}.jpg"
            for part in ("train", "val")
            for name in ("a", "b")
            for i in range(2)
        ),
    )
    for rest in ((), (str(tmp_path / "val"),)):
        error = refused(
            open_labelled,
            str(tmp_path),
            *rest,
            split=0.5,
            match="there are validation images already",
        )
        assert str(tmp_path / "val") in error.why and "leave out --split" in error.fix
    assert [len(part) for part in open_labelled(str(tmp_path / "train"), split=0.5)] == [2, 2]


@pytest.mark.parametrize(
    ("data", "match"),
    [("", "no data given"), ("missing", "there is no folder"), ("a.jpg", "is a file")],
)
def test_unusable_places_are_refused(tmp_path, monkeypatch, data, match, make, refused):
    make(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    refused(open_labelled, data, match=match)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, refused):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    monkeypatch.setattr("os.listdir", refuse)
    refused(open_labelled, str(tmp_path), match="cannot be listed")


@pytest.mark.parametrize("layout", ["folder", "pattern", "folders", "files"])
def test_archives_are_found_wherever_they_lie(tmp_path, layout, tar):
    root = tmp_path / "data"
    between = "train/" if layout == "folders" else ""
    for name in (
        f"{between}train-0.tar",
        f"{between}train-1.tar",
        f"{between.replace('train', 'val')}val.tar",
    ):
        tar(root / name, "cat/1.jpg", "dog/1.jpg")
    data, val_data = {
        "folder": (root, ""),
        "folders": (root, ""),
        "pattern": (root / "train-*.tar", root / "val*"),
        "files": (root / "train-0.tar", root / "val.tar"),
    }[layout]
    train, val = open_labelled(str(data), str(val_data))
    assert train.kind == "tar" and val.kind == "tar"
    assert (len(train), len(val)) == (2 if layout == "files" else 4, 2) and val.name(
        0
    ) == "val.tar/cat/1.jpg"


def test_archives_without_a_validation_part_are_split_on_demand(tmp_path, tar, refused):
    tar(tmp_path / "part-0.tar", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    refused(open_labelled, str(tmp_path), match="no validation part")
    assert [len(part) for part in open_labelled(str(tmp_path), split=0.5)] == [2, 2]


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path, monkeypatch, make):
    make(tmp_path / "my:set", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(open_labelled("my:set")[0]) == 2


def test_torchvision_is_imported_for_its_sets_only():
    code = "import sys, ibot.data.sets.open; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("form", ["folder", "list", "tar"])
def test_pictures_are_turned_upright_or_not_and_are_then_other_images(form, tmp_path, write):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(tmp_path / name, exif=exif)
    data = str(tmp_path)
    if form == "list":
        rows = [
            f"{part}/{name}/1.jpg,{name},{part}"
            for part in ("train", "val")
            for name in ("cat", "dog")
        ]
        data = str(write(tmp_path / "list.csv", "path,label,split", *rows))
    elif form == "tar":
        for part in ("train", "val"):
            with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
                archive.add(tmp_path / part, ".")
        data = str(tmp_path / "*.tar")
    upright, as_stored = open_labelled(data), open_labelled(data, exif_orientation="ignore")
    for one, other in zip(upright, as_stored, strict=True):
        assert one.read(0).shape == (6, 4, 3) and other.read(0).shape == (4, 6, 3)
        assert one.fingerprint() != other.fingerprint() and one.classes == other.classes
        assert LabelledSubset(one, [0]).fingerprint() != LabelledSubset(other, [0]).fingerprint()


def test_the_part_of_an_archive_may_stand_anywhere_in_its_name(tmp_path, tar):
    for name in (
        "in1k-train-0.tar",
        "in1k-train-1.tar",
        "in1k-validation-0.tar",
        "in1k-test-0.tar",
    ):
        tar(tmp_path / name, "cat/1.jpg", "dog/1.jpg")
    train, val = open_labelled(str(tmp_path))
    assert (len(train), len(val)) == (4, 2) and val.name(0) == "in1k-validation-0.tar/cat/1.jpg"


def test_images_to_train_on_are_those_of_the_training_part_in_every_form(
    tmp_path, make, write, tar, names
):
    make(tmp_path / "a", "train/x/1.jpg", "train/2.jpg", "val/x/1.jpg")
    rows = ["train/2.jpg,train", "val/x/1.jpg,val", "train/x/1.jpg,train"]
    write(tmp_path / "a" / "list.csv", "path,split", *rows)
    for part in ("train", "test"):
        tar(tmp_path / "b" / f"{part}-0.tar", f"{part}.jpg")
        tar(tmp_path / "c" / part / "0.tar", f"{part}.jpg")
    for data, want in (
        ("a", ["2.jpg", "x/1.jpg"]),
        ("a/list.csv", ["train/2.jpg", "train/x/1.jpg"]),
        ("b", ["train-0.tar/train.jpg"]),
        ("b/*.tar", ["train-0.tar/train.jpg"]),
        ("c", ["0.tar/train.jpg"]),
    ):
        images = open_images(str(tmp_path / data), max_pixels=23)
        assert names(images) == want and not isinstance(images, LabelledImages)
        with pytest.raises(UnreadableImage, match="too many pixels"):
            images.read(0)  # 6 x 4 pixels


def test_a_list_without_images_to_train_on_is_refused(tmp_path, make, write, refused):
    make(tmp_path, "1.jpg")
    file = write(tmp_path / "list.csv", "path,split", "1.jpg,val")
    refused(open_images, str(file), match="no training part")
    file = write(tmp_path / "list.csv", "image", "1.jpg")
    refused(open_images, str(file), match="lacks the column 'path'")
    file = write(tmp_path / "list.csv", "path,label", ",a")
    refused(open_images, str(file), match="empty path in line 2")


def test_labels_are_found_where_all_images_have_one_of_several(tmp_path, make, write, tar, refused):
    make(tmp_path, "1.jpg", "2.jpg", "flat/3.jpg")
    for number, (first, second, found) in enumerate((("a", "b", 2), ("a", "", 0), ("a", "a", 0))):
        rows = [f"1.jpg,{first},train", f"2.jpg,{second},train", "1.jpg,a,val"]
        data = str(write(tmp_path / f"{number}.csv", "path,label,split", *rows))
        assert len(find_labelled(data) or ()) == found and len(open_images(data)) == 2
    tar(tmp_path / "train.tar", "a/1.jpg", "2.jpg")
    tar(tmp_path / "val.tar", "a/1.jpg")
    assert find_labelled(str(tmp_path / "*.tar")) is None
    labelled = str(tmp_path / "0.csv")
    assert find_labelled(str(tmp_path / "flat")) is None, "no part to judge by, and no labels"
    for data, val_data, where in (
        (tmp_path / "flat", labelled, "flat"),
        (labelled, "flat", "flat"),
    ):
        val_data = str(tmp_path / val_data)
        refused(find_labelled, str(data), val_data, match=f"no class folders in .*{where}'")
