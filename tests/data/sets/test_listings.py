"""Index files of folders and archives: the same images as without, or none."""

import mmap
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ibot.data.sets import fingerprints, listings, parts, scan, tars
from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.files import LabelledFiles, file_images, with_labels

NAMES = "a/1.jpg", "a/2.png", "b/deep/3.jpg", "b/deep/4.tif", "c/caf\udce9.jpg"
OTHERS = "a/notes.txt", "b/.hidden.jpg", "c/drawing.svg"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Listings of sets of any size and age, in a folder of their own."""
    folder = tmp_path / "cache" / "listings"
    monkeypatch.setattr(listings, "FOLDER", str(folder))
    monkeypatch.setattr(listings, "WORTH", 1)
    monkeypatch.setattr(fingerprints, "SETTLED", -1e9)
    return folder


@pytest.fixture
def data(tmp_path, make):
    return make(tmp_path / "set", *NAMES, *OTHERS)


@pytest.fixture
def walks(monkeypatch):
    """The folders that were walked through, one entry a walk."""
    real, walked = scan._walk, []
    monkeypatch.setattr(scan, "_walk", lambda *how: walked.append(how[0]) or real(*how))
    return walked


def told(images):
    """All that a set says."""
    labels = images.labels.tolist() if isinstance(images, LabelledFiles) else None
    classes = getattr(images, "classes", None)
    names = [images.name(i) for i in range(len(images))]
    return (
        type(images), names, labels, classes, images.notes, images.kind, images.fingerprint(),
        images.provenance(),
    )  # fmt: skip


def is_mapped(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(getattr(array, "obj", array), mmap.mmap)


def test_the_second_start_walks_through_nothing_and_gives_the_same(cache, data, walks):
    first = scan.scan(data)
    assert len(walks) == 1 and not is_mapped(first.names)
    again = scan.scan(data)
    assert len(walks) == 1 and told(again) == told(first)
    assert all(is_mapped(array) for array in (again.names, again.ends, again.labels))
    assert len(first.classes) == 3 and any("1 .svg" in note for note in first.notes)
    assert told(open_folder(data)) == told(replace(first, kind="folder")) and len(walks) == 1
    assert told(pickle.loads(pickle.dumps(again))) == told(first)


def test_sets_without_labels_and_of_any_names_are_kept_too(cache, tmp_path, make, walks):
    flat = make(tmp_path / "flat", "1.jpg", "\udcff\n.jpg", "写真/ü.png")
    first, again = scan.scan(flat), scan.scan(flat)
    assert len(walks) == 1 and told(first) == told(again) and not isinstance(again, LabelledFiles)


def linked(data):
    """A folder that a link leads to, beside the set."""
    other = data.parent / "linked"
    (other / "x").mkdir(parents=True)
    os.link(data / "a" / "1.jpg", other / "x" / "l.jpg")
    (data / "d").symlink_to(other)
    return other


CHANGES = {
    "an image more": lambda data: os.link(data / "a/1.jpg", data / "a/5.jpg"),
    "an image less": lambda data: (data / "a/1.jpg").unlink(),
    "another name": lambda data: (data / "b/deep/3.jpg").rename(data / "b/deep/0.jpg"),
    "a class more": lambda data: (data / "b/deep").rename(data / "z"),
    "another file passed over": lambda data: (data / "b/deep/x.heif7").touch(),
    "a deep one in a linked folder": lambda data: (
        data.parent / "linked/x/l.jpg"
    ).rename(data.parent / "linked/x/m.jpg"),
    "another folder behind a link": lambda data: (
        (data.parent / "linked").rename(data.parent / "gone"),
        (data.parent / "linked").mkdir(),
        os.link(data / "a/1.jpg", data.parent / "linked/n.jpg"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_folders_is_noticed(cache, data, walks, change):
    linked(data)
    before = told(scan.scan(data))
    assert told(scan.scan(data)) == before and len(walks) == 1
    CHANGES[change](data)
    after = told(scan.scan(data))
    assert len(walks) == 2 and after != before
    assert told(scan.scan(data)) == after and len(walks) == 2, "the new listing took its place"


def test_another_content_of_an_image_is_noticed_by_the_fingerprint_alone(cache, data, walks):
    before = told(scan.scan(data))
    with (data / "a/1.jpg").open("ab") as file:
        file.write(b"more")
    after = scan.scan(data)
    assert len(walks) == 1 and after.provenance() == before[-1]
    assert after.fingerprint() != before[-2]


def test_what_has_just_changed_is_not_trusted(cache, data, walks, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED", 2.0)
    scan.scan(data)
    assert not cache.exists()
    later = time.time() + 60
    monkeypatch.setattr(scan.time, "time", lambda: later)
    scan.scan(data)
    assert len(list(cache.glob("*.listing"))) == 1


def test_a_folder_that_changes_on_the_way_gives_no_lasting_listing(cache, data, walks, monkeypatch):
    real = scan._found_images

    def slow(folder, found):
        os.link(data / "a/1.jpg", data / "a/late.jpg")
        return real(folder, found)

    monkeypatch.setattr(scan, "_found_images", slow)
    assert len(scan.scan(data)) == 5
    monkeypatch.setattr(scan, "_found_images", real)
    assert len(scan.scan(data)) == 6


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :]


def test_a_damaged_or_foreign_listing_is_made_anew(cache, data, walks):
    want = told(scan.scan(data))
    (file,) = cache.glob("*.listing")
    whole = file.read_bytes()
    length = len(whole)
    random = np.random.default_rng(0)
    places = [0, 10, len(listings.MARK), 40, *random.integers(0, length, 40).tolist(), length - 1]
    damaged = [flipped(whole, place) for place in places]
    damaged += [whole[:cut] for cut in (0, 5, 20, 100, length // 2, length - 1)]
    damaged += [whole + b"\0", b"{}", listings.MARK + bytes(100), bytes(length)]
    damaged.append(whole.replace(listings.MARK, b"ibot listing 0\n"))
    damaged.append(whole.replace(b'"ends": 5', b'"ends": 4'))
    for number, content in enumerate(damaged):
        before = len(walks)
        file.write_bytes(content)
        assert told(scan.scan(data)) == want, number
        assert len(walks) == before + 1, number
        assert told(scan.scan(data)) == want and file.read_bytes() == whole


def test_another_kind_of_files_that_is_read_makes_it_anew(cache, data, walks, monkeypatch):
    scan.scan(data)
    monkeypatch.setattr(listings, "extensions", lambda: frozenset({".jpg"}))
    scan.scan(data)
    assert len(walks) == 2


def test_further_kinds_of_files_are_looked_for_each_time(cache, data, walks):
    np.save(data / "a" / "2.npy", np.zeros((4, 4)))
    assert len(scan.scan(data)) == 5
    for _ in range(2):
        assert len(scan.scan(data, frozenset({".npy"}))) == 6
    assert len(scan.scan(data)) == 5 and len(walks) == 3


@pytest.mark.parametrize("place", ["a file in the way", "nobody's home"])
def test_without_a_cache_it_works_as_before(cache, data, walks, monkeypatch, place):
    if place == "a file in the way":
        cache.parent.mkdir()
        cache.write_text("no folder")
    else:
        monkeypatch.setattr(listings, "FOLDER", "~nobody-of-that-name/listings")
    assert told(scan.scan(data)) == told(scan.scan(data)) and len(walks) == 2


@pytest.mark.parametrize("whose", ["another user's", "open to a group", "open to all"])
def test_what_others_may_have_written_is_not_trusted(cache, data, walks, monkeypatch, whose):
    scan.scan(data)
    (file,) = cache.glob("*.listing")
    assert file.stat().st_mode & 0o777 == 0o600 and cache.stat().st_mode & 0o777 == 0o700
    if whose == "another user's":
        own = os.geteuid()
        monkeypatch.setattr(listings.os, "geteuid", lambda: own + 1)
    else:
        file.chmod(0o620 if whose == "open to a group" else 0o602)
    scan.scan(data)
    assert len(walks) == 2


def test_nothing_is_written_where_others_may_write(cache, data, walks):
    """A link in the place of the new file would lead the writing elsewhere."""
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert told(scan.scan(data)) == told(scan.scan(data)) and len(walks) == 2
    assert not any(cache.iterdir())


def test_a_full_disk_leaves_nothing_half_written(cache, data, walks, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(listings, "_write", full)
    scan.scan(data)
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_places_have_listings_of_their_own(cache, data, walks, monkeypatch):
    scan.scan(data)
    monkeypatch.chdir(data.parent)
    assert str(scan.scan("set").root) == "set" and len(walks) == 1, "however it is called"
    moved = data.rename(data.with_name("moved"))
    assert told(scan.scan(moved))[1] == sorted(NAMES) and len(walks) == 2
    moved.rename(data)
    scan.scan(data)
    assert len(walks) == 3, "renaming is a change of the folder itself"
    link = data.with_name("link")
    link.symlink_to(data)
    scan.scan(link)
    link.unlink()
    link.symlink_to(data / "b")
    assert len(scan.scan(link)) == 2


def open_and_tell(folder, root):
    listings.FOLDER, listings.WORTH, fingerprints.SETTLED = folder, 1, -1e9
    return [told(scan.scan(root)) for _ in range(5)]


def test_processes_that_start_together_do_not_disturb_each_other(cache, data):
    with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
        work = [pool.submit(open_and_tell, str(cache), data) for _ in range(8)]
        found = [one for job in work for one in job.result()]
    assert all(one == found[0] for one in found)
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".listing"]


def dirtied(root):
    """Bytes of the mapped listing that a process makes its own by reading every name and label."""
    images = listings.find_listing(root)
    total = sum(len(images.name(i)) + images.label(i) for i in range(len(images)))
    order = np.argsort(images.labels, kind="stable")
    lines = Path("/proc/self/smaps").read_text().partition(".listing\n")[2].splitlines()
    private = next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))
    return private * 1024, total, len(order)


def test_processes_share_the_pages_of_a_large_listing(cache, tmp_path):
    names = [f"class{i % 100:02d}/{i:012d}.jpg" for i in range(100_000)]
    labels = np.arange(100_000, dtype=np.int32) % 100
    classes = tuple(f"class{i:02d}" for i in range(100))
    images = with_labels(file_images(tmp_path, names), labels, classes)
    cache.mkdir(mode=0o700, parents=True)
    watched = {"": fingerprints.state_of(tmp_path.stat())}
    listings.keep_listing(images, watched, time.time())
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        private, total, count = pool.submit(dirtied, tmp_path).result()
    assert private == 0 and count == 100_000
    assert total == sum(map(len, names)) + int(labels.sum())


def test_small_sets_are_not_worth_a_listing(cache, data, monkeypatch):
    monkeypatch.setattr(listings, "WORTH", 6)
    scan.scan(data)
    assert not cache.exists()


def test_the_folders_of_a_large_folder_are_looked_for_once(data, monkeypatch):
    monkeypatch.setattr(parts, "LARGE", 1)
    monkeypatch.setattr(fingerprints, "SETTLED", -1e9)
    real, looked = os.scandir, []
    monkeypatch.setattr(parts.os, "scandir", lambda path: looked.append(path) or real(path))
    assert parts.folder_names(data) == parts.folder_names(data) == ["a", "b", "c"]
    assert len(looked) == 1
    (data / "d").mkdir()
    assert parts.folder_names(data) == ["a", "b", "c", "d"]
    monkeypatch.setattr(fingerprints, "SETTLED", 2.0)
    monkeypatch.setattr(parts, "_large", {})
    parts.folder_names(data), parts.folder_names(data)
    assert len(looked) == 4, "what has just changed is not trusted"


def test_archives_are_read_once_and_again_when_they_change(cache, tmp_path, tar, monkeypatch):
    shards = [tar(tmp_path / f"{i}.tar", f"a/{i}.jpg", f"b/{i}.jpg", "x.txt") for i in range(3)]
    real, reads = tars._read, []
    monkeypatch.setattr(tars, "_read", lambda paths: reads.append(1) or real(paths))
    first = tars.open_tars(shards)
    again = tars.open_tars(shards)
    assert len(reads) == 1 and told(again) == told(first) and is_mapped(again.archives.places)
    for i in range(len(first)):
        np.testing.assert_array_equal(first.read(i), again.read(i))
    assert len(tars.open_tars(shards[:2])) == 4 and len(reads) == 2, "others are another set"
    tar(shards[1], "a/new.jpg", "b/new.jpg")
    assert [tars.open_tars(shards).name(i) for i in (2, 3)] == [
        "1.tar/a/new.jpg",
        "1.tar/b/new.jpg",
    ]
    shards[1].unlink()
    with pytest.raises(Exception, match=r"1\.tar"):
        tars.open_tars(shards)


def test_archives_without_classes_are_refused_from_their_listing_too(cache, tmp_path, tar, refused):
    bare = tar(tmp_path / "bare.tar", "1.jpg", "2.jpg")
    for _ in range(2):
        assert not isinstance(tars.scan_tars([bare]), LabelledFiles)
        refused(tars.open_tars, [bare], match="has no class")
