import unicodedata

import numpy as np
import pyarrow.parquet as pq
from image_forms import table

from ibot.data.sets.classes import absent_note, match_classes
from ibot.data.sets.open import find_labelled, open_images, open_labelled
from ibot.data.sets.scan import scan

WHERE = ("a", "b")


def test_classes_are_numbered_as_in_training():
    assert match_classes(("a", "b", "c"), ("c", "a"), WHERE).tolist() == [2, 0]


def test_names_that_unicode_takes_for_the_same_match():
    composed, split = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != split
    assert match_classes((composed, "x"), ("x", split), WHERE).tolist() == [1, 0]
    assert match_classes((split,), (composed,), WHERE).tolist() == [0]
    assert match_classes((composed, split), (split, composed), WHERE).tolist() == [
        1,
        0,
    ]  # each its own


def test_names_that_only_look_alike_are_refused_with_their_difference_shown(refused):
    for one, other, shown in (
        ("cat", "Cat", "'cat' and 'Cat'"),
        ("cat", "cat ", "'cat' and 'cat '"),
        ("cat", "c\u200bat", "'cat' and 'c\\u200bat'"),
        ("a b", "a\u00a0b", "'a b' and 'a\\xa0b'"),
    ):
        error = refused(match_classes, (one, "x"), (other, "x"), WHERE, match="different classes")
        assert f"{shown} look alike" in error.why, error.why
    assert (
        "'a' and 'A' look alike"
        in refused(match_classes, ("a",), ("a", "A"), WHERE, match="different").why
    )
    assert (
        "look alike" not in refused(match_classes, ("dog",), ("cow",), WHERE, match="different").why
    )


def test_class_folders_that_look_the_same_are_told(tmp_path, make):
    make(tmp_path, "caf\xe9/1.jpg", "cafe\u0301/1.jpg", "b/1.jpg")
    assert scan(tmp_path).notes == (
        "classes whose names are the same to the eye count as two: 'cafe\\u0301' and 'caf\\xe9'",
    )


def test_classes_without_validation_images_are_named():
    assert absent_note(np.array([0, 2], np.int32), ("a", "b", "c")) == (
        "1 of 3 classes have no validation images and are not scored: 'b'"
    )
    assert absent_note(np.array([0, 1], np.int32), ("a", "b")) == ""


def test_a_validation_set_that_lacks_classes_keeps_the_numbers_of_training(
    tmp_path, make, write, tar
):
    names = [f"train/{name}/1.jpg" for name in "abc"]
    make(tmp_path / "folder", *names, "val/c/1.jpg", "val/b/1.jpg")
    make(tmp_path / "one", *names, "val/c/1.jpg")
    make(tmp_path, "1.jpg")
    rows = [*(f"1.jpg,{name},train" for name in "abc"), "1.jpg,c,val", "1.jpg,b,val"]
    write(tmp_path / "list.csv", "path,label,split", *rows)
    tar(tmp_path / "tars" / "train-0.tar", "a/1.jpg", "b/1.jpg", "c/1.jpg")
    tar(tmp_path / "tars" / "val-0.tar", "b/1.jpg", "c/1.jpg")
    for data, want in (("folder", [1, 2]), ("one", [2]), ("list.csv", [2, 1]), ("tars", [1, 2])):
        train, val = open_labelled(str(tmp_path / data))
        assert val.classes == train.classes == ("a", "b", "c") and val.labels.tolist() == want, data
    separate = open_labelled(str(tmp_path / "one" / "train"), str(tmp_path / "one" / "val"))[1]
    assert separate.labels.tolist() == [2]
    train, val = find_labelled(str(tmp_path / "one"))
    note = absent_note(val.labels, val.classes)
    assert val.labels.tolist() == [2] and note.startswith("2 of 3 classes have no validation")


def test_classes_that_look_the_same_are_told_in_every_form(tmp_path, make, tar, jpeg):
    """An e with its accent, and one that is followed by it."""
    both = "caf\u00e9", "cafe\u0301"
    make(tmp_path / "folder", *(f"{name}/1.jpg" for name in both))
    tar(tmp_path / "a.tar", *(f"{name}/1.jpg" for name in both))
    pq.write_table(table([jpeg()] * 2, both), tmp_path / "a.parquet")
    for form in ("folder", "a.tar", "a.parquet"):
        images = open_images(str(tmp_path / form))
        (note,) = images.notes
        assert len(images.classes) == 2 and "the same to the eye count as two" in note
