import gzip
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from ibot.data.decode import UnreadableImage
from ibot.data.labels import (
    ArrayImages,
    FileImages,
    FolderImages,
    LabelledImages,
    ListedImages,
    SubsetImages,
    TarImages,
    listed_subset,
    open_folder,
    open_labelled,
    open_list,
    open_named,
    open_tars,
    split_labelled,
    stratified_subset,
)
from ibot.data.sources import scan
from ibot.errors import DataError


def jpeg(gray=100):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (gray, gray, gray)).save(buffer, "JPEG")
    return buffer.getvalue()


def make(root, *names):
    """Small pictures; the gray of number i is 10 * i."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(10 * i))
    return root


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def tar(path, **files):
    """An archive of `name=content`; None stands for a picture whose gray is 10 * its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i, (name, content) in enumerate(files.items()):
            content = jpeg(10 * i) if content is None else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pictures(*names):
    return dict.fromkeys(names)


def names(images):
    return [images.name(i) for i in range(len(images))]


def named_classes(images):
    return [images.classes[images.label(i)] for i in range(len(images))]


def refused(call, *arguments, match, **options):
    """The DataError of a call, checked for its form: what, why and fix in one line each."""
    with pytest.raises(DataError, match=match) as caught:
        call(*arguments, **options)
    error = caught.value
    assert error.fix and all("\n" not in line for line in (error.what, error.why, error.fix))
    return error


# Folders


def test_a_folder_with_train_and_val_is_opened(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "val/cat/1.jpg", "val/dog/3.jpg")
    train, val = open_labelled(str(tmp_path))
    assert isinstance(train, FolderImages) and train.classes == val.classes == ("cat", "dog")
    assert train.root == tmp_path / "train" and names(train) == ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]
    assert train.labels.tolist() == [0, 1, 1] and train.labels.dtype == np.int32 and train.label(2) == 1
    assert val.root == tmp_path / "val" and val.read(1).shape == (4, 6, 3) and abs(int(val.read(1)[0, 0, 0]) - 40) <= 2


def test_test_serves_as_validation_and_another_folder_can_be_named(tmp_path):
    make(tmp_path / "a", "train/x/1.jpg", "train/y/1.jpg", "test/x/1.jpg", "test/y/1.jpg")
    make(tmp_path / "b", "x/1.jpg", "y/1.jpg")
    assert open_labelled(str(tmp_path / "a"))[1].root == tmp_path / "a" / "test"
    train, val = open_labelled(str(tmp_path / "b"), str(tmp_path / "a"))  # never the training part of the other set
    assert (train.root, val.root) == (tmp_path / "b", tmp_path / "a" / "test")
    assert open_labelled(str(tmp_path / "a"), str(tmp_path / "b"))[1].root == tmp_path / "b"


def test_different_classes_are_named(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/cow/1.jpg")
    error = refused(open_labelled, str(tmp_path), match="different classes")
    assert error.why == "only in training: 'dog'; only in validation: 'cow'"


def test_of_many_different_classes_five_are_named(tmp_path):
    make(tmp_path, *(f"train/c{i}/1.jpg" for i in range(8)), "val/c0/1.jpg", "val/c1/1.jpg")
    error = refused(open_labelled, str(tmp_path), match="different classes")
    assert "'c6' and 1 more; only in validation: none" in error.why


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_class_folder_is_named(tmp_path, part):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")
    (tmp_path / part / "emu").mkdir()
    error = refused(open_labelled, str(tmp_path), match="class folder .*emu' is empty")
    assert str(tmp_path / part / "emu") in error.what


def test_an_empty_folder_beside_a_single_class_is_named_too(tmp_path):
    make(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").mkdir()
    refused(open_folder, tmp_path, match="dog' is empty")


def test_hidden_folders_and_runs_are_no_empty_classes(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", "run/pictures/1.jpg", "__MACOSX/1.jpg", ".cache/1.jpg")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert open_folder(tmp_path).classes == ("cat", "dog")


def test_images_outside_of_class_folders_are_refused(tmp_path):
    make(tmp_path, "1.jpg", "2.jpg")
    error = refused(open_labelled, str(tmp_path), match="no class folders")
    assert "2 images lie directly in it, such as '1.jpg'" in error.why


def test_a_single_class_is_refused(tmp_path):
    make(tmp_path, "cat/1.jpg", "cat/2.jpg")
    assert "all images lie in 'cat'" in refused(open_labelled, str(tmp_path), match="fewer than two classes").why


def test_without_a_validation_part_a_split_must_be_asked_for(tmp_path):
    make(tmp_path, *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(5)))
    assert "split=0.2" in refused(open_labelled, str(tmp_path), match="no validation part").fix
    train, val = open_labelled(str(tmp_path), split=0.2)
    assert (len(train), len(val)) == (8, 2) and val.labels.tolist() == [0, 1] and train.classes == val.classes


@pytest.mark.parametrize(
    ("data", "match"), [("", "no data given"), ("missing", "there is no folder"), ("a.jpg", "is a file")]
)
def test_unusable_places_are_refused(tmp_path, monkeypatch, data, match):
    make(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    refused(open_labelled, data, match=match)


def test_a_source_without_labels_is_no_labelled_set(tmp_path):
    with pytest.raises(ValueError, match="have no labels"):
        FileImages(scan(make(tmp_path, "1.jpg")))


# Lists


def test_a_list_with_a_split_column_gives_both_sets(tmp_path):
    make(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg")
    rows = ["b,a/1.jpg,0,train", "c,a/2.jpg,0,train", "b,b/3.jpg,1,val", "c,b/4.jpg,1,val"]
    file = write(tmp_path / "list.csv", "Label, path,number,Split", *rows, "")
    train, val = open_labelled(str(file))
    assert isinstance(train, ListedImages) and train.classes == ("b", "c") and train.root == tmp_path
    assert (names(train), names(val)) == (["a/1.jpg", "a/2.jpg"], ["b/3.jpg", "b/4.jpg"])
    assert val.labels.tolist() == [0, 1] and abs(int(val.read(1)[0, 0, 0]) - 30) <= 2
    assert len(open_list(file)) == 4


def test_val_is_preferred_to_test_which_serves_in_its_place(tmp_path):
    make(tmp_path, *(f"{i}.jpg" for i in range(6)))
    head = ["path,label,split", "0.jpg,x,train", "1.jpg,y,train", "2.jpg,x,test", "3.jpg,y,test"]
    assert names(open_labelled(str(write(tmp_path / "a.csv", *head)))[1]) == ["2.jpg", "3.jpg"]
    file = write(tmp_path / "b.csv", *head, "4.jpg,x,val", "5.jpg,y,val")
    assert names(open_labelled(str(file))[1]) == ["4.jpg", "5.jpg"]


@pytest.mark.parametrize("header", [[], ["path\tlabel"]])
def test_tab_separated_lists_need_no_header(tmp_path, header):
    make(tmp_path, "x, 1.jpg", "2.jpg")
    train = write(tmp_path / "train.tsv", *header, "x, 1.jpg\tcat", "2.jpg\tdog")
    val = write(tmp_path / "val.txt", *header, "2.jpg\tdog", "2.jpg\tcat")
    train, val = open_labelled(str(train), str(val))
    assert names(train) == ["x, 1.jpg", "2.jpg"] and named_classes(val) == ["dog", "cat"]


def test_numbers_as_labels_are_ordered_by_value(tmp_path):
    make(tmp_path, "1.jpg")
    file = write(tmp_path / "list.csv", "path,label", *(f"1.jpg,{i}" for i in (10, 9, 2, 0)))
    images = open_list(file)
    assert images.classes == ("0", "2", "9", "10") and images.labels.tolist() == [3, 2, 1, 0]


def test_odd_texts_are_read(tmp_path):
    make(tmp_path, "写真, ü.jpg")
    (tmp_path / "latin \udce9.jpg").write_bytes(jpeg())
    file = tmp_path / "list.csv"
    file.write_bytes(b'\xef\xbb\xbfpath,label\r\n"' + "写真, ü.jpg".encode() + b'",a\r\nlatin \xe9.jpg,b\r\n')
    images = pickle.loads(pickle.dumps(open_list(file)))
    assert names(images) == ["写真, ü.jpg", "latin \udce9.jpg"] and images.read(1).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("lines", "what", "why"),
    [
        (["path,label", "1.jpg,a", "gone.jpg,b", "far.jpg,b"], r"names 'gone.jpg' \(line 3\)", "2 of 3 files"),
        (["path,label", "1.jpg,a", "", "1.jpg,", "1.jpg"], "empty label in line 4", "2 of 3 rows"),
        (["path,label", ",a"], "empty path in line 2", "1 of 1"),
        (["1.jpg\tcat", "1.jpg"], "empty label in line 2", "1 of 2"),
        (["path,label,split", "1.jpg,a,train", "1.jpg,b,dev"], "unknown split 'dev' in line 3", "train, val, test"),
        (["path,label,split", "1.jpg,a,train", "1.jpg,b,"], "unknown split '' in line 3", "1 of 2"),
        (["file,class", "1.jpg,a"], "lacks the columns 'path' and 'label'", "'file,class'"),
        (["path\tclass", "1.jpg\ta"], "lacks the columns", "path,class"),
        (["path,label"], "names no images", ""),
        ([""], "is empty", ""),
        (["path,label", "1.jpg,a", "1.jpg,a"], "fewer than two classes", "all 2 images are labelled 'a'"),
        (["path,label,split", "1.jpg,a,val", "1.jpg,b,val"], "no training part", ""),
        (["path,label,split", "1.jpg,a,train", "1.jpg,b,train"], "no validation part", ""),
        (["path,label,split", "1.jpg,a,train", "1.jpg,b,train", "1.jpg,a,val"], "different classes", "training: 'b'"),
    ],
)
def test_unusable_lists_are_refused_with_the_line(tmp_path, lines, what, why):
    make(tmp_path, "1.jpg")
    assert why in refused(open_labelled, str(write(tmp_path / "list.csv", *lines)), match=what).why


def test_a_list_that_is_missing_is_refused(tmp_path):
    error = refused(open_labelled, str(tmp_path / "none.csv"), match="list .* cannot be read")
    assert error.why == "No such file or directory"


def test_a_list_without_splits_can_be_split(tmp_path):
    make(tmp_path, *(f"{i}.jpg" for i in range(4)))
    file = write(tmp_path / "l.csv", "path,label", *(f"{i}.jpg,{i % 2}" for i in range(4)))
    train, val = open_labelled(str(file), split=0.5)
    assert sorted(names(train) + names(val)) == [f"{i}.jpg" for i in range(4)] and sorted(val.labels) == [0, 1]


# Tar archives


def test_folders_in_archives_are_classes_and_images_are_read_by_seek(tmp_path):
    tar(tmp_path / "train-0.tar", **pictures("./set/cat/1.jpg", "set/dog/2.JPEG"), **{"set/readme.txt": "x"})
    tar(tmp_path / "train-1.tar", **pictures("set/dog/1.jpg", "set/cat/._1.jpg", "__MACOSX/cat/1.jpg"))
    images = open_tars([tmp_path / "train-0.tar", tmp_path / "train-1.tar"])
    assert names(images) == ["train-0.tar/set/cat/1.jpg", "train-0.tar/set/dog/2.JPEG", "train-1.tar/set/dog/1.jpg"]
    assert images.classes == ("cat", "dog") and images.labels.tolist() == [0, 1, 1] and images.root == tmp_path
    assert [round(int(images.read(i)[0, 0, 0]), -1) for i in range(3)] == [0, 10, 0]


def test_side_entries_give_the_class_as_in_webdataset(tmp_path):
    files = {"a/0.jpg": None, "a/0.cls": "10", "a/1.cls": "9\n", "a/1.jpg": None}
    assert named_classes(open_tars([tar(tmp_path / "a.tar", **files)])) == ["10", "9"]
    images = open_tars([tar(tmp_path / "a.tar", **files), tar(tmp_path / "b.tar", **{"a/0.jpg": None, "a/0.cls": "2"})])
    assert images.classes == ("2", "9", "10") and named_classes(images) == ["10", "9", "2"]  # keys repeat over shards


@pytest.mark.parametrize("layout", ["folder", "pattern", "folders", "files"])
def test_archives_are_found_wherever_they_lie(tmp_path, layout):
    root = tmp_path / "data"
    between = "train/" if layout == "folders" else ""
    for name in (f"{between}train-0.tar", f"{between}train-1.tar", f"{between.replace('train', 'val')}val.tar"):
        tar(root / name, **pictures("cat/1.jpg", "dog/1.jpg"))
    data, val_data = {
        "folder": (root, ""),
        "folders": (root, ""),
        "pattern": (root / "train-*.tar", root / "val*"),
        "files": (root / "train-0.tar", root / "val.tar"),
    }[layout]
    train, val = open_labelled(str(data), str(val_data))
    assert isinstance(train, TarImages) and isinstance(val, TarImages)
    assert (len(train), len(val)) == (2 if layout == "files" else 4, 2) and val.name(0) == "val.tar/cat/1.jpg"


def test_archives_without_a_validation_part_are_split_on_demand(tmp_path):
    tar(tmp_path / "part-0.tar", **pictures("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"))
    refused(open_labelled, str(tmp_path), match="no validation part")
    assert [len(part) for part in open_labelled(str(tmp_path), split=0.5)] == [2, 2]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    monkeypatch.setattr("os.listdir", refuse)
    refused(open_labelled, str(tmp_path), match="cannot be listed")


def test_a_pattern_reaches_into_several_folders(tmp_path):
    for name in ("a", "b"):
        tar(tmp_path / name / "x.tar", **pictures(f"{name}/1.jpg"))
    images = open_tars(sorted(tmp_path.glob("*/x.tar")))
    assert names(images) == ["a/x.tar/a/1.jpg", "b/x.tar/b/1.jpg"] and images.read(1).shape == (4, 6, 3)
    assert len(open_labelled(str(tmp_path / "*" / "x.tar"), str(tmp_path / "*" / "x.tar"))[0]) == 2


def test_the_later_of_two_entries_of_one_name_counts(tmp_path):
    path = tar(tmp_path / "a.tar", **pictures("cat/0.jpg", "dog/1.jpg"))
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("cat/0.jpg")
        member.size = len(jpeg(200))
        archive.addfile(member, io.BytesIO(jpeg(200)))
    images = open_tars([path])
    assert len(images) == 2 and abs(int(images.read(0)[0, 0, 0]) - 200) <= 2


def test_images_without_a_class_and_archives_without_images_are_refused(tmp_path):
    path = tar(tmp_path / "a.tar", **pictures("cat/1.jpg", "2.jpg", "3.jpg"))
    error = refused(open_tars, [path], match=r"a.tar/2.jpg' has no class")
    assert error.why.startswith("2 of 3 images")
    refused(open_tars, [tar(tmp_path / "b.tar", **{"cat/1.jpg": None, "cat/1.cls": " "})], match="has no class")
    empty = tar(tmp_path / "c.tar", **{"a.txt": "x"})
    refused(open_tars, [empty, empty], match="no images in .*c.tar' and 1 others")
    refused(open_labelled, str(tmp_path / "no-*.tar"), match="no .tar file matches")


def test_damaged_and_compressed_archives_are_refused(tmp_path):
    whole = tar(tmp_path / "a.tar", **pictures("cat/1.jpg", "dog/1.jpg")).read_bytes()
    for content in (gzip.compress(whole), b"", whole[:1500], whole[:2200], whole[:1536] + b"x" * 512 + whole[2048:]):
        (tmp_path / "b.tar").write_bytes(content)
        refused(open_tars, [tmp_path / "b.tar"], match="cannot be read as a tar archive")
    refused(open_tars, [tmp_path / "none.tar"], match="cannot be read as a tar archive")


def test_an_archive_that_shrinks_or_goes_gives_unreadable_images(tmp_path):
    path = tar(tmp_path / "a.tar", **pictures("cat/1.jpg", "dog/1.jpg"))
    images = open_tars([path])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UnreadableImage, match="truncated"):
        images.read(0)
    path.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        images.read(0)


def test_a_damaged_image_in_an_archive_or_folder_is_unreadable(tmp_path):
    images = open_tars([tar(tmp_path / "a.tar", **{"cat/1.jpg": "no image", "dog/1.jpg": None})])
    make(tmp_path / "f", "cat/1.jpg", "dog/1.jpg").joinpath("cat/1.jpg").write_text("no image")
    for one in (images, open_folder(tmp_path / "f")):
        with pytest.raises(UnreadableImage, match="not an image"):
            one.read(0)


# Named sets


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, with which the CIFAR batches were made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(path, value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def make_cifar10(root):
    """Five training batches of four images and a test batch, in torchvision's layout; returns the test pixels."""
    folder = root / "cifar-10-batches-py"
    rng = np.random.default_rng(0)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in batches:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        python2_pickle(
            folder / name, {"batch_label": name, "labels": [0, 9, 3, 3], "data": data, "filenames": ["a"] * 4}
        )
    python2_pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)], "num_vis": 3072})
    return data


def make_cifar100(root):
    for name in ("train", "test"):
        content = {"fine_labels": [0, 99], "coarse_labels": [0, 1], "data": np.zeros((2, 3072), np.uint8)}
        python2_pickle(root / "cifar-100-python" / name, content)
    python2_pickle(root / "cifar-100-python" / "meta", {"fine_label_names": [f"c{i}" for i in range(100)]})


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar10_is_read_from_its_batches(tmp_path, inside):
    data = make_cifar10(tmp_path)
    train, val = open_labelled(f"CIFAR10:{tmp_path / inside}")
    assert isinstance(train, ArrayImages) and (len(train), len(val)) == (20, 4)
    assert train.classes == val.classes == tuple(f"class {i}" for i in range(10))
    assert val.labels.tolist() == [0, 9, 3, 3] and val.labels.dtype == np.int32 and val.name(3) == "test/00003"
    np.testing.assert_array_equal(val.read(2), data[2].reshape(3, 32, 32).transpose(1, 2, 0))
    val.read(2)[:] = 0
    assert val.read(2).any(), "what is read is a copy"


def test_cifar100_has_its_fine_labels(tmp_path):
    make_cifar100(tmp_path)
    train, val = open_labelled(f"cifar100:{tmp_path}")
    assert len(train.classes) == 100 and train.labels.tolist() == [0, 99] and val.name(0) == "test/00000"


def test_a_batch_that_would_run_code_is_refused(tmp_path):
    make_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + b"x'\ntR.")
    error = refused(open_labelled, f"cifar10:{tmp_path}", match="no complete set 'cifar10'")
    assert "'os.system' is refused" in error.why


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "data_batch_3").unlink(),
        lambda folder: (folder / "test_batch").write_bytes((folder / "test_batch").read_bytes()[:100]),
        lambda folder: python2_pickle(folder / "test_batch", {"labels": [0], "data": np.zeros((2, 3072), np.uint8)}),
        lambda folder: python2_pickle(folder / "test_batch", {"labels": [10], "data": np.zeros((1, 3072), np.uint8)}),
        lambda folder: python2_pickle(folder / "test_batch", ["no dictionary"]),
        lambda folder: shutil.rmtree(folder),
    ],
)
def test_incomplete_batches_are_refused_with_the_layout(tmp_path, damage):
    make_cifar10(tmp_path)
    damage(tmp_path / "cifar-10-batches-py")
    error = refused(open_labelled, f"cifar10:{tmp_path}", match="no complete set 'cifar10'")
    assert f"'{tmp_path / 'cifar-10-batches-py'}' with data_batch_1" in error.why


def savemat(path, **values):
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, values)


def test_flowers_train_on_train_and_val(tmp_path, monkeypatch):
    from torchvision.datasets import Flowers102

    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)  # the md5 of the published label files
    folder = make(tmp_path / "flowers-102", *(f"jpg/image_{i:05d}.jpg" for i in range(1, 7)))
    savemat(folder / "imagelabels.mat", labels=[[1, 102, 5, 1, 2, 3]])
    savemat(folder / "setid.mat", trnid=[[1, 2]], valid=[[3, 4]], tstid=[[5, 6]])
    train, val = open_labelled(f"flowers102:{tmp_path}")
    assert isinstance(train, ListedImages) and len(train.classes) == 102
    assert train.labels.tolist() == [0, 101, 4, 0] and val.labels.tolist() == [1, 2]
    assert val.name(0) == "flowers-102/jpg/image_00005.jpg" and abs(int(val.read(0)[0, 0, 0]) - 40) <= 2
    (folder / "jpg" / "image_00006.jpg").unlink()
    refused(open_labelled, f"flowers102:{tmp_path}", match=r"names 'flowers-102/jpg/image_00006.jpg', which is missing")


def test_cars_have_labels_from_zero(tmp_path):
    folder = make(
        tmp_path / "stanford_cars", "cars_train/1.jpg", "cars_train/2.jpg", "cars_test/3.jpg", "cars_test/4.jpg"
    )
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]

    def annotations(*rows):
        return np.array([[(5, number, name) for number, name in rows]], dtype=kind)

    savemat(folder / "devkit" / "cars_train_annos.mat", annotations=annotations((1, "1.jpg"), (196, "2.jpg")))
    savemat(folder / "cars_test_annos_withlabels.mat", annotations=annotations((2, "3.jpg"), (3, "4.jpg")))
    models = np.array([[f"car {i}" for i in range(196)]], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", class_names=models)
    train, val = open_labelled(f"cars:{folder}")
    assert train.labels.tolist() == [0, 195] and val.labels.tolist() == [1, 2] and len(val.classes) == 196
    assert val.name(1) == "stanford_cars/cars_test/4.jpg" and val.read(1).shape == (4, 6, 3)


def test_pets_train_on_trainval(tmp_path):
    folder = make(
        tmp_path / "oxford-iiit-pet", *(f"images/{name}.jpg" for name in ("Bengal_1", "pug_1", "pug_2", "Bengal_2"))
    )
    write(folder / "annotations" / "trainval.txt", "Bengal_1 1 1 1", "pug_1 2 2 1")
    write(folder / "annotations" / "test.txt", "pug_2 2 2 1", "Bengal_2 1 1 1")
    train, val = open_labelled(f"pets:{tmp_path}")
    assert train.classes == ("Bengal", "Pug") and train.labels.tolist() == [0, 1] and val.labels.tolist() == [1, 0]
    assert val.name(0) == "oxford-iiit-pet/images/pug_2.jpg" and val.read(0).shape == (4, 6, 3)


def make_inat(root, folder):
    make(
        root,
        *(
            f"{folder}/{name}"
            for name in ("Aves/0001/a.jpg", "Fungi/0000/b.jpg", "Aves/0001/c.jpg", "Fungi/0000/d.jpg")
        ),
    )


def inat_list(path, *rows):
    images = [{"id": 10 + i, "file_name": f"train_val2018/{name}"} for i, (name, _) in enumerate(rows)]
    labels = [{"image_id": 10 + i, "category_id": number} for i, (_, number) in enumerate(rows)]
    path.write_text(json.dumps({"images": images, "annotations": labels[::-1], "categories": [{"id": 0, "name": "x"}]}))


@pytest.mark.parametrize("folder", ["train_val2018", "2018"])
def test_inat_is_read_by_its_lists(tmp_path, folder):
    make_inat(tmp_path, folder)
    inat_list(tmp_path / "train2018.json", ("Aves/0001/a.jpg", 1), ("Fungi/0000/b.jpg", 0))
    inat_list(tmp_path / "val2018.json", ("Aves/0001/c.jpg", 1), ("Fungi/0000/d.jpg", 0))
    categories = [{"id": 1, "name": "Pica pica"}, {"id": 0, "name": "Boletus"}]
    (tmp_path / "categories.json").write_text(json.dumps(categories))
    train, val = open_labelled(f"inat2018:{tmp_path}")
    assert train.classes == ("Boletus", "Pica pica") and train.labels.tolist() == [1, 0]
    assert names(val) == [f"{folder}/Aves/0001/c.jpg", f"{folder}/Fungi/0000/d.jpg"] and val.read(0).shape == (4, 6, 3)
    (tmp_path / "val2018.json").unlink()
    refused(open_labelled, f"inat2018:{tmp_path}", match="no validation part")
    (tmp_path / "train2018.json").write_text("{")
    refused(open_labelled, f"inat2018:{tmp_path}", match="no complete set")


def test_inat_without_lists_is_one_part(tmp_path):
    make_inat(tmp_path, "2019")
    refused(open_labelled, f"inat2019:{tmp_path}", match="no validation part")
    train, val = open_labelled(f"inat2019:{tmp_path / '2019'}", split=0.5)
    assert (len(train), len(val)) == (2, 2)
    assert train.classes == ("Fungi/0000", "Aves/0001") and sorted(val.labels) == [0, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("flowers102", "imagelabels.mat"),
        ("cars", "cars_test_annos_withlabels.mat"),
        ("pets", "annotations/"),
        ("inat2018", "train2018.json"),
        ("inat2019", "GROUP/NUMBER"),
    ],
)
@pytest.mark.parametrize("folder", ["", "gone"])
def test_a_missing_set_says_what_is_expected_where(tmp_path, name, expected, folder):
    if name in ("flowers102", "cars"):
        pytest.importorskip("scipy")
    error = refused(open_labelled, f"{name}:{tmp_path / folder}", match=f"no complete set '{name}'")
    assert expected in error.why and str(tmp_path / folder) in error.why
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def test_unknown_sets_are_answered_with_the_known_ones(tmp_path):
    error = refused(open_labelled, f"mnist:{tmp_path}", match="there is no set 'mnist'")
    assert "cifar10, cifar100, flowers102" in error.why


def test_sets_with_matlab_files_need_scipy(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refused(open_named, "cars", tmp_path, "train", match="needs scipy").fix == "pip install scipy"


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path, monkeypatch):
    make(tmp_path / "my:set", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(open_labelled("my:set")[0]) == 2


def test_torchvision_is_imported_for_its_sets_only():
    code = "import sys, ibot.data.labels; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What all sets have in common


@pytest.fixture(params=["folder", "list", "tar", "array", "subset"])
def images(request, tmp_path):
    if request.param == "array":
        make_cifar10(tmp_path)
        return open_named("cifar10", tmp_path, "val")
    if request.param == "tar":
        return open_tars([tar(tmp_path / "a.tar", **pictures("cat/1.jpg", "dog/1.jpg"))])
    make(tmp_path / "set", "cat/1.jpg", "dog/1.jpg", "dog/2.jpg")
    if request.param == "list":
        return open_list(write(tmp_path / "list.csv", "path,label", "set/cat/1.jpg,cat", "set/dog/1.jpg,dog"))
    folder = open_folder(tmp_path / "set")
    return folder if request.param == "folder" else SubsetImages(folder, [2, 0])


def test_every_set_keeps_to_the_protocol_and_travels_to_workers(images):
    assert isinstance(images, LabelledImages)
    assert images.labels.dtype == np.int32 and images.labels.tolist() == [images.label(i) for i in range(len(images))]
    pixels = images.read(1)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and isinstance(images.name(1), str)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        fingerprint, there = pool.submit(images.fingerprint).result(), pool.submit(images.read, 1).result()
    assert fingerprint == images.fingerprint() and len(fingerprint) == 64
    np.testing.assert_array_equal(there, pixels)


def test_fingerprints_follow_the_files(images):
    before = images.fingerprint()
    if isinstance(images, ArrayImages):
        images.pixels[0, 0, 0, 0] ^= 1
    else:
        base = images.base if isinstance(images, SubsetImages) else images
        archived = isinstance(base, TarImages)
        file = base.root / (base.archives[0] if archived else base.name(0))
        os.utime(file, ns=(1, 1))
    assert images.fingerprint() != before


def test_fingerprints_follow_kind_names_and_labels(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    folder = open_folder(tmp_path)
    seen = [folder.fingerprint(), ListedImages(folder.source).fingerprint()]
    for labels in ("x,y", "y,x", "x,z"):
        first, second = labels.split(",")
        file = write(tmp_path / "list.csv", "path,label", f"a/1.jpg,{first}", f"b/1.jpg,{second}")
        seen.append(open_list(file).fingerprint())
    (tmp_path / "a" / "1.jpg").rename(tmp_path / "a" / "2.jpg")
    seen.append(open_folder(tmp_path).fingerprint())
    seen += [SubsetImages(folder, indices).fingerprint() for indices in ([0], [0, 1], [1, 0])]
    assert len(set(seen)) == len(seen)
    assert len(folder.fingerprint()) == 64, "a file that has gone has a state as well"


# Subsets


def test_a_subset_keeps_the_classes_of_its_base(tmp_path):
    base = open_folder(make(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg"))
    subset = SubsetImages(base, np.array([2, 0], np.int32))
    assert subset.classes == ("a", "b", "c") and names(subset) == ["c/1.jpg", "a/1.jpg"] and subset.root == base.root
    assert subset.labels.tolist() == [2, 0] and abs(int(subset.read(0)[0, 0, 0]) - 20) <= 2
    assert len(SubsetImages(base, [])) == 0


@pytest.mark.parametrize("indices", [[3], [-1], [True, False, True], [0.5], [[0]]])
def test_indices_outside_of_the_base_are_refused(tmp_path, indices):
    base = open_folder(make(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg"))
    with pytest.raises(ValueError, match="indices"):
        SubsetImages(base, indices)


def loop_subset(labels, share):
    """How many of each class are wanted, counted one by one."""
    return {label: min(max(1, int(count * share + 0.5)), count) for label, count in Counter(labels.tolist()).items()}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.33, 1.0])
def test_a_stratified_subset_has_its_share_of_each_class(share):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [1, 3, 200, 57])).astype(np.int32)
    chosen = stratified_subset(labels, share=share, seed=3)
    assert chosen.dtype == np.int64 and (np.diff(chosen) > 0).all()
    assert Counter(labels[chosen].tolist()) == loop_subset(labels, share)


def test_a_stratified_subset_can_be_counted_per_class():
    labels = np.repeat([0, 1, 2], [1, 5, 50])
    assert np.bincount(labels[stratified_subset(labels, per_class=3)]).tolist() == [1, 3, 3]


def test_subsets_repeat_with_their_seed_and_differ_with_another():
    labels = np.repeat([0, 1], [500, 500])
    first, again, other = (stratified_subset(labels, share=0.1, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # Every image has the same chance: the mean index of 100 draws lies within 5 standard errors.
    mean = np.mean([stratified_subset(labels, share=0.1, seed=seed).mean() for seed in range(100)])
    assert abs(mean - 499.5) < 5 * 288.7 / np.sqrt(100 * 100)


@pytest.mark.parametrize(
    "options", [{}, {"share": 0.1, "per_class": 1}, {"share": 0.0}, {"share": 1.5}, {"per_class": 0}]
)
def test_a_subset_is_either_a_share_or_a_count(options):
    with pytest.raises(ValueError, match="either a share"):
        stratified_subset(np.array([0, 1]), **options)


def test_a_split_is_stratified_and_leaves_each_class_something_to_train_on(tmp_path):
    files = [f"{name}/{i}.jpg" for name, count in (("a", 1), ("b", 2), ("c", 10)) for i in range(count)]
    base = open_folder(make(tmp_path, *files))
    train, val = split_labelled(base, 0.3, seed=1)
    assert np.bincount(train.labels).tolist() == [1, 1, 7] and np.bincount(val.labels).tolist() == [0, 1, 3]
    assert sorted(names(train) + names(val)) == sorted(files) and train.classes == val.classes == ("a", "b", "c")
    assert names(split_labelled(base, 0.3, seed=1)[1]) == names(val) != names(split_labelled(base, 0.3, seed=2)[1])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_split_takes_a_share_between_zero_and_one(tmp_path, share):
    base = open_folder(make(tmp_path, "a/1.jpg", "b/1.jpg"))
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_labelled(base, share)


def test_classes_of_one_image_cannot_be_split(tmp_path):
    refused(
        open_labelled, str(make(tmp_path, "a/1.jpg", "b/1.jpg")), split=0.5, match="too small for a validation part"
    )


def imagenet(root):
    return open_folder(make(root, *(f"n0{c}/n0{c}_{i}.JPEG" for c in (1, 2) for i in range(3))))


def test_a_published_list_of_names_is_found(tmp_path):
    images = imagenet(tmp_path / "images")
    file = write(tmp_path / "1percent.txt", "n02_1.JPEG", "n01_2.JPEG", "", "n02_1.JPEG")
    chosen = listed_subset(images, file)
    assert chosen.dtype == np.int64 and chosen.tolist() == [4, 2]
    file = write(tmp_path / "paths.txt", "n01/n01_0.JPEG", "./n02/n02_2.JPEG")
    assert listed_subset(images, file).tolist() == [0, 5]


def test_names_are_found_in_archives_too(tmp_path):
    images = open_tars([tar(tmp_path / "a.tar", **pictures("train/n01/n01_0.JPEG", "train/n02/n02_0.JPEG"))])
    assert listed_subset(images, write(tmp_path / "l.txt", "n02_0.JPEG")).tolist() == [1]


def test_the_part_before_the_underscore_is_the_class(tmp_path):
    base = open_folder(
        make(tmp_path / "images", "cat/cat_1.jpg", "dog/cat_1.jpg", "dog/dog_1.jpg", "cat/2.jpg", "dog/2.jpg")
    )
    assert names(SubsetImages(base, listed_subset(base, write(tmp_path / "a.txt", "cat_1.jpg")))) == ["cat/cat_1.jpg"]
    error = refused(listed_subset, base, write(tmp_path / "b.txt", "dog_1.jpg", "2.jpg"), match="line 2 .*'2.jpg'.* 2")
    assert "write paths" in error.fix


def test_names_that_the_set_lacks_are_counted(tmp_path):
    images = imagenet(tmp_path / "images")
    file = write(tmp_path / "l.txt", "n01_0.JPEG", "n01_9.JPEG", "n01/n02_1.JPEG", "n03_0.JPEG")
    error = refused(listed_subset, images, file, match="line 2 .* names 'n01_9.JPEG', of which there are 0")
    assert error.why.startswith("3 of 4 names")


def test_lists_of_names_that_are_missing_or_empty_are_refused(tmp_path):
    images = imagenet(tmp_path / "images")
    refused(listed_subset, images, tmp_path / "none.txt", match="cannot be read")
    refused(listed_subset, images, write(tmp_path / "l.txt", "", " "), match="is empty")
