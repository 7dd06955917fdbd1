"""Tar shards of a set give its batches again, and hold its files byte by byte."""

import csv
import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot.config.override import apply
from ibot.data import packing
from ibot.data.loader import MicroBatches
from ibot.data.packing import pack, parts_to_pack
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.files import LabelledFiles
from ibot.data.sets.open import open_images, open_labelled, open_parts
from ibot.data.shards import members
from ibot.errors import DataError, ResourceError, UserError
from ibot.recipes import recipe
from ibot.system import portable


def write(folder, *names, seed=0):
    """Small pictures of noise, the last of them broken."""
    random = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    path.write_bytes(path.read_bytes()[:200])
    return folder


LABELLED = [f"{name}/{i}.{kind}" for name in ("10", "9", "ü b") for i, kind in enumerate(
    ("jpg", "png", "JPG", "jpeg")
)]  # fmt: skip
ODD = ["v1.2/a.b.c.jpg", "v1.2/a_b_c.jpg", "v1.2/a.b/c.jpg", "z/1.jpg", "z/1.png", "z/sub/2.jpg"]


def batches(images, num=3):
    settings = ["train.batch=4", "augment.num_local=2", "train.seed=3"]
    dataset = MicroBatches(apply(recipe("tiny32"), settings), images, (4, 4), 0, 1)
    found = [dataset[number] for number in range(num)]
    return [
        (
            batch.global_views.numpy(),
            batch.local_views.numpy(),
            batch.masks.map.numpy(),
            batch.index,
            batch.content,
        )
        for batch in found
    ], [[reason for _, reason in batch.bad] for batch in found]


def same_batches(one, other):
    (arrays, bad), (others, bad_too) = batches(one), batches(other)
    for few, more in zip(arrays, others, strict=True):
        for array, wanted in zip(few, more, strict=True):
            np.testing.assert_array_equal(array, wanted)
    return bad == bad_too and any(bad)


def texts(images):
    labelled = isinstance(images, LabelledFiles)
    return [images.classes[i] for i in images.labels] if labelled else None


@pytest.mark.parametrize("names", [LABELLED, ODD, [n.replace("/", "_") for n in LABELLED]])
def test_shards_give_the_same_batches_and_classes(names, tmp_path):
    folder = write(tmp_path / "set", *names)
    made = pack(parts_to_pack(str(folder)), tmp_path / "shards", size=4)
    images, packed = open_images(str(folder)), open_images(str(tmp_path / "shards"))
    assert same_batches(images, packed) and texts(images) == texts(packed)
    assert made.shards == -(-len(names) // 4) and made.parts == {"": len(names)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "shards"]


def test_parts_become_folders_with_the_same_classes(tmp_path):
    folder = tmp_path / "set"
    write(folder, *(f"train/{name}" for name in LABELLED))
    write(folder, *(f"valid/{name}" for name in LABELLED[:5]), seed=1)
    made = pack(parts_to_pack(str(folder)), tmp_path / "shards", size=5)
    assert made.parts == {"train": 12, "val": 5} and made.shards == 4
    one, other = open_labelled(str(folder)), open_labelled(str(tmp_path / "shards"))
    for images, packed in zip(one, other, strict=True):
        assert texts(images) == texts(packed) and len(images) == len(packed)
        for i in range(len(images) - 1):
            np.testing.assert_array_equal(images.read(i), packed.read(i))


def test_every_byte_is_there_and_the_index_says_where(tmp_path):
    folder = write(tmp_path / "set", *LABELLED)
    pack(parts_to_pack(str(folder)), tmp_path / "shards", size=5)
    with (tmp_path / "shards" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["from"] for row in rows] == sorted(LABELLED)
    for row in rows:
        content = (folder / row["from"]).read_bytes()
        with tarfile.open(tmp_path / "shards" / row["shard"]) as archive:
            assert archive.extractfile(row["member"]).read() == content
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert int(row["bytes"]) == len(content)


def test_no_two_images_share_a_key_of_webdataset(tmp_path):
    names = [*ODD, "z/1-4.jpg", ".x/1.jpg"]
    keys = [member.key for member in members(open_images(str(write(tmp_path / "set", *names))))]
    assert len(set(keys)) == len(keys) == 7  # hidden folders are not read
    assert all("." not in key.rpartition("/")[2] for key in keys)


def test_files_that_cannot_be_read_keep_their_places(tmp_path):
    folder = write(tmp_path / "set", *LABELLED)
    (folder / "9" / "1x.jpg").symlink_to("nowhere")
    made = pack(parts_to_pack(str(folder)), tmp_path / "shards")
    assert made.empty == ("9/1x.jpg",)
    images, packed = open_images(str(folder)), open_images(str(tmp_path / "shards"))
    assert len(packed) == 13
    same_batches(images, packed)  # the reason alone is another: empty, not missing


def test_lists_may_name_files_anywhere_and_of_any_extension(tmp_path):
    write(tmp_path / "photos", "a.jpg", "b.dat", ".hidden.png", "sub/../c.jpg", "d.jpg")
    (tmp_path / "lists").mkdir()
    rows = [("../photos/b.dat", "y"), ("../photos/.hidden.png", "x"), ("../photos/c.jpg", "y")]
    listed = tmp_path / "lists" / "all.csv"
    listed.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    pack(parts_to_pack(str(listed)), tmp_path / "shards")
    images, packed = open_images(str(listed)), open_images(str(tmp_path / "shards"))
    assert texts(packed) == texts(images) == ["y", "x", "y"]
    for i in range(3):
        np.testing.assert_array_equal(images.read(i), packed.read(i))


def test_archives_are_packed_anew_into_shards_of_another_size(tmp_path):
    folder = write(tmp_path / "set", *LABELLED)
    pack(parts_to_pack(str(folder)), tmp_path / "one", size=3)
    pack(parts_to_pack(str(tmp_path / "one")), tmp_path / "two", size=7)
    assert same_batches(open_images(str(folder)), open_images(str(tmp_path / "two")))


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A packing that broke off before its third shard, and what it would have made."""
    folder = write(tmp_path / "set", *LABELLED)
    pack(parts_to_pack(str(folder)), tmp_path / "whole", size=2)
    real = packing.write_shard

    def breaking(place, *rest):
        if place.name == "000003.tar":
            raise KeyboardInterrupt
        real(place, *rest)

    monkeypatch.setattr(packing, "write_shard", breaking)
    with pytest.raises(KeyboardInterrupt):
        pack(parts_to_pack(str(folder)), tmp_path / "shards", size=2)
    monkeypatch.setattr(packing, "write_shard", real)
    assert not (tmp_path / "shards").exists()
    return folder


def test_a_packing_goes_on_where_it_stopped(interrupted, tmp_path):
    made = pack(parts_to_pack(str(interrupted)), tmp_path / "shards", size=2)
    assert made.kept == 3 and contents(tmp_path / "shards") == contents(tmp_path / "whole")


@pytest.mark.parametrize("place", [100, 512, 700, -1, None])
def test_shards_of_before_are_checked_byte_by_byte(interrupted, tmp_path, place):
    file = tmp_path / "shards.partial" / "000001.tar"
    content = bytearray(file.read_bytes())
    if place is None:
        del content[len(content) // 2 :]
    elif place < 0:
        content *= 2
    else:
        content[place] ^= 1
    file.write_bytes(content)
    made = pack(parts_to_pack(str(interrupted)), tmp_path / "shards", size=2)
    assert made.kept == 2 and contents(tmp_path / "shards") == contents(tmp_path / "whole")


def test_a_packing_of_other_images_or_sizes_is_not_gone_on_with(interrupted, tmp_path):
    with pytest.raises(UserError, match="unfinished packing"):
        pack(parts_to_pack(str(interrupted)), tmp_path / "shards", size=3)
    os.utime(interrupted / "9" / "0.jpg", ns=(1, 1))
    with pytest.raises(UserError, match="unfinished packing"):
        pack(parts_to_pack(str(interrupted)), tmp_path / "shards", size=2)


def test_nothing_is_overwritten(tmp_path):
    folder = write(tmp_path / "set", *LABELLED)
    for name in ("file", "filled/x", "other.partial/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    for name in ("file", "filled", "other"):
        with pytest.raises(UserError, match=r"is there already|is in the way"):
            pack(parts_to_pack(str(folder)), tmp_path / name)
    assert contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert pack(parts_to_pack(str(folder)), tmp_path / "empty").shards == 1


def test_two_do_not_pack_into_one_place(tmp_path):
    folder = write(tmp_path / "set", *LABELLED)
    (tmp_path / "shards.partial").mkdir()
    with (
        packing._locked(tmp_path / "shards.partial"),
        pytest.raises(UserError, match="is in use"),
    ):
        pack(parts_to_pack(str(folder)), tmp_path / "shards")


def test_a_full_disk_is_told_before_and_on_the_way(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", *LABELLED)
    parts = parts_to_pack(str(folder))
    real = packing.shutil.disk_usage

    def free(num_bytes):
        usage = real(tmp_path)._replace(free=num_bytes)
        monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage)

    free(9000)
    with pytest.raises(ResourceError, match="is full") as caught:
        pack(parts, tmp_path / "shards")
    assert "MiB are to be written" in caught.value.why
    free(10**9)

    def full(place, *_):
        raise OSError(28, "No space left on device", str(place))

    monkeypatch.setattr(packing, "write_shard", full)
    with pytest.raises(ResourceError, match="is full") as caught:
        pack(parts, tmp_path / "shards")
    assert "it goes on from the shards that are there" in caught.value.fix
    assert not (tmp_path / "shards").exists()


def test_bytes_that_the_disk_changes_are_noticed(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", *LABELLED)
    real = packing.write_shard

    def worn(place, *rest):
        real(place, *rest)
        content = bytearray(place.read_bytes())
        content[520] ^= 1
        place.write_bytes(content)

    monkeypatch.setattr(packing, "write_shard", worn)
    with pytest.raises(DataError, match="is not what was written"):
        pack(parts_to_pack(str(folder)), tmp_path / "shards")


@pytest.mark.parametrize("what", ["another content", "gone"])
def test_images_that_change_meanwhile_are_noticed(tmp_path, monkeypatch, what):
    folder = write(tmp_path / "set", *LABELLED)
    real, file = packing.write_shard, folder / "9" / "0.jpg"

    def meanwhile(place, *rest):
        if place.name == "000001.tar":
            file.unlink() if what == "gone" else file.write_bytes(b"another")
        real(place, *rest)

    monkeypatch.setattr(packing, "write_shard", meanwhile)
    with pytest.raises(DataError, match="changed while they were packed"):
        pack(parts_to_pack(str(folder)), tmp_path / "shards", size=2)
    assert not (tmp_path / "shards").exists()


def test_disks_without_locks_and_places_without_a_name(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", *LABELLED)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"'\.' is no new folder"):
        pack(parts_to_pack(str(folder)), Path())

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(portable, "lock", refuse)
    assert pack(parts_to_pack(str(folder)), tmp_path / "shards").shards == 1


def test_what_is_no_file_and_what_no_shard_can_keep_is_refused(tmp_path):
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    held = ArrayImages(tmp_path, "train", pixels, np.arange(2, dtype=np.int32), ("a", "b"))
    patched = pytest.MonkeyPatch()
    with patched.context() as context:
        context.setattr(packing, "open_parts", lambda data: {"": held})
        with pytest.raises(DataError, match="are no files"):
            parts_to_pack("cifar10:x")
    folder = write(tmp_path / "set", " a/1.jpg", "b/1.jpg")
    with pytest.raises(UserError, match="cannot be packed"):
        pack(parts_to_pack(str(folder)), tmp_path / "shards")


def test_both_parts_are_opened_and_said_to_be(tmp_path):
    folder = tmp_path / "set"
    write(folder, *(f"train/{name}" for name in LABELLED))
    write(folder, *(f"test/{name}" for name in LABELLED[:1]))
    parts = open_parts(str(folder))
    assert {name: len(images) for name, images in parts.items()} == {"train": 12, "val": 1}
    assert not any("only" in note for images in parts.values() for note in images.notes)
    assert list(open_parts(str(folder / "train"))) == [""]
