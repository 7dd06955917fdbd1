import pytest

from ibot.data.sets.open import find_labelled
from ibot.data.sets.parts import find_parts, part_of, quoted
from ibot.data.sets.scan import scan
from ibot.errors import DataError


def test_the_names_that_libraries_give_to_parts_are_known_in_any_letters():
    assert {part_of(name) for name in ("train", "Train", "TRAINING", "train_set", "train2017")} == {
        "train"
    }
    assert {
        part_of(name) for name in ("val", "valid", "Validation", "dev", "val-images", "VALID")
    } == {"val"}
    assert {part_of(name) for name in ("test", "Testing", "eval", "evaluation", "test_data")} == {
        "test"
    }
    assert {
        part_of(name) for name in ("trained", "bullet train", "value", "test tube", "2017", "")
    } == {None}


@pytest.mark.parametrize(
    "names", ["train valid", "Train Val", "training testing", "train2017 val2017", "train dev"]
)
def test_validation_images_are_neither_classes_nor_trained_on(tmp_path, make, names):
    train, val = names.split()
    make(tmp_path, *(f"{part}/{name}/1.jpg" for part in (train, val) for name in ("cat", "dog")))
    source = scan(tmp_path)
    assert source.root == tmp_path / train and source.classes == ("cat", "dog") and len(source) == 2
    assert source.notes == (f"only the training part '{train}' is read; beside it '{val}'",)
    assert [part.root.name for part in find_labelled(str(tmp_path))] == [train, val]


def test_pictures_beside_the_parts_are_counted_and_named(tmp_path, make):
    make(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg", *(f"new{i}.jpg" for i in range(5)), "x.txt")
    source = scan(tmp_path)
    assert len(source) == 1
    assert source.notes == (
        "only the training part 'train' is read; beside it 'val'",
        "passed over beside the parts: 5 pictures, 'new0.jpg', 'new1.jpg', 'new2.jpg' and 2 more",
    )


def test_the_validation_part_is_preferred_to_the_test_part(tmp_path, make):
    make(tmp_path, "train/1.jpg", "test/1.jpg", "valid/1.jpg")
    parts = find_parts(tmp_path)
    assert parts.validation() == tmp_path / "valid" and parts.beside == ("test", "valid")


def test_of_two_parts_of_one_kind_the_filled_one_counts_and_two_filled_ones_are_refused(
    tmp_path, make, refused
):
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "valid/.hidden")
    assert find_parts(tmp_path).validation() == tmp_path / "val"
    make(tmp_path, "valid/a/1.jpg")
    assert len(scan(tmp_path)) == 2  # what is held out is not read, whichever it is
    error = refused(find_parts(tmp_path).validation, match="more than one validation part")
    assert error.why == "'val', 'valid' all mean one" and "--val-data" in error.fix
    make(tmp_path, "Train/a/1.jpg")
    refused(scan, tmp_path, match="more than one training part")


@pytest.mark.parametrize("link", ["val", "dev"])
def test_a_part_under_two_names_is_one(tmp_path, make, link):
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "valid/a/1.jpg")
    (tmp_path / link).symlink_to("valid")
    (tmp_path / "training").symlink_to("train")
    assert (
        find_parts(tmp_path).validation() == tmp_path / "valid"
        and scan(tmp_path).root == tmp_path / "train"
    )


def test_a_part_held_out_from_the_folders_beside_it_is_refused(tmp_path, make, refused):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")
    error = refused(scan, tmp_path, match="held out from what lies beside it")
    assert "'cat', 'dog'" in error.why and "train" in error.fix


def test_parts_without_a_training_part_are_refused_and_a_single_one_is_told(
    tmp_path, make, refused
):
    make(tmp_path, "val/a/1.jpg")
    assert "'val' is read like any other folder" in scan(tmp_path).notes[0]
    make(tmp_path, "test/a/1.jpg")
    refused(scan, tmp_path, match="no training part")


def test_a_class_that_has_the_name_of_a_part_stays_a_class_and_is_told(tmp_path, make):
    make(tmp_path, "bus/1.jpg", "plane/1.jpg", "train/1.jpg")
    assert scan(tmp_path).classes == ("bus", "plane", "train") and scan(tmp_path).notes == ()
    (tmp_path / "train").rename(tmp_path / "test")
    source = scan(tmp_path)
    assert (
        source.classes == ("bus", "plane", "test")
        and "'test' is read like any other" in source.notes[0]
    )


def test_flat_folders_that_may_be_parts_or_classes_are_refused(tmp_path, make, refused):
    make(tmp_path, "bus/1.jpg", "plane/1.jpg", "train/1.jpg", "test/1.jpg")
    assert "'bus', 'plane'" in refused(scan, tmp_path, match="may be parts of a set or classes").why
    make(tmp_path, "train/a/1.jpg")
    assert scan(tmp_path).root == tmp_path / "train"


def test_parts_further_down_are_read_and_told(tmp_path, make):
    make(tmp_path, "images/train/1.jpg", "images/val/1.jpg", "labels/train/1.txt")
    source = scan(tmp_path)
    assert len(source) == 2 and any(
        "all parts in 'images' are read" in note for note in source.notes
    )


def test_names_are_quoted_on_one_line_and_only_a_few_of_them():
    assert quoted([]) == "none" and quoted("fedcba") == "'a', 'b', 'c', 'd', 'e' and 1 more"
    assert quoted(["a\nb", "写", "x\udce9", "z\u200b"]) == "'a\\nb', 'x\\udce9', 'z\\u200b', '写'"


def test_a_folder_that_cannot_be_listed_has_no_parts(tmp_path):
    assert find_parts(tmp_path / "none") is None
    with pytest.raises(DataError, match="there is no folder"):
        scan(tmp_path / "none")
