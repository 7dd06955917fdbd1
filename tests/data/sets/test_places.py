from pathlib import Path

import pytest

from ibot.data.sets.places import expand_braces, find_place
from ibot.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{008..011}.tar", ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{x,y}/{0..1}.tar", ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]),
        ("no.tar", ["no.tar"]),
        ("{odd}.tar", ["{odd}.tar"]),
        ("{2..1}", []),
    ],
)
def test_braces_are_numbers_or_words(pattern, names):
    assert expand_braces(pattern) == names


def test_braces_for_too_many_files_are_refused():
    for pattern in ("{0..9999999}", "{0..9999}-{0..9999}"):
        with pytest.raises(DataError, match="stands for"):
            expand_braces(pattern)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(data, part):
    place = find_place(str(data), part)
    return [str(file.relative_to(data)) for file in place.files], place.rows


def test_files_of_one_form_with_documents_beside_them_are_one_set(tmp_path):
    folder = touch(
        tmp_path, "b.parquet", "a.parquet", "README.md", "info.json", ".hidden", "LICENSE"
    )
    assert found(folder, "train") == (["a.parquet", "b.parquet"], "train")
    assert found(folder, "val") == (["a.parquet", "b.parquet"], "val"), "rows may say"
    touch(folder, "c.jpg")
    assert find_place(str(folder), "train").folder == folder


@pytest.mark.parametrize("form", ["tar", "npy"])
def test_files_without_rows_have_no_part_but_by_their_names(tmp_path, form):
    folder = touch(tmp_path, f"a.{form}", f"b.{form}")
    assert found(folder, "train") == ([f"a.{form}", f"b.{form}"], None)
    assert find_place(str(folder), "val").form is None
    touch(folder, f"train-0.{form}", f"dev-0.{form}")
    assert found(folder, "train") == ([f"train-0.{form}"], None)
    assert found(folder, "val") == ([f"dev-0.{form}"], None)


def test_what_spark_writes_is_a_folder_of_tables(tmp_path):
    folder = touch(tmp_path / "set.parquet", "part-1.parquet", "part-0.parquet", "_SUCCESS")
    assert found(folder, "train") == (["part-0.parquet", "part-1.parquet"], "train")


def test_the_only_folder_of_a_folder_is_looked_into(tmp_path):
    folder = touch(tmp_path, "README.md", "data/train-0.parquet", "data/test-0.parquet")
    assert found(folder, "val") == (["data/test-0.parquet"], None)


def test_parts_in_folders_hold_files_of_their_own(tmp_path):
    folder = touch(tmp_path, "train/a.tar", "val/b.tar", "val/notes.json")
    assert found(folder, "train") == (["train/a.tar"], None)
    assert found(folder, "val") == (["val/b.tar"], None)


def test_labels_are_no_stacks_where_there_are_others(tmp_path):
    folder = touch(tmp_path, "a.npy", "a_labels.npy", "labels.npy")
    assert found(folder, "train") == (["a.npy"], None)
    place = find_place(f"{tmp_path}/*.npy", "train")
    assert [file.name for file in place.files] == ["a.npy"]


def test_patterns_stand_for_files_of_one_form(tmp_path):
    touch(tmp_path, "1.tar", "1.parquet", "1.jpg")
    with pytest.raises(DataError, match="stands for files of several forms") as caught:
        find_place(f"{tmp_path}/1.*", "train")
    assert caught.value.why == "1 of tar, 1 of parquet"
    with pytest.raises(DataError, match=r"no .tar file matches") as caught:
        find_place(f"{tmp_path}/*.jpg", "train")
    assert caught.value.why == "1 other files do"


def test_a_file_whose_name_has_braces_is_itself(tmp_path):
    touch(tmp_path, "a{1,2}.tar")
    assert find_place(f"{tmp_path}/a{{1,2}}.tar", "train").files == (tmp_path / "a{1,2}.tar",)


def test_what_is_not_there_is_left_to_the_scan():
    assert find_place("no such folder", "train").folder == Path("no such folder")
