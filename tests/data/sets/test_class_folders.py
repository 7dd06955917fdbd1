import pytest

from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.open import find_labelled, open_labelled


def test_an_empty_class_folder_of_training_images_is_refused(tmp_path, make, refused):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")
    (tmp_path / "train" / "emu").mkdir()
    error = refused(open_labelled, str(tmp_path), match="class folder .*emu' is empty")
    assert str(tmp_path / "train" / "emu") in error.what


@pytest.mark.parametrize("filled", [("cat", "dog"), ("dog",)])
def test_an_empty_class_folder_of_validation_images_is_an_absent_class(
    tmp_path, filled, make, write
):
    names = ("cat", "dog", "emu")
    make(
        tmp_path,
        *(f"train/{name}/1.jpg" for name in names),
        *(f"val/{name}/1.jpg" for name in filled),
    )
    for name in set(names) - set(filled):
        write(tmp_path / "val" / name / "notes.txt", "no image")
    for given in ((str(tmp_path),), (str(tmp_path / "train"), str(tmp_path / "val"))):
        train, val = open_labelled(*given)
        assert val.classes == train.classes and val.labels.tolist() == [
            names.index(name) for name in filled
        ]
        empty = ", ".join(f"'{name}'" for name in names if name not in filled)
        assert val.notes[-1] == f"class folders without images in '{tmp_path / 'val'}': {empty}"
    assert find_labelled(str(tmp_path))[1].labels.tolist() == val.labels.tolist()


def test_an_empty_folder_beside_a_single_class_is_named_too(tmp_path, make, refused):
    make(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").mkdir()
    refused(open_folder, tmp_path, match="dog' is empty")


def test_hidden_folders_and_runs_are_no_empty_classes(tmp_path, make):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", "run/pictures/1.jpg", "__MACOSX/1.jpg", ".cache/1.jpg")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert open_folder(tmp_path).classes == ("cat", "dog")


def test_images_outside_of_class_folders_are_refused(tmp_path, make, refused):
    make(tmp_path, "1.jpg", "2.jpg")
    error = refused(open_labelled, str(tmp_path), match="no class folders")
    assert "2 images lie directly in it, such as '1.jpg'" in error.why


def test_a_single_class_is_refused(tmp_path, make, refused):
    make(tmp_path, "cat/1.jpg", "cat/2.jpg")
    assert (
        "all images lie in 'cat'"
        in refused(open_labelled, str(tmp_path), match="fewer than two classes").why
    )


def test_a_training_part_alone_is_named_with_what_it_lacks(tmp_path, make, refused):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg")
    error = refused(open_labelled, str(tmp_path), match="fewer than two classes")
    assert f"'{tmp_path}/val'" in error.fix and f"--data {tmp_path}/train --split 0.2" in error.fix


def test_a_class_folder_of_other_files_is_not_called_empty(tmp_path, make, refused):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", "emu/1.xcf", "emu/2.xcf", "emu/notes.txt")
    error = refused(open_folder, tmp_path, match="no images in the class '.*emu'")
    assert (
        error.why
        == "looked into 1 folders and saw 2 .xcf, 1 .txt; without an image of their own are 'emu'"
    )
