import os
import pickle
from dataclasses import replace

import pytest
from PIL import Image

from ibot.data.sets.images import LabelledImages
from ibot.data.sets.open import find_labelled, open_images, open_labelled
from ibot.data.sets.scan import scan
from ibot.errors import DataError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path) if path.suffix.lower() != ".txt" else path.write_text(
            "x"
        )


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_flat_folder_has_no_labels(tmp_path):
    make(tmp_path, "b.png", "a.JPG", "notes.txt")
    source = scan(tmp_path)
    assert names(source) == ["a.JPG", "b.png"] and not isinstance(source, LabelledImages)


def test_first_level_folders_are_classes(tmp_path):
    make(tmp_path, "dog/1.png", "cat/deep/2.png", "cat/1.png")
    source = scan(tmp_path)
    assert names(source) == ["cat/1.png", "cat/deep/2.png", "dog/1.png"]
    assert source.classes == ("cat", "dog") and [source.label(i) for i in range(3)] == [0, 0, 1]


def test_an_image_beside_the_folders_means_that_they_are_no_classes(tmp_path):
    make(tmp_path, "dog/1.png", "cat/1.png", "1.png")
    assert not isinstance(scan(tmp_path), LabelledImages)


def test_only_the_training_part_of_a_labelled_set_is_taken(tmp_path):
    make(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png")
    assert scan(tmp_path).root == tmp_path / "train"
    train, val = find_labelled(str(tmp_path))
    assert (len(train), len(val)) == (2, 2) and train.classes == val.classes


def test_test_serves_as_validation_and_another_folder_can_be_named(tmp_path):
    make(
        tmp_path,
        "a/train/x/1.png",
        "a/train/y/1.png",
        "a/test/x/1.png",
        "a/test/y/1.png",
        "b/x/1.png",
        "b/y/2.png",
    )
    assert find_labelled(str(tmp_path / "a"))[1].root == tmp_path / "a" / "test"
    assert (
        find_labelled(str(tmp_path / "b"), str(tmp_path / "a" / "test"))[0].root == tmp_path / "b"
    )
    assert find_labelled(str(tmp_path / "b")) is None
    train, val = find_labelled(
        str(tmp_path / "b"), str(tmp_path / "a")
    )  # never the training part of the other set
    assert (train.root, val.root) == (tmp_path / "b", tmp_path / "a" / "test")


def test_different_classes_are_named(tmp_path):
    make(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/cow/1.png")
    with pytest.raises(DataError, match="different classes") as caught:
        find_labelled(str(tmp_path))
    assert "dog" in caught.value.why and "cow" in caught.value.why


def test_hidden_files_side_files_and_runs_are_passed_over(tmp_path):
    make(
        tmp_path,
        "1.png",
        ".hidden.png",
        "._1.png",
        "__MACOSX/1.png",
        ".git/1.png",
        "run/pictures/a.png",
    )
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "folder.jpg").mkdir()
    assert names(scan(tmp_path)) == ["1.png"]


def test_links_are_followed_once_and_dangling_ones_kept_as_bad_files(tmp_path):
    make(tmp_path, "photos/1.png", "elsewhere/2.png")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert names(scan(tmp_path / "photos")) == ["1.png", "gone.png", "more/2.png"]


def test_a_link_never_takes_the_place_of_a_real_folder(tmp_path):
    make(tmp_path, "data/m/1.png", "outside/2.png")
    for name in ("a", "z"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "data" / "m")
    for name in ("link3", "link1", "link2"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "outside")
    source = scan(tmp_path / "data")
    assert names(source) == ["link1/2.png", "m/1.png"] and source.classes == ("link1", "m")


def test_links_in_a_circle_are_bad_files_and_pipes_are_none(tmp_path):
    make(tmp_path, "1.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    assert names(scan(tmp_path)) == ["1.png", "circle.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    make(tmp_path, "1.png", "locked/2.png")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(DataError, match=r"locked' cannot be listed") as caught:
        scan(tmp_path)
    assert caught.value.why == "Permission denied"


def test_names_of_any_script_survive_a_trip_to_a_worker(tmp_path):
    make(tmp_path, "写真 ünï <img>&.png", "-dash.png")
    source = pickle.loads(pickle.dumps(scan(tmp_path)))
    assert names(source) == ["-dash.png", "写真 ünï <img>&.png"]
    assert all(source.path(i).is_file() for i in range(2))


@pytest.mark.parametrize(
    ("path", "message"),
    [("missing/deep", "there is no folder"), ("a.txt", "is a file"), ("empty", "no images found")],
)
def test_unusable_folders_are_refused_with_what_was_seen(tmp_path, path, message):
    make(tmp_path, "a.txt")
    (tmp_path / "empty").mkdir()
    for i in range(3):
        (tmp_path / "empty" / f"{i}.heic").write_text("x")
    with pytest.raises(DataError, match=message) as caught:
        scan(tmp_path / path)
    if path == "empty":
        assert "3 .heic" in caught.value.why
    assert caught.value.fix


def test_what_a_run_notes_of_its_data_follows_the_names(tmp_path):
    make(tmp_path, "1.png")
    before = scan(tmp_path).provenance()
    make(tmp_path, "2.png")
    assert scan(tmp_path).provenance()["names_sha256"] != before["names_sha256"]
    assert replace(scan(tmp_path)).provenance() == scan(tmp_path).provenance()


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("a.zip", "is a file", "unpack it"),
        ("a.tar.gz", "is a file", "unpack it"),
        ("a.csv", "is a file", "lists are for training and evaluations"),
        ("a.jpg", "is a file", "give the folder"),
        ("https://example.org/a.zip", "is an address", "download"),
    ],
)
def test_what_is_no_folder_is_refused_with_what_to_do(tmp_path, monkeypatch, name, what, fix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.zip").with_name(name.split("/")[-1]).touch()
    others = {"a.csv": (), "a.jpg": (open_labelled,)}.get(name, (open_images, open_labelled))
    for read in (scan, *others):
        with pytest.raises(DataError, match=what) as caught:
            read(name)
        assert fix in caught.value.fix


def test_folders_of_any_depth_and_names_of_any_letters_are_read(tmp_path):
    make(tmp_path, "/".join(["d"] * 300) + "/1.png", "a\nb/-c.png", "😀/x y\t.png")
    (tmp_path / "a.\udce9\n").touch()
    source = scan(tmp_path)
    assert len(source) == 3 and source.notes == (r"1 file passed over: 1 .\udce9\n",)
