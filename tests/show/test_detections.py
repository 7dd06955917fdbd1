"""Boxes and masks on images."""

import numpy as np
import pytest
import torch
from coco_folder import CROWD, write_coco
from PIL import Image

from ibot.data.annotated.coco_folders import open_coco
from ibot.eval.dense.detection.evaluator import FoundObjects
from ibot.eval.dense.detection.target import Detections
from ibot.show.canvas import GAP, HEAD
from ibot.show.colours import distinct_color
from ibot.show.detections import (
    COVER,
    LONG,
    Drawn,
    draw,
    objects_on,
)
from ibot.types import ResultRecord


@pytest.mark.parametrize("size", [(40, 60), (700, 500), (1, 1), (3, 900), (1300, 1100)])
def test_masks_and_boxes_lie_on_their_object_at_any_size(size):
    height, width = size
    image = np.full((*size, 3), 100, np.uint8)
    top, left, bottom, right = height // 4, width // 4, height // 2 + 1, width // 2 + 1
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    color = (255, 0, 0)
    picture = objects_on(image, [Drawn((left, top, right, bottom), "thing 0.93", color, mask)])
    scale = LONG / max(size)
    assert max(picture.shape[:2]) == LONG and picture.dtype == np.uint8
    assert (picture == color).all(2).any(), "the box has its colour"
    y, x = (int(scale * (low + high) / 2) for low, high in ((top, bottom), (left, right)))
    covered = round(100 + COVER * 155)
    if min(size) > 30:
        assert abs(int(picture[y, x, 0]) - covered) <= 2 and picture[y, x, 1] < 60
        assert (picture[-3:, -3:] == 100).all()


def test_names_are_never_cut_by_the_border_of_the_image():
    image = np.zeros((100, 100, 3), np.uint8)
    color = (10, 200, 30)

    def tag(box):
        with_name = objects_on(image, [Drawn(box, "a long name 0.50", color, None)])
        without = objects_on(image, [Drawn(box, "", color, None)])
        rows, columns = np.nonzero((with_name != without).any(2))
        return rows.max() - rows.min(), columns.max() - columns.min()

    shapes = [
        tag(box) for box in ((30, 30, 60, 60), (90, 0, 100, 8), (0, 95, 5, 100), (97, 97, 99, 99))
    ]
    assert max(w for _, w in shapes) - min(w for _, w in shapes) <= 12
    assert min(h for h, _ in shapes) > 8


def test_neighbouring_classes_differ_in_colour():
    colors = np.array([distinct_color(i) for i in range(80)])
    apart = np.abs(colors[:, None] - colors[None]).sum(2) + 1000 * np.eye(80)
    assert len(np.unique(colors, axis=0)) == 80 and apart.min() > 8
    assert all(apart[i, i + 1] > 150 for i in range(79))


@pytest.mark.parametrize("masks", [True, False])
def test_an_evaluation_is_drawn_from_its_files(tmp_path, masks):
    train, _ = open_coco(str(write_coco(tmp_path / "data", masks=masks)))
    found = FoundObjects(train, masks)
    for i in range(len(train)):
        boxes, labels, _ = train.objects(i, masks=False)
        maps = torch.zeros(len(boxes), *train.size(i), dtype=torch.bool) if masks else None
        scores = torch.linspace(0.9, 0.1, len(boxes))
        found.add(i, Detections(torch.from_numpy(boxes), scores, torch.from_numpy(labels), maps))
    written = [str(file) for file in found.write(tmp_path / "out" / "detection-1")]
    extra = {"files": written}
    record = ResultRecord(protocol="detection", metric="box_ap", value=1, settings={}, extra=extra)
    (tmp_path / "data" / "train" / "5.png").unlink()
    files = draw([record], tmp_path / "out")
    assert [file.name for file in files] == [f"0{i}_{i}.jpg" for i in range(8) if i != 5]
    height, width = Image.open(files[0]).size[::-1]
    assert (height, width) == (720 + HEAD + GAP, 2 * 960 + 3 * 8)
    crowd = np.asarray(Image.open(files[CROWD]))
    assert crowd.std() > 10
