import pytest

from ibot.data.labelled_folders import open_folder
from ibot.data.open_labelled import open_labelled


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_class_folder_is_named(tmp_path, part, make, refused):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")
    (tmp_path / part / "emu").mkdir()
    error = refused(open_labelled, str(tmp_path), match="class folder .*emu' is empty")
    assert str(tmp_path / part / "emu") in error.what


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
    assert "all images lie in 'cat'" in refused(open_labelled, str(tmp_path), match="fewer than two classes").why


def test_a_class_folder_of_other_files_is_not_called_empty(tmp_path, make, refused):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", "emu/1.xcf", "emu/2.xcf", "emu/notes.txt")
    error = refused(open_folder, tmp_path, match="no images in the class '.*emu'")
    assert error.why == "looked into 1 folders and saw 2 .xcf, 1 .txt; without an image of their own are 'emu'"
