"""Ground truths of all forms, and what is wrong with them in one line."""

import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from ibot.data.annotated.boxed import BoxedImages
from ibot.data.annotated.ground_truth import open_retrieval
from ibot.data.decode import UnreadableImage
from ibot.errors import DataError

GND = {
    "imlist": ["a", "b", "c", "d", "e", "f"],
    "qimlist": ["q"],
    "gnd": [{"easy": [0, 1], "hard": [5], "junk": [3, 2], "bbx": [2.0, 3.0, 12.4, 9.0]}],
}


def picture(file, size=(20, 12), shade=90):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 50, 50)).save(file)


@pytest.fixture
def oxford(tmp_path):
    """In the layout of revisited Oxford."""
    for name in "abcdefq":
        picture(tmp_path / "jpg" / f"{name}.jpg", shade=ord(name))
    write(tmp_path, GND)
    return tmp_path


def write(folder, content, name="gnd_toy.json"):
    (folder / name).write_text(json.dumps(content))


def changed(**row):
    return {**GND, "gnd": [{**GND["gnd"][0], **row}]}


def test_levels_take_their_right_answers_and_junk(oxford):
    task = open_retrieval(str(oxford))
    assert [task.database.name(i) for i in range(6)] == [f"{name}.jpg" for name in "abcdef"]
    assert task.queries.name(0) == "q.jpg" and task.own is None
    found = {level: [p.tolist() for p in task.right.of(level, 0)] for level in task.right.levels}
    assert found == {
        "easy": [[0, 1], [3, 2, 5]],
        "medium": [[0, 1, 5], [3, 2]],
        "hard": [[5], [3, 2, 0, 1]],
    }


def test_a_pickle_says_the_same_as_json(oxford):
    plain = open_retrieval(str(oxford))
    (oxford / "gnd_toy.json").unlink()
    arrays = {key: np.array(value) for key, value in GND["gnd"][0].items()}
    for protocol in (2, 4):
        (oxford / "gnd_toy.pkl").write_bytes(pickle.dumps({**GND, "gnd": [arrays]}, protocol))
        task = open_retrieval(str(oxford))
        assert task.right.fingerprint() == plain.right.fingerprint()
        np.testing.assert_array_equal(task.boxes, plain.boxes)


def test_real_ground_truth_reads_alike_in_both_forms(shared_data, tmp_path):
    with tarfile.open(shared_data / "retrieval" / "crop_landmarks.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    root = next(tmp_path.rglob("gnd_crops.pkl")).parent
    tasks = [
        open_retrieval(str(root), labels=str(root / f"gnd_crops.{kind}"))
        for kind in ("pkl", "json")
    ]
    assert len({task.right.fingerprint() for task in tasks}) == 1
    for task in tasks:
        assert (len(task.database), len(task.queries)) == (136, 12)
        assert [len(part) for part in task.right.of("medium", 11)] == [6, 2]
        assert task.boxes.shape == (12, 4) and task.database.read(135).ndim == 3


def test_a_pickle_that_would_run_code_runs_nothing(oxford):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {oxford / 'ran'}",)

    (oxford / "gnd_toy.json").unlink()
    (oxford / "gnd_toy.pkl").write_bytes(pickle.dumps({**GND, "gnd": [Evil()]}))
    with pytest.raises(DataError, match=r"gnd_toy.pkl' cannot be read") as refused:
        open_retrieval(str(oxford))
    assert "system' is refused" in refused.value.why and "as .json" in refused.value.fix
    assert not (oxford / "ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(hard=[6]), "query 'q' names image 6 of 6"),
        (changed(junk=[-1]), "query 'q' names image -1 of 6"),
        (changed(easy=[0.5]), "query 'q': easy is no list of numbers"),
        (changed(easy="ab"), "query 'q': easy is no list of numbers"),
        (changed(bbx=["x"]), "query 'q': bbx is no list of numbers"),
        ({**GND, "gnd": []}, "'gnd' has not one entry for each of 1 queries"),
        ({**GND, "gnd": [{"ok": [1]}]}, "query 'q' has no answers"),
        ({**GND, "imlist": ["a", "x", "c", "d", "e", "f"]}, "names 'x', which is missing"),
        ({**GND, "qimlist": ["z"]}, "names 'z', which is missing"),
        ({**GND, "imlist": []}, "'imlist' is empty"),
        ({**GND, "imlist": [1]}, "'imlist' is no list of names"),
        ({"one": ["a"], "two": ["a", "b"]}, "names 'a' twice"),
        ({"one": "a"}, "'one' is no list of names"),
        ([], "is no ground truth"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(oxford, content, words):
    write(oxford, content)
    with pytest.raises(DataError) as refused:
        open_retrieval(str(oxford))
    assert words in refused.value.what and "\n" not in refused.value.what and refused.value.fix


def test_damaged_files_and_several_are_told(oxford):
    (oxford / "gnd_toy.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        open_retrieval(str(oxford))
    write(oxford, GND, "gnd_other.json")
    with pytest.raises(DataError, match="several ground truths") as refused:
        open_retrieval(str(oxford))
    assert "--labels" in refused.value.fix
    task = open_retrieval(str(oxford), labels=str(oxford / "gnd_other.json"))
    assert len(task.database) == 6
    with pytest.raises(DataError, match="cannot be read"):
        open_retrieval(str(oxford), labels=str(oxford / "absent.json"))


def test_groups_are_sought_among_all_others(tmp_path):
    for name in "abcde":
        picture(tmp_path / "images" / f"{name}.png")
    write(tmp_path, {"one": ["a.png", "c.png"], "two": ["b.png", "d.png", "e.png"]}, "groups.json")
    for options in (
        {"data": str(tmp_path)},
        {"data": "", "images": str(tmp_path / "images"), "labels": str(tmp_path / "groups.json")},
    ):
        task = open_retrieval(**options)
        names = [task.database.name(i)[0] for i in range(5)]
        assert names == ["a", "c", "b", "d", "e"] and task.own.tolist() == [0, 1, 2, 3, 4]
        right, junk = task.right.of("class", 3)
        assert right.tolist() == [2, 4] and junk.tolist() == [3]


def test_class_folders_are_judged_on_what_is_held_out(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for label in ("x", "y"):
            for i in range(count):
                picture(tmp_path / part / label / f"{i}.png")
    task = open_retrieval(str(tmp_path))
    assert len(task.database) == len(task.queries) == 4
    assert [p.tolist() for p in task.right.of("class", 2)] == [[3], [2]]
    apart = open_retrieval(str(tmp_path / "train"), str(tmp_path / "val"))
    assert (len(apart.database), len(apart.queries), apart.own) == (6, 4, None)
    assert [p.tolist() for p in apart.right.of("class", 2)] == [[3, 4, 5], []]
    (tmp_path / "train").rename(tmp_path / "gallery")
    (tmp_path / "val").rename(tmp_path / "query")
    named = open_retrieval(str(tmp_path))
    assert named.right.fingerprint() == apart.right.fingerprint()


def test_images_of_which_nothing_is_known_are_refused(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="belong together") as refused:
        open_retrieval(str(tmp_path))
    assert "--labels" in refused.value.fix
    with pytest.raises(DataError, match="no images found"):
        (tmp_path / "empty").mkdir()
        open_retrieval(str(tmp_path / "empty"))


def test_boxes_cut_what_lies_inside(oxford):
    task = open_retrieval(str(oxford))
    part = BoxedImages(task.queries, task.boxes)
    assert part.size(0) == (6, 10)
    np.testing.assert_array_equal(part.read(0), task.queries.read(0)[3:9, 2:12])
    beyond = BoxedImages(task.queries, np.array([[-5.0, 4, 90, 90]]))
    assert beyond.read(0).shape == (8, 20, 3) and beyond.fingerprint() != part.fingerprint()
    with pytest.raises(UnreadableImage, match="cuts nothing out of 20 x 12"):
        BoxedImages(task.queries, np.array([[30.0, 4, 90, 90]])).read(0)
