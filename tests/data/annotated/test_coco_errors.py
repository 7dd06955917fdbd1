"""What is wrong with annotations: refused in one line, or left out and told."""

import json

import numpy as np
import pytest
from coco_folder import rectangle, runs, write_annotations, write_coco, write_part
from PIL import Image

from ibot.data.annotated.coco_folders import open_coco
from ibot.errors import DataError


@pytest.fixture
def part(tmp_path):
    return write_part(tmp_path, 8)


def opened(folder, content):
    """The images of a part with other annotations."""
    write_annotations(folder, content)
    file = str(folder / "annotations" / "instances_train.json")
    return open_coco(file, val_data=file)[0]


def refused(folder, content):
    """What is said of them: what, why, fix in one text."""
    with pytest.raises(DataError) as caught:
        opened(folder, content)
    error = caught.value
    assert "\n" not in error.what + error.why + error.fix and error.fix
    return f"{error.what}; {error.why}; {error.fix}"


BAD = {
    "fewer than three points": {"segmentation": [[1, 2, 3, 4]]},
    "mask has another size than the image (30 x 30, not 60 x 80)": {
        "segmentation": runs((0, 0, 5, 5), (30, 30))
    },
    "mask has another size than the image (3, not 60 x 80)": {
        "segmentation": {"size": 3, "counts": [1]}
    },
    "do not fill the image": {"segmentation": {"size": [60, 80], "counts": [5, 7]}},
    "lengths cannot be read": {"segmentation": {"size": [60, 80], "counts": [[1], 2]}},
    "cannot be read": {"segmentation": {"size": [60, 80], "counts": "\x02"}},
    "of unknown images": {"image_id": 9},
    "of unknown categories": {"category_id": 4},
    "without four numbers": {"bbox": [1, 2, 3]},
    "without four numbers as": {"bbox": [1, 2, float("nan"), 4]},
    "without four numbers as their": {"bbox": "all"},
    "outside of their image": {"bbox": [300, 5, 20, 20]},
    "below a pixel": {"bbox": [0.1, 0.2, 0.3, 0.4]},
}
"""What a note or a refusal says, and what makes an annotation so."""


@pytest.mark.parametrize("words", BAD)
def test_one_bad_annotation_is_told_and_not_trained_on(tmp_path, part, words):
    clean = opened(tmp_path, part).trained.sum()
    part["annotations"].append({**rectangle(99, 100, 3, (1, 1, 20, 20)), **BAD[words]})
    images = opened(tmp_path, part)
    kind, _, detail = words.partition(" (")
    (note,) = images.notes
    assert kind in note and detail in note and images.trained.sum() == clean
    assert np.isfinite(images.annotations.boxes).all()


@pytest.mark.parametrize("words", BAD)
def test_a_file_of_bad_annotations_is_refused(tmp_path, part, words):
    for one in part["annotations"]:
        one.update(BAD[words])
    said = refused(tmp_path, part)
    assert f"{len(part['annotations'])} of {len(part['annotations'])}" in said
    assert words.partition(" (")[0] in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"].clear(), "holds no annotations"),
        (lambda c: c.pop("annotations"), "has no list 'annotations'"),
        (lambda c: c.update(images={}), "has no list 'images'"),
        (lambda c: c["images"].clear(), "names no images"),
        (lambda c: c["categories"].clear(), "names no categories"),
        (lambda c: c["annotations"][2].pop("bbox"), "entry 2 of 'annotations' has no 'bbox'"),
        (lambda c: c["images"][1].update(id=100), "the id 100 2 times among the images"),
        (lambda c: c["annotations"][2].update(image_id=[1]), "has the image_id [1]"),
        (lambda c: c["images"][1].update(id="a"), "'a' among the images"),
        (lambda c: c["images"][1].update(height=0), "'1.png' no size"),
        (lambda c: c["categories"][1].update(id=20), "the id 20 2 times among the categories"),
        (lambda c: c["images"][5].update(file_name="gone.png"), "'gone.png', which is missing"),
        (
            lambda c: [one.update(file_name=f"{i}.jpg") for i, one in enumerate(c["images"])],
            "'0.jpg', which is missing",
        ),
        (
            lambda c: (
                [one.update(height=600, width=800) for one in c["images"]]
                and [one.pop("segmentation") for one in c["annotations"]]
            ),
            "other sizes than",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, part, change, words):
    change(part)
    assert words in refused(tmp_path, part)


def test_a_file_of_one_bad_annotation_says_why(tmp_path, part):
    del part["annotations"][1:]
    part["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    said = refused(tmp_path, part)
    assert "no annotations that can be used" in said and "fewer than three points" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("\x80", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("[]", "it is a list, as of detections"),
        ("3", "has no list 'images'"),
        ('{"images": [1]}', "has no list 'images'"),
    ],
)
def test_what_is_not_in_cocos_format_is_refused(tmp_path, part, text, words):
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        open_coco(str(file), split=0.5)
    assert words in f"{caught.value.what} {caught.value.why}"


def test_repeated_ids_of_annotations_are_told(tmp_path, part):
    for one in part["annotations"][:3]:
        one["id"] = 1
    images = opened(tmp_path, part)
    assert "2 annotations of 'instances_train.json' repeat an id" in images.notes[0]
    assert len(images.annotations) == len(part["annotations"])


def test_boxes_given_by_their_corners_are_suspected(tmp_path, part):
    for one in part["annotations"]:
        x, y, w, h = one["bbox"]
        one["bbox"] = [x, y, x + w + 40, y + h + 40]
    assert "reach beyond their image" in opened(tmp_path, part).notes[0]


def test_a_short_polygon_beside_others_goes_alone(tmp_path, part):
    part["annotations"][0]["segmentation"].insert(0, [1, 2, 3, 4])
    images = opened(tmp_path, part)
    assert images.notes == () and len(images.annotations.segmentation(0)) == 1


def test_an_image_of_another_size_is_told_and_not_read(tmp_path, part):
    Image.new("RGB", (7, 9)).save(tmp_path / "train" / "3.png")
    images = opened(tmp_path, part)
    assert "'3.png' is 7 x 9, annotated as 80 x 60" in images.notes[0]
    with pytest.raises(Exception, match="the image is 7 x 9, its annotations are for 80 x 60"):
        images.read(3)


def test_images_that_are_all_too_small_cannot_be_trained_on(tmp_path, part):
    images = opened(tmp_path, part)
    images.sizes[:] = 31
    with pytest.raises(DataError, match="can be trained on"):
        images.to_train()


def test_places_without_annotations_say_what_was_looked_for(tmp_path):
    folder = write_coco(tmp_path / "a")
    (folder / "annotations" / "instances_val.json").unlink()
    for data, more, words in (
        ("", {}, "no data given"),
        (str(tmp_path / "b"), {}, "there is no folder"),
        (str(folder / "train"), {}, "has no annotations to train on"),
        (str(folder), {}, "has no validation part"),
        (str(folder), {"val_data": str(folder / "val")}, "has no annotations"),
        (str(folder), {"split": 0.01, "labels": "gone.json"}, "'gone.json' cannot be read"),
    ):
        with pytest.raises(DataError) as caught:
            open_coco(data, **more)
        assert words in caught.value.what and caught.value.fix
    with pytest.raises(DataError, match="has no validation part") as caught:
        open_coco(str(folder / "train"), labels="mine.json")
    assert caught.value.why == "'mine.json' is all that is named"
    train, val = open_coco(str(folder), split=0.25)
    assert (len(train), len(val)) == (6, 2)
    with pytest.raises(DataError, match="too small"):
        open_coco(str(folder), split=0.99)
    write_part(folder / "c", 2, name="val")
    (folder / "annotations" / "instances_val.json").write_text(
        (folder / "c" / "annotations" / "instances_val.json").read_text()
    )
    with pytest.raises(DataError, match="there are validation images already"):
        open_coco(str(folder), split=0.25)
    twice = json.dumps({})
    (folder / "annotations" / "instances_train2017.json").write_text(twice)
    with pytest.raises(DataError, match="several files of annotations to train on"):
        open_coco(str(folder), split=0.25)
