import hashlib
import multiprocessing
import os
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from image_forms import save_to_disk, table
from PIL import Image

from ibot.config.reading import MAX_PIXELS
from ibot.data.decode import UnreadableImage
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.lists import open_list, scan_list
from ibot.data.sets.open import open_images
from ibot.data.sets.scan import scan
from ibot.data.sets.stacks import StackImages
from ibot.data.sets.subsets import LabelledSubset, SubsetImages
from ibot.data.sets.tars import open_tars, scan_tars
from ibot.data.sets.variants import count_shared, matched, read_as

LABELLED = ("folder", "list", "tar", "parquet", "parquet list", "arrow", "npy", "array", "subset")
UNLABELLED = ("flat folder", "bare list", "bare tar", "bare parquet", "bare npy", "bare subset")


@pytest.fixture(params=[*LABELLED, *UNLABELLED, "zarr"])
def images(request, tmp_path, make, write, tar, jpeg):
    kind = request.param
    bare = kind.startswith("bare ")
    if kind in ("parquet", "bare parquet", "arrow"):
        labels = None if bare else [0, 1, 1]
        made = table([jpeg(10 * i) for i in range(3)], labels, None if bare else ("cat", "dog"))
        if kind == "arrow":
            save_to_disk(made, tmp_path / "set", files=2, batch=1)
            return open_images(str(tmp_path / "set"))
        pq.write_table(made, tmp_path / "a.parquet", row_group_size=2)
        return open_images(str(tmp_path / "a.parquet"))
    if kind == "parquet list":
        make(tmp_path / "set", "1.jpg", "2.jpg")
        rows = {"path": ["set/1.jpg", "set/2.jpg"], "label": ["cat", "dog"]}
        pq.write_table(pa.table(rows), tmp_path / "list.parquet")
        return open_images(str(tmp_path / "list.parquet"))
    if kind in ("npy", "bare npy", "zarr"):
        pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
        if kind == "zarr":
            zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(1, 4, 6, 3))
        else:
            np.save(tmp_path / "a.npy", pixels)
        if not bare:
            np.save(tmp_path / "labels.npy", np.array(["cat", "dog", "dog"]))
        return open_images(str(tmp_path / ("a.zarr" if kind == "zarr" else "a.npy")))
    if kind == "array":
        pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
        return ArrayImages(tmp_path, "test", pixels, np.array([0, 1, 1], np.int32), ("cat", "dog"))
    if kind == "tar":
        return open_tars([tar(tmp_path / "a.tar", "cat/1.jpg", "dog/1.jpg")])
    if kind == "bare tar":
        return scan_tars([tar(tmp_path / "a.tar", "1.jpg", "2.jpg")])
    if kind in ("flat folder", "bare subset"):
        flat = scan(make(tmp_path / "set", "1.jpg", "2.jpg", "3.jpg"))
        return flat if kind == "flat folder" else SubsetImages(flat, [2, 0])
    make(tmp_path / "set", "cat/1.jpg", "dog/1.jpg", "dog/2.jpg")
    if kind == "bare list":
        return scan_list(write(tmp_path / "list.csv", "path", "set/cat/1.jpg", "set/dog/1.jpg"))
    if kind == "list":
        return open_list(
            write(tmp_path / "list.csv", "path,label", "set/cat/1.jpg,cat", "set/dog/1.jpg,dog")
        )
    folder = open_folder(tmp_path / "set")
    return folder if kind == "folder" else LabelledSubset(folder, [2, 0])


def test_every_set_keeps_to_the_protocol_and_travels_to_workers(images, request):
    assert isinstance(images, Images)
    assert isinstance(images, LabelledImages) == (request.node.callspec.id not in UNLABELLED)
    pixels = images.read(1)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and isinstance(images.name(1), str)
    assert images.size(1) == pixels.shape[:2] == (4, 6)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        fingerprint, there = (
            pool.submit(images.fingerprint).result(),
            pool.submit(images.read, 1).result(),
        )
    assert fingerprint == images.fingerprint() and len(fingerprint) == 64
    np.testing.assert_array_equal(there, pixels)


@pytest.mark.parametrize("images", [*LABELLED, "zarr"], indirect=True)
def test_every_labelled_image_has_its_class(images):
    assert images.labels.dtype == np.int32 and images.classes == ("cat", "dog")
    assert images.labels.tolist() == [images.label(i) for i in range(len(images))]


def test_what_a_run_notes_of_its_data_follows_names_and_order(images):
    noted = images.provenance()
    assert list(noted) == ["root", "images", "classes", "names_sha256"]
    assert noted["root"] == str(images.root) and noted["images"] == len(images)
    assert noted["classes"] == len(getattr(images, "classes", ()))
    turned = SubsetImages(images, np.arange(len(images))[::-1]).provenance()
    assert turned == {**noted, "names_sha256": turned["names_sha256"]} != noted


def digest_of(*parts):
    """SHA-256 of the parts, the length of each before it in eight bytes."""
    whole = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.sha256(whole).hexdigest()


def states(*paths):
    found = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return np.array(found, np.int64).tobytes()


def test_fingerprints_are_those_of_the_first_versions(tmp_path, make, write, tar):
    """The folders of the feature cache are named after them. Search gave images without labels one
    class without a name.
    """
    make(tmp_path / "flat", "1.jpg", "22.jpg")
    make(tmp_path / "set", "cat/1.jpg", "dog/1.jpg")
    listed = write(tmp_path / "list.csv", "path,label", "flat/22.jpg,b", "flat/1.jpg,a")
    archive = tar(tmp_path / "a.tar", "cat/1.jpg", "dog/1.jpg")
    flat, both = tmp_path / "flat", tmp_path / "set"
    none, one_each = np.zeros(2, np.int32).tobytes(), np.arange(2, dtype=np.int32).tobytes()
    ends = {n: np.array(n, np.int64).tobytes() for n in ((5, 11), (9, 18), (11, 21), (15, 30))}
    in_set = states(both / "cat" / "1.jpg", both / "dog" / "1.jpg")
    set_parts = b"cat", b"dog", b"cat/1.jpgdog/1.jpg", ends[9, 18], one_each, in_set

    bare = scan(flat)
    flat_state = states(flat / "1.jpg", flat / "22.jpg")
    without = b"files", b"", b"1.jpg22.jpg", ends[5, 11], none, flat_state
    assert bare.fingerprint() == digest_of(*without)
    lying = replace(bare, exif_orientation="ignore", max_pixels=99)
    assert lying.fingerprint() == digest_of(*without, b"ignore", b"99")
    assert scan(both).fingerprint() == digest_of(b"files", *set_parts)
    assert open_folder(both).fingerprint() == digest_of(b"folder", *set_parts)
    in_list = b"flat/22.jpgflat/1.jpg", ends[11, 21], np.array([1, 0], np.int32).tobytes()
    state = states(flat / "22.jpg", flat / "1.jpg")
    assert open_list(listed).fingerprint() == digest_of(b"list", b"a", b"b", *in_list, state)
    tarred = open_tars([archive])
    with tarfile.open(archive) as content:
        places = [(member.offset_data, member.size) for member in content]
    state = states(archive) + np.array(places, np.int64).tobytes()
    in_tar = b"a.tar/cat/1.jpga.tar/dog/1.jpg", ends[15, 30], one_each
    assert tarred.fingerprint() == digest_of(b"tar", b"cat", b"dog", *in_tar, state)
    some = LabelledSubset(tarred, [1]).fingerprint()
    one = np.array([1], np.int64).tobytes()
    assert some == digest_of(b"subset", tarred.fingerprint().encode(), one)
    pixels = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    held = ArrayImages(tmp_path, "train", pixels, np.arange(2, dtype=np.int32), ("a", "b"))
    parts = b"array", b"a", b"b", b"train", one_each, pixels.tobytes()
    assert held.fingerprint() == digest_of(*parts)


def made_anew(images):
    if isinstance(images, SubsetImages):
        return type(images)(replace(images.base), images.indices)
    return replace(images)


def change(images):
    """Another pixel, or another time of a file."""
    if isinstance(images, ArrayImages):
        images.pixels[0, 0, 0, 0] ^= 1
    elif isinstance(images, StackImages):
        file = images.root / images.stacks[0].name
        os.utime(file / "c" / "0" / "0" / "0" / "0" if file.is_dir() else file, ns=(1, 1))
    else:
        base = images.base if isinstance(images, SubsetImages) else images
        file = base.root / (base.archives.names[0] if base.archives else base.name(0))
        os.utime(file, ns=(1, 1))


def test_fingerprints_follow_the_files(images):
    before = images.fingerprint()
    assert made_anew(images).fingerprint() == before
    change(images)
    assert made_anew(images).fingerprint() != before


def test_a_fingerprint_is_computed_once_and_travels_with_the_set(images, monkeypatch):
    first = images.fingerprint()
    change(images)
    monkeypatch.setattr(
        "ibot.data.sets.fingerprints.digest", lambda *_: pytest.fail("computed again")
    )
    assert images.fingerprint() == pickle.loads(pickle.dumps(images)).fingerprint() == first


def test_fingerprints_follow_kind_names_and_labels(tmp_path, make, write):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    folder = open_folder(tmp_path)
    seen = [folder.fingerprint(), replace(folder, kind="list").fingerprint()]
    for labels in ("x,y", "y,x", "x,z"):
        first, second = labels.split(",")
        file = write(tmp_path / "list.csv", "path,label", f"a/1.jpg,{first}", f"b/1.jpg,{second}")
        seen.append(open_list(file).fingerprint())
    (tmp_path / "a" / "1.jpg").rename(tmp_path / "a" / "2.jpg")
    seen.append(open_folder(tmp_path).fingerprint())
    seen += [LabelledSubset(folder, indices).fingerprint() for indices in ([0], [0, 1], [1, 0])]
    assert len(set(seen)) == len(seen)
    assert len(made_anew(folder).fingerprint()) == 64, "a file that has gone has a state as well"


def test_an_archive_that_shrinks_or_goes_gives_unreadable_images(tmp_path, tar):
    path = tar(tmp_path / "a.tar", "cat/1.jpg", "dog/1.jpg")
    images = open_tars([path])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UnreadableImage, match="truncated"):
        images.read(0)
    path.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        images.read(0)


def test_a_damaged_image_in_an_archive_or_folder_is_unreadable(tmp_path, make, tar):
    images = open_tars([tar(tmp_path / "a.tar", **{"cat/1.jpg": "no image", "dog/1.jpg": None})])
    make(tmp_path / "f", "cat/1.jpg", "dog/1.jpg").joinpath("cat/1.jpg").write_text("no image")
    for one in (images, open_folder(tmp_path / "f")):
        with pytest.raises(UnreadableImage, match="not an image"):
            one.read(0)


def test_a_subset_keeps_the_classes_of_its_base(tmp_path, make, names):
    base = open_folder(make(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg"))
    subset = LabelledSubset(base, np.array([2, 0], np.int32))
    assert (
        subset.classes == ("a", "b", "c")
        and names(subset) == ["c/1.jpg", "a/1.jpg"]
        and subset.root == base.root
    )
    assert subset.labels.tolist() == [2, 0] and abs(int(subset.read(0)[0, 0, 0]) - 20) <= 2
    assert len(LabelledSubset(base, [])) == 0


def test_subsets_are_turned_upright_or_not_with_their_base(tmp_path, make):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "b" / "1.jpg", exif=exif)
    upright = LabelledSubset(LabelledSubset(open_folder(tmp_path), [1, 0]), [0])
    lying = read_as(upright, "ignore", MAX_PIXELS)
    assert isinstance(lying, LabelledSubset) and lying.name(0) == upright.name(0) == "b/1.jpg"
    assert upright.read(0).shape == (8, 4, 3) and lying.read(0).shape == (4, 8, 3)
    assert (
        lying.fingerprint()
        != upright.fingerprint()
        == read_as(lying, "apply", MAX_PIXELS).fingerprint()
    )


def test_images_in_memory_have_no_side_up(tmp_path):
    pixels = np.zeros((2, 4, 6, 3), np.uint8)
    images = ArrayImages(tmp_path, "test", pixels, np.array([0, 1], np.int32), ("cat", "dog"))
    subset = LabelledSubset(images, [1])
    assert read_as(images, "ignore", MAX_PIXELS) is images
    assert read_as(subset, "ignore", MAX_PIXELS).fingerprint() == subset.fingerprint()


@pytest.mark.parametrize("indices", [[3], [-1], [True, False, True], [0.5], [[0]]])
def test_indices_outside_of_the_base_are_refused(tmp_path, indices, make):
    base = open_folder(make(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg"))
    with pytest.raises(ValueError, match="indices"):
        LabelledSubset(base, indices)


def test_files_in_both_sets_are_counted_whatever_their_roots(tmp_path, make, tar):
    make(tmp_path / "d", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    make(tmp_path / "e", "a/1.jpg", "b/1.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    whole, other = open_folder(tmp_path / "d"), open_folder(tmp_path / "e")
    rows = ["path,label", "d/a/1.jpg,a", "d/b/2.jpg,b", "e/b/1.jpg,b"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    listed = open_list(tmp_path / "list.csv", "train")
    assert count_shared(whole, whole) == 4 and count_shared(whole, other) == 0
    assert count_shared(whole, open_folder(tmp_path / "link")) == 4
    assert count_shared(whole, LabelledSubset(whole, [3, 0])) == 2
    assert count_shared(LabelledSubset(whole, [0, 1]), LabelledSubset(whole, [2, 3])) == 0
    assert count_shared(listed, whole) == count_shared(whole, listed) == 2
    archive = open_tars([tar(tmp_path / "x.tar", "a/1.jpg", "b/1.jpg")])
    assert count_shared(archive, archive) == 2
    assert count_shared(archive, LabelledSubset(archive, [0])) == 0, "told cheaply or not at all"
    pixels = ArrayImages(
        tmp_path, "train", np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1], np.int32), ("a", "b")
    )
    assert count_shared(pixels, pixels) == 2


class Foreign(LabelledSubset):
    """A kind of set that this package does not know."""


def test_sets_of_any_kind_get_the_classes_of_the_training_images(tmp_path, make):
    make(tmp_path, "b/1.jpg", "c/1.jpg", "c/2.jpg")
    images = Foreign(open_folder(tmp_path), [2, 0])
    other = matched(images, ("a", "b", "c"), ("there", "here"))
    assert other.classes == ("a", "b", "c") and other.labels.tolist() == [2, 1]
    assert other.label(0) == 2 and [other.name(i) for i in (0, 1)] == ["c/2.jpg", "b/1.jpg"]
    assert other.fingerprint() != images.fingerprint()
    assert pickle.loads(pickle.dumps(other)).fingerprint() == other.fingerprint()


def test_sets_with_tiff_files_are_others_when_their_levels_are_read_otherwise(
    tmp_path, make, tar, monkeypatch
):
    folders = {
        name: make(tmp_path / name, f"a/1.{name}", "b/1.jpg") for name in ("jpg", "tif", "TIFF")
    }
    archive = tar(tmp_path / "a.tar", "a/1.jpg", "b/1.tif")

    def seen():
        found = {name: open_folder(folder).fingerprint() for name, folder in folders.items()}
        return {**found, "tar": open_tars([archive]).fingerprint()}

    before = seen()
    monkeypatch.setattr("ibot.data.sets.fingerprints.TIFF_LEVELS", "levels 3")
    assert [name for name, print_ in seen().items() if print_ == before[name]] == ["jpg"]
