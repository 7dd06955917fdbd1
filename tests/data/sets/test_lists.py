import pickle

import pytest
from PIL import Image

from ibot.data.sets.lists import open_list, scan_list
from ibot.data.sets.open import open_labelled


def test_a_list_with_a_split_column_gives_both_sets(tmp_path, make, write, names):
    make(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg")
    rows = ["b,a/1.jpg,0,train", "c,a/2.jpg,0,train", "b,b/3.jpg,1,val", "c,b/4.jpg,1,val"]
    file = write(tmp_path / "list.csv", "Label, path,number,Split", *rows, "")
    train, val = open_labelled(str(file))
    assert train.kind == "list" and train.classes == ("b", "c") and train.root == tmp_path
    assert (names(train), names(val)) == (["a/1.jpg", "a/2.jpg"], ["b/3.jpg", "b/4.jpg"])
    assert val.labels.tolist() == [0, 1] and abs(int(val.read(1)[0, 0, 0]) - 30) <= 2
    assert len(open_list(file)) == 4


def test_val_is_preferred_to_test_which_serves_in_its_place(tmp_path, make, write, names):
    make(tmp_path, *(f"{i}.jpg" for i in range(6)))
    head = ["path,label,split", "0.jpg,x,train", "1.jpg,y,train", "2.jpg,x,test", "3.jpg,y,test"]
    assert names(open_labelled(str(write(tmp_path / "a.csv", *head)))[1]) == ["2.jpg", "3.jpg"]
    file = write(tmp_path / "b.csv", *head, "4.jpg,x,val", "5.jpg,y,val")
    assert names(open_labelled(str(file))[1]) == ["4.jpg", "5.jpg"]


@pytest.mark.parametrize("header", [[], ["path\tlabel"]])
def test_tab_separated_lists_need_no_header(tmp_path, header, make, write, names, named_classes):
    make(tmp_path, "x, 1.jpg", "2.jpg")
    train = write(tmp_path / "train.tsv", *header, "x, 1.jpg\tcat", "2.jpg\tdog")
    val = write(tmp_path / "val.txt", *header, "2.jpg\tdog", "2.jpg\tcat")
    train, val = open_labelled(str(train), str(val))
    assert names(train) == ["x, 1.jpg", "2.jpg"] and named_classes(val) == ["dog", "cat"]


def test_numbers_as_labels_are_ordered_by_value(tmp_path, make, write):
    make(tmp_path, "1.jpg")
    file = write(tmp_path / "list.csv", "path,label", *(f"1.jpg,{i}" for i in (10, 9, 2, 0)))
    images = open_list(file)
    assert images.classes == ("0", "2", "9", "10") and images.labels.tolist() == [3, 2, 1, 0]


def test_odd_texts_are_read(tmp_path, jpeg, make, names):
    make(tmp_path, "写真, ü.jpg")
    (tmp_path / "latin \udce9.jpg").write_bytes(jpeg())
    file = tmp_path / "list.csv"
    file.write_bytes(
        b'\xef\xbb\xbfpath,label\r\n"' + "写真, ü.jpg".encode() + b'",a\r\nlatin \xe9.jpg,b\r\n'
    )
    images = pickle.loads(pickle.dumps(open_list(file)))
    assert names(images) == ["写真, ü.jpg", "latin \udce9.jpg"] and images.read(1).shape == (
        4,
        6,
        3,
    )


@pytest.mark.parametrize(
    ("lines", "what", "why"),
    [
        (
            ["path,label", "1.jpg,a", "gone.jpg,b", "far.jpg,b"],
            r"names 'gone.jpg' \(line 3\)",
            "2 of 3 files",
        ),
        (["path,label", "1.jpg,a", "", "1.jpg,", "1.jpg"], "empty label in line 4", "2 of 3 rows"),
        (["path,label", ",a"], "empty path in line 2", "1 of 1"),
        (["1.jpg\tcat", "1.jpg"], "empty label in line 2", "1 of 2"),
        (
            ["path,label,split", "1.jpg,a,train", "1.jpg,b,extra"],
            "unknown split 'extra' in line 3",
            "train, val, test",
        ),
        (["path,label,split", "1.jpg,a,train", "1.jpg,b,"], "unknown split '' in line 3", "1 of 2"),
        (["file,class", "1.jpg,a"], "lacks the columns 'path' and 'label'", "'file,class'"),
        (["path\tclass", "1.jpg\ta"], "lacks the columns", "path,class"),
        (["path,label"], "names no images", ""),
        ([""], "is empty", ""),
        (
            ["path,label", "1.jpg,a", "1.jpg,a"],
            "fewer than two classes",
            "all 2 images are labelled 'a'",
        ),
        (["path,label,split", "1.jpg,a,val", "1.jpg,b,val"], "no training part", ""),
        (["path,label,split", "1.jpg,a,train", "1.jpg,b,train"], "no validation part", ""),
        (
            ["path,label,split", "1.jpg,a,train", "1.jpg,b,train", "1.jpg,c,val"],
            "different classes",
            "validation: 'c'",
        ),
    ],
)
def test_unusable_lists_are_refused_with_the_line(tmp_path, lines, what, why, make, write, refused):
    make(tmp_path, "1.jpg")
    assert why in refused(open_labelled, str(write(tmp_path / "list.csv", *lines)), match=what).why


def test_a_list_that_is_missing_is_refused(tmp_path, refused):
    error = refused(open_labelled, str(tmp_path / "none.csv"), match="list .* cannot be read")
    assert error.why == "No such file or directory"


def test_a_list_without_splits_can_be_split(tmp_path, make, write, names):
    make(tmp_path, *(f"{i}.jpg" for i in range(4)))
    file = write(tmp_path / "l.csv", "path,label", *(f"{i}.jpg,{i % 2}" for i in range(4)))
    train, val = open_labelled(str(file), split=0.5)
    assert sorted(names(train) + names(val)) == [f"{i}.jpg" for i in range(4)] and sorted(
        val.labels
    ) == [0, 1]


def test_lists_of_spreadsheets_and_of_windows_are_read(tmp_path, make, names):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    text = (
        "path{0}label{0}split\r\na\\1.jpg{0}x{0}Training\r\n"
        "b\\2.jpg{0}y{0}train\r\na/1.jpg{0}x{0}Validation\r\n"
    )
    for number, (separator, coding) in enumerate(
        ((",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-16"))
    ):
        (tmp_path / f"{number}.csv").write_text(text.format(separator), encoding=coding, newline="")
        train, val = open_labelled(str(tmp_path / f"{number}.csv"))
        assert (names(train), names(val)) == (
            ["a/1.jpg", "b/2.jpg"],
            ["a/1.jpg"],
        ) and val.classes == ("x", "y")


def test_files_of_several_pages_are_counted(tmp_path, make, write):
    make(tmp_path, "0.jpg", "1.jpg")
    page = Image.new("RGB", (4, 4))
    page.save(tmp_path / "2.tif", save_all=True, append_images=[page])
    train, val = open_labelled(
        str(
            write(
                tmp_path / "a.csv",
                "path,label,split",
                "0.jpg,x,train",
                "1.jpg,y,train",
                "2.tif,x,val",
            )
        )
    )
    assert train.notes == ()
    assert val.notes == (
        "only the first page and up to three bands are read: 1 with further pages or frames",
    )


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        (["a, 1.jpg", "b 2.jpg", "c.jpg"], None),
        (["a, 1.jpg,x", "b 2.jpg,y", "c.jpg,x"], ["x", "y", "x"]),
        (["a, 1.jpg;x", "b 2.jpg;y", "c.jpg;x"], ["x", "y", "x"]),
        (["a, 1.jpg 5", "b 2.jpg 12", "c.jpg 5"], ["5", "12", "5"]),
        (["a, 1.jpg\t5", "b 2.jpg\t12", "c.jpg\t5"], ["5", "12", "5"]),
    ],
)
def test_lists_without_a_header_hold_a_path_on_each_line(
    tmp_path, lines, labels, make, write, names, named_classes, refused
):
    make(tmp_path, "a, 1.jpg", "b 2.jpg", "c.jpg")
    file = write(tmp_path / "list.txt", *lines, "")
    images = scan_list(file)
    assert names(images) == ["a, 1.jpg", "b 2.jpg", "c.jpg"]
    if labels is None:
        assert not hasattr(images, "labels")
        refused(open_list, file, match="empty label in line 1")
    else:
        assert named_classes(open_list(file)) == named_classes(images) == labels


def test_files_without_extension_can_be_listed_without_a_header(tmp_path, make, write, names):
    make(tmp_path, "one", "two")
    assert names(scan_list(write(tmp_path / "list.txt", "one", "two"))) == ["one", "two"]


def test_a_missing_file_of_a_bare_list_is_named_with_its_line(tmp_path, make, write, refused):
    make(tmp_path, "1.jpg")
    file = write(tmp_path / "list.txt", "gone.jpg", "1.jpg")
    error = refused(scan_list, file, match=r"names 'gone.jpg' \(line 1\)")
    assert error.why.startswith("1 of 2")
