import json
import pickle
import tarfile

import numpy as np
import pytest
from coco_folder import (
    COLORS,
    CROWD,
    EMPTY,
    PIXEL,
    rectangle,
    runs,
    write_annotations,
    write_coco,
    write_part,
)
from PIL import Image

from ibot.data.annotated.coco_folders import open_coco
from ibot.data.sets.images import Images
from ibot.errors import DataError

# pycocotools 2.0.11 under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


def test_boxes_classes_and_masks_lie_on_the_drawn_objects(folder):
    train, val = open_coco(str(folder))
    assert (len(train), len(val)) == (8, 4) and isinstance(train, Images)
    assert train.category_ids == (3, 7, 20, 90) and train.categories[3] == "class 90"
    seen = 0
    for i in range(len(train)):
        image, objects = train.read(i), train.objects(i, masks=True)
        assert image.shape[:2] == train.size(i) and objects.boxes.dtype == np.float32
        shown = np.zeros(image.shape[:2], bool)
        for box, label, mask in zip(*objects, strict=True):
            left, top, right, bottom = box.astype(int)
            drawn = np.zeros_like(mask)
            drawn[top:bottom, left:right] = 1
            assert np.array_equal(mask, drawn)
            shown |= mask > 0
            # The last one drawn lies above the others.
            if (objects.masks.sum(0) * mask).max() == 1:
                assert (image[mask > 0] == COLORS[train.category_ids[label]]).all()
                seen += 1
        assert np.array_equal((image == 255).any(2), shown)
    assert seen > 2


def test_crowds_empty_images_and_boxes_of_a_pixel_are_read(folder):
    train, _ = open_coco(str(folder))
    assert len(train.objects(EMPTY, masks=False).boxes) == 0
    assert train.objects(EMPTY, masks=True).masks.shape == (0, 48, 48)
    assert train.objects(CROWD, masks=False).masks is None
    assert train.annotations.crowd.sum() == 1 and len(train.objects(CROWD, masks=False).boxes) == 1
    assert train.objects(PIXEL, masks=True).masks.sum((1, 2))[-1] == 1
    kept = train.to_train()
    assert [kept.name(i) for i in range(len(kept))] == [f"{i}.png" for i in range(8) if i != EMPTY]


def test_a_subset_keeps_what_belongs_to_its_images_in_any_order(folder):
    train, _ = open_coco(str(folder))
    chosen = [6, 1, CROWD]
    part = train.subset(chosen)
    for new, old in enumerate(chosen):
        assert part.name(new) == train.name(old) and part.size(new) == train.size(old)
        for a, b in zip(part.objects(new, masks=True), train.objects(old, masks=True), strict=True):
            assert np.array_equal(a, b)
    assert part.fingerprint() != train.fingerprint()
    again = pickle.loads(pickle.dumps(part))
    assert again.fingerprint() == part.fingerprint()
    assert np.array_equal(again.read(1), part.read(1))


def test_the_truth_is_the_file_again_numbered_from_one(folder):
    train, _ = open_coco(str(folder))
    content = json.loads((folder / "annotations" / "instances_train.json").read_text())
    truth = json.loads(json.dumps(train.truth()))
    assert truth["images"] == [
        {k: v for k, v in one.items() if k in ("id", "file_name", "height", "width")}
        for one in content["images"]
    ]
    assert truth["annotations"] == [
        {**one, "id": i + 1} for i, one in enumerate(content["annotations"])
    ]


def test_a_share_is_set_aside_by_the_seed(folder):
    file = str(folder / "annotations" / "instances_train.json")
    first, second = (open_coco(file, split=0.25, seed=seed) for seed in (0, 1))
    names = [[part.name(i) for i in range(len(part))] for part in first]
    assert list(map(len, names)) == [6, 2] and not set(names[0]) & set(names[1])
    assert first[1].fingerprint() != second[1].fingerprint()
    assert first[1].fingerprint() == open_coco(file, split=0.25)[1].fingerprint()


def test_the_layouts_in_use_are_the_same_data(folder, tmp_path):
    wanted = [part.fingerprint() for part in open_coco(str(folder))]
    ways = {
        "images and labels": {
            "images": str(folder / "train"),
            "labels": str(folder / "annotations" / "instances_train.json"),
            "val_data": str(folder / "annotations" / "instances_val.json"),
        },
        "two files": {
            "data": str(folder / "annotations" / "instances_train.json"),
            "val_data": str(folder / "annotations" / "instances_val.json"),
        },
        "two folders": {
            "data": str(folder / "annotations" / "instances_train.json"),
            "val_data": str(folder),
        },
    }
    for name, way in ways.items():
        assert [part.fingerprint() for part in open_coco(**way)] == wanted, name
    coco, roboflow = tmp_path / "coco", tmp_path / "roboflow"
    (coco / "annotations").mkdir(parents=True)
    for part, other in (("train", "train"), ("val", "valid")):
        (coco / f"{part}2017").symlink_to(folder / part)
        text = (folder / "annotations" / f"instances_{part}.json").read_text()
        (coco / "annotations" / f"instances_{part}2017.json").write_text(text)
        (coco / "annotations" / f"captions_{part}2017.json").write_text("{}")
        (roboflow / other).mkdir(parents=True)
        for file in (folder / part).iterdir():
            (roboflow / other / file.name).symlink_to(file)
        (roboflow / other / "_annotations.coco.json").write_text(text)
    for place in (coco, roboflow):
        train, val = open_coco(str(place))
        assert (len(train), len(val)) == (8, 4)
        assert train.objects(0, masks=False).boxes.tolist() == (
            open_coco(str(folder))[0].objects(0, masks=False).boxes.tolist()
        )


def test_names_with_a_path_of_another_machine_are_found(tmp_path):
    content = write_part(tmp_path, 3)
    for i, one in enumerate(content["images"]):
        one["file_name"] = f"C:\\data\\images\\{one['file_name']}" if i else "/home/me/0.png"
    write_annotations(tmp_path, content)
    images, _ = open_coco(str(tmp_path / "annotations" / "instances_train.json"), split=0.4)
    assert images.root == tmp_path / "train" and images.read(0).shape == (60, 80, 3)


def test_a_set_without_masks_has_boxes(tmp_path):
    train, val = open_coco(str(write_coco(tmp_path, masks=False)))
    assert not train.has_masks and not val.has_masks and train.notes == ()
    assert len(train.objects(0, masks=False).boxes) == 1
    assert all("segmentation" not in one for one in train.truth()["annotations"])


def test_a_few_boxes_without_a_mask_are_masks_themselves(tmp_path):
    content = write_part(tmp_path, 8)
    content["annotations"][0]["segmentation"] = []
    write_annotations(tmp_path, content)
    file = str(tmp_path / "annotations" / "instances_train.json")
    images = open_coco(file, val_data=file)[0]
    assert images.has_masks and "their boxes serve as masks" in images.notes[0]
    boxes, _, masks = images.objects(0, masks=True)
    left, top, right, bottom = boxes[0].astype(int)
    assert (
        masks[0].sum() == (right - left) * (bottom - top) == masks[0, top:bottom, left:right].sum()
    )
    for one in content["annotations"][:6]:
        del one["segmentation"]
    content["annotations"][6]["area"] = None
    write_annotations(tmp_path, content)
    images = open_coco(file, val_data=file)[0]
    assert not images.has_masks and "no masks are trained" in images.notes[0]
    assert (
        images.annotations.areas[6]
        == content["annotations"][6]["bbox"][2] ** 1 * (content["annotations"][6]["bbox"][3])
    )


def test_validation_classes_are_numbered_as_those_to_train_on(tmp_path):
    folder = write_coco(tmp_path)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"] = [one for one in content["categories"] if one["id"] != 90]
    file.write_text(json.dumps(content))
    train, val = open_coco(str(folder))
    assert val.categories == train.categories and val.category_ids == train.category_ids
    assert val.truth()["annotations"][0]["category_id"] == content["annotations"][0]["category_id"]
    content["categories"][0]["name"] = "another"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="other classes") as caught:
        open_coco(str(folder))
    assert "'another' here" in caught.value.why


@pytest.mark.parametrize("annotated", ["upright", "as stored"])
@pytest.mark.parametrize("option", ["apply", "ignore"])
def test_a_turned_photo_is_read_as_it_was_annotated(tmp_path, annotated, option):
    """The stored picture is 40 x 60, its tag says that it was taken upright: 60 x 40."""
    (tmp_path / "train").mkdir()
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[0:10, 0:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(stored).save(tmp_path / "train" / "a.png", exif=exif)
    upright = np.rot90(stored, -1)
    size, box = (
        ((60, 40), (30, 0, 10, 20)) if annotated == "upright" else ((40, 60), (0, 0, 20, 10))
    )
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "annotations": [rectangle(1, 1, 1, box)],
        "categories": [{"id": 1, "name": "white"}],
    }
    write_annotations(tmp_path, content)
    file = str(tmp_path / "annotations" / "instances_train.json")
    images, _ = open_coco(file, val_data=file, exif_orientation=option)
    pixels, (_, _, masks) = images.read(0), images.objects(0, masks=True)
    assert np.array_equal(pixels, upright if annotated == "upright" else stored)
    assert np.array_equal(pixels[..., 0] == 255, masks[0] == 1)
    told = [note for note in images.notes if "as they were annotated" in note]
    assert len(told) == ((annotated == "upright") != (option == "apply"))


def test_the_subset_of_coco_is_read_as_by_cocos_own_code(shared_data, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    with tarfile.open(shared_data / "coco_subset" / "coco_subset.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    root = next(path.parent for path in tmp_path.rglob("annotations"))
    train, val = open_coco(str(root))
    assert [len(train), len(val), len(train.categories)] == [22, 10, 80]
    assert (len(train.annotations), train.annotations.crowd.sum()) == (227, 5)
    assert (len(val.annotations), val.annotations.crowd.sum()) == (118, 2)
    assert len(train.to_train()) == 21 and train.notes == val.notes == ()
    learned, judged = (set(part.annotations.labels.tolist()) for part in (train, val))
    assert (len(learned), len(judged)) == (44, 29)
    theirs = coco.COCO(str(root / "annotations" / "instances_train.json"))
    for i in range(0, len(train), 4):
        rows = [one for one in theirs.imgToAnns[int(train.ids[i])] if not one["iscrowd"]]
        boxes, labels, masks = train.objects(i, masks=True)
        assert [train.category_ids[label] for label in labels] == [r["category_id"] for r in rows]
        for box, mask, row in zip(boxes, masks, rows, strict=True):
            x, y, w, h = row["bbox"]
            assert box == pytest.approx([x, y, x + w, y + h], abs=1e-3)
            assert np.array_equal(mask, theirs.annToMask(row))
        assert train.read(i).shape[:2] == train.size(i)


def test_run_lengths_of_a_rectangle_are_its_mask(tmp_path):
    content = write_part(tmp_path, 1)
    box, size = (3, 5, 20, 30), (60, 80)
    content["annotations"] = [rectangle(1, 100, 3, box, segmentation=runs(box, size), area="?")]
    write_annotations(tmp_path, content)
    file = str(tmp_path / "annotations" / "instances_train.json")
    images, _ = open_coco(file, val_data=file)
    mask = images.objects(0, masks=True).masks[0]
    assert mask.sum() == 600 == mask[5:35, 3:23].sum() == images.annotations.areas[0]
