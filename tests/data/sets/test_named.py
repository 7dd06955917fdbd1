import importlib.util
import io
import json
import pickle
import shutil
import struct
from typing import ClassVar

import numpy as np
import pytest

from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.named import open_named
from ibot.data.sets.open import open_labelled

INAT = ("Aves/0001/a.jpg", "Fungi/0000/b.jpg", "Aves/0001/c.jpg", "Fungi/0000/d.jpg")


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
    """Five training batches of four images and a test batch, in torchvision's layout; returns the
    test pixels.
    """
    folder = root / "cifar-10-batches-py"
    rng = np.random.default_rng(0)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in batches:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        python2_pickle(
            folder / name,
            {"batch_label": name, "labels": [0, 9, 3, 3], "data": data, "filenames": ["a"] * 4},
        )
    python2_pickle(
        folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)], "num_vis": 3072}
    )
    return data


def make_cifar100(root):
    for name in ("train", "test"):
        content = {
            "fine_labels": [0, 99],
            "coarse_labels": [0, 1],
            "data": np.zeros((2, 3072), np.uint8),
        }
        python2_pickle(root / "cifar-100-python" / name, content)
    python2_pickle(
        root / "cifar-100-python" / "meta", {"fine_label_names": [f"c{i}" for i in range(100)]}
    )


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar10_is_read_from_its_batches(tmp_path, inside):
    data = make_cifar10(tmp_path)
    train, val = open_labelled(f"CIFAR10:{tmp_path / inside}")
    assert isinstance(train, ArrayImages) and (len(train), len(val)) == (20, 4)
    assert train.classes == val.classes == tuple(f"class {i}" for i in range(10))
    assert (
        val.labels.tolist() == [0, 9, 3, 3]
        and val.labels.dtype == np.int32
        and val.name(3) == "test/00003"
    )
    np.testing.assert_array_equal(val.read(2), data[2].reshape(3, 32, 32).transpose(1, 2, 0))
    val.read(2)[:] = 0
    assert val.read(2).any(), "what is read is a copy"


def test_cifar100_has_its_fine_labels(tmp_path):
    make_cifar100(tmp_path)
    train, val = open_labelled(f"cifar100:{tmp_path}")
    assert (
        len(train.classes) == 100
        and train.labels.tolist() == [0, 99]
        and val.name(0) == "test/00000"
    )


def test_a_batch_that_would_run_code_is_refused(tmp_path, refused):
    make_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(
        b"cos\nsystem\n(S'touch " + b"x'\ntR."
    )
    error = refused(open_labelled, f"cifar10:{tmp_path}", match="no complete set 'cifar10'")
    assert "'os.system' is refused" in error.why


@pytest.mark.parametrize("kind", [object, "U1"])
def test_arrays_of_anything_but_numbers_are_not_built(tmp_path, kind, refused):
    make_cifar10(tmp_path)
    batch = {"labels": [1], "data": np.ones((1, 3072), np.uint8).astype(kind)}
    python2_pickle(tmp_path / "cifar-10-batches-py" / "test_batch", batch)
    refused(open_labelled, f"cifar10:{tmp_path}", match="no complete set 'cifar10'")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_batches_that_python_3_wrote_are_read(tmp_path, protocol):
    make_cifar10(tmp_path)
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    batch = {"labels": np.array([1, 2]), "data": data}
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    val = open_labelled(f"cifar10:{tmp_path}")[1]
    assert val.labels.tolist() == [1, 2] and np.array_equal(
        val.pixels.transpose(0, 3, 1, 2).reshape(2, -1), data
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "data_batch_3").unlink(),
        lambda folder: (folder / "test_batch").write_bytes(
            (folder / "test_batch").read_bytes()[:100]
        ),
        lambda folder: python2_pickle(
            folder / "test_batch", {"labels": [0], "data": np.zeros((2, 3072), np.uint8)}
        ),
        lambda folder: python2_pickle(
            folder / "test_batch", {"labels": [10], "data": np.zeros((1, 3072), np.uint8)}
        ),
        lambda folder: python2_pickle(folder / "test_batch", ["no dictionary"]),
        lambda folder: shutil.rmtree(folder),
    ],
)
def test_incomplete_batches_are_refused_with_the_layout(tmp_path, damage, refused):
    make_cifar10(tmp_path)
    damage(tmp_path / "cifar-10-batches-py")
    error = refused(open_labelled, f"cifar10:{tmp_path}", match="no complete set 'cifar10'")
    assert f"'{tmp_path / 'cifar-10-batches-py'}' with data_batch_1" in error.why


def savemat(path, **values):
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, values)


def test_flowers_train_on_train_and_val(tmp_path, monkeypatch, make, refused):
    from torchvision.datasets import Flowers102

    monkeypatch.setattr(
        Flowers102, "_check_integrity", lambda self: True
    )  # the md5 of the published label files
    folder = make(tmp_path / "flowers-102", *(f"jpg/image_{i:05d}.jpg" for i in range(1, 7)))
    savemat(folder / "imagelabels.mat", labels=[[1, 102, 5, 1, 2, 3]])
    savemat(folder / "setid.mat", trnid=[[1, 2]], valid=[[3, 4]], tstid=[[5, 6]])
    train, val = open_labelled(f"flowers102:{tmp_path}")
    assert train.kind == "list" and len(train.classes) == 102
    assert train.labels.tolist() == [0, 101, 4, 0] and val.labels.tolist() == [1, 2]
    assert (
        val.name(0) == "flowers-102/jpg/image_00005.jpg"
        and abs(int(val.read(0)[0, 0, 0]) - 40) <= 2
    )
    (folder / "jpg" / "image_00006.jpg").unlink()
    refused(
        open_labelled,
        f"flowers102:{tmp_path}",
        match=r"names 'flowers-102/jpg/image_00006.jpg', which is missing",
    )


def test_cars_have_labels_from_zero(tmp_path, make):
    folder = make(
        tmp_path / "stanford_cars",
        "cars_train/1.jpg",
        "cars_train/2.jpg",
        "cars_test/3.jpg",
        "cars_test/4.jpg",
    )
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]

    def annotations(*rows):
        return np.array([[(5, number, name) for number, name in rows]], dtype=kind)

    savemat(
        folder / "devkit" / "cars_train_annos.mat",
        annotations=annotations((1, "1.jpg"), (196, "2.jpg")),
    )
    savemat(
        folder / "cars_test_annos_withlabels.mat",
        annotations=annotations((2, "3.jpg"), (3, "4.jpg")),
    )
    models = np.array([[f"car {i}" for i in range(196)]], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", class_names=models)
    train, val = open_labelled(f"cars:{folder}")
    assert (
        train.labels.tolist() == [0, 195]
        and val.labels.tolist() == [1, 2]
        and len(val.classes) == 196
    )
    assert val.name(1) == "stanford_cars/cars_test/4.jpg" and val.read(1).shape == (4, 6, 3)


def test_pets_train_on_trainval(tmp_path, make, write):
    folder = make(
        tmp_path / "oxford-iiit-pet",
        *(f"images/{name}.jpg" for name in ("Bengal_1", "pug_1", "pug_2", "Bengal_2")),
    )
    write(folder / "annotations" / "trainval.txt", "Bengal_1 1 1 1", "pug_1 2 2 1")
    write(folder / "annotations" / "test.txt", "pug_2 2 2 1", "Bengal_2 1 1 1")
    train, val = open_labelled(f"pets:{tmp_path}")
    assert (
        train.classes == ("Bengal", "Pug")
        and train.labels.tolist() == [0, 1]
        and val.labels.tolist() == [1, 0]
    )
    assert val.name(0) == "oxford-iiit-pet/images/pug_2.jpg" and val.read(0).shape == (4, 6, 3)


def inat_list(path, *rows):
    images = [
        {"id": 10 + i, "file_name": f"train_val2018/{name}"} for i, (name, _) in enumerate(rows)
    ]
    labels = [{"image_id": 10 + i, "category_id": number} for i, (_, number) in enumerate(rows)]
    path.write_text(
        json.dumps(
            {"images": images, "annotations": labels[::-1], "categories": [{"id": 0, "name": "x"}]}
        )
    )


@pytest.mark.parametrize("folder", ["train_val2018", "2018"])
def test_inat_is_read_by_its_lists(tmp_path, folder, make, names, refused):
    make(tmp_path, *(f"{folder}/{name}" for name in INAT))
    inat_list(tmp_path / "train2018.json", ("Aves/0001/a.jpg", 1), ("Fungi/0000/b.jpg", 0))
    inat_list(tmp_path / "val2018.json", ("Aves/0001/c.jpg", 1), ("Fungi/0000/d.jpg", 0))
    categories = [{"id": 1, "name": "Pica pica"}, {"id": 0, "name": "Boletus"}]
    (tmp_path / "categories.json").write_text(json.dumps(categories))
    train, val = open_labelled(f"inat2018:{tmp_path}")
    assert train.classes == ("Boletus", "Pica pica") and train.labels.tolist() == [1, 0]
    assert names(val) == [f"{folder}/Aves/0001/c.jpg", f"{folder}/Fungi/0000/d.jpg"] and val.read(
        0
    ).shape == (4, 6, 3)
    (tmp_path / "val2018.json").unlink()
    refused(open_labelled, f"inat2018:{tmp_path}", match="no validation part")
    (tmp_path / "train2018.json").write_text("{")
    refused(open_labelled, f"inat2018:{tmp_path}", match="no complete set")


def test_inat_without_lists_is_one_part(tmp_path, make, refused):
    make(tmp_path, *(f"2019/{name}" for name in INAT))
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
def test_a_missing_set_says_what_is_expected_where(tmp_path, name, expected, folder, refused):
    if name in ("flowers102", "cars"):
        pytest.importorskip("scipy")
    error = refused(open_labelled, f"{name}:{tmp_path / folder}", match=f"no complete set '{name}'")
    assert expected in error.why and str(tmp_path / folder) in error.why
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def test_unknown_sets_are_answered_with_the_known_ones(tmp_path, refused):
    error = refused(open_labelled, f"mnist:{tmp_path}", match="there is no set 'mnist'")
    assert "cifar10, cifar100, flowers102" in error.why


def test_sets_with_matlab_files_need_scipy(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert (
        refused(open_named, "cars", tmp_path, "train", match="needs scipy").fix
        == "pip install scipy"
    )
