"""What detection is given, and what is said of it."""

import json

import pytest
from coco_folder import write_coco, write_part

from ibot.errors import DataError, MissingExtra
from ibot.eval.context import Context
from ibot.eval.dense.detection.context import DetectionContext
from ibot.eval.request import Request


def opened(folder, **more):
    request = Request(weights="none", **{"data": str(folder), **more})
    return DetectionContext.open_data(request)


def context_of(data):
    means = dict.fromkeys(
        ("loaded", "weights", "weights_hash", "view", "device", "cache", "out"), None
    )
    return DetectionContext(**means, **data.fields)


def test_a_context_says_what_it_holds(tmp_path):
    data = opened(write_coco(tmp_path))
    context = context_of(data)
    assert isinstance(context, Context) and context.num_classes == 4
    assert context.num_images() == (7, 4) and context.has_masks == (True, True)
    about = context.about_data()
    assert about["train_objects"] == context.train.trained.sum() and about["classes"] == 4
    assert about["summary"].startswith("4 classes with masks: ")
    assert about["train"] != about["val"] and json.dumps(about)
    assert context.about_view() == {"exif_orientation": "apply"}


def test_images_are_thinned_out_evenly(tmp_path):
    data = opened(write_coco(tmp_path), max_train=3, max_val=2)
    assert [data.fields["train"].name(i) for i in range(3)] == ["0.png", "4.png", "7.png"]
    assert len(data.fields["val"]) == 2


def test_images_and_labels_are_enough_with_a_share_or_a_second_set(tmp_path):
    folder = write_coco(tmp_path)
    named = {
        "data": "",
        "images": str(folder / "train"),
        "labels": str(folder / "annotations" / "instances_train.json"),
    }
    shared = opened(folder, split=0.25, **named).fields
    assert len(shared["val"]) == 2 and shared["data"] == named["images"]
    other = opened(
        folder, val_data=str(folder / "annotations" / "instances_val.json"), **named
    ).fields
    assert len(other["val"]) == 4


def test_what_a_user_should_know_is_told(tmp_path, caplog):
    folder = tmp_path / "a"
    write_part(folder, 8)
    content = write_part(folder, 4, seed=1, name="val")
    content["annotations"][0]["category_id"] = 90
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    told = " ".join(opened(folder).told)
    assert "there is no object to learn from of 1 class: class 90" in told
    file = str(folder / "annotations" / "instances_train.json")
    opened("", data=file, val_data=file)
    assert "7 of 8 validation images are training images" in caplog.text
    small = json.loads((folder / "annotations" / "instances_train.json").read_text())
    for one in small["annotations"]:
        one["bbox"][2:] = [1, 1]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(small))
    assert "half of the objects are smaller than" in " ".join(opened(folder).told)


def test_packages_are_asked_for_before_anything_is_read(monkeypatch):
    import sys

    needed = {"cv2": "opencv-python-headless", "faster_coco_eval": "faster-coco-eval"}
    for name, package in needed.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(MissingExtra, match="is not installed") as caught:
                opened("nowhere")
            assert caught.value.fix.startswith(f'pip install "{package}>=')
    with pytest.raises(DataError, match="there is no folder 'nowhere'"):
        opened("nowhere")
