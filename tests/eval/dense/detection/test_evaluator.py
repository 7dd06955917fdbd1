"""Average precision against COCO's own code."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_folder import write_coco
from PIL import Image
from several import run_forked

from ibot.data.annotated.bitmaps import bitmap
from ibot.data.annotated.coco_folders import open_coco
from ibot.errors import DataError
from ibot.eval.dense.detection.evaluator import FIGURES, FoundObjects, average_precision
from ibot.eval.dense.detection.target import Detections
from ibot.system.distributed import joined
from ibot.system.processes import Processes

sys.path.insert(0, str(Path(__file__).parents[4]))
from benchmarks.average_precision import random_set

# pycocotools 2.0.11 under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ALONE = Processes()
IMAGES, SIZE = 6, (200, 260)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A set of random objects and crowds, the file of its truth, and detections of each image."""
    folder = tmp_path_factory.mktemp("random")
    truth, detections = random_set(IMAGES, seed=6, size=SIZE, categories=10)
    for image in truth["images"]:
        Image.new("RGB", SIZE[::-1]).save(folder / image["file_name"])
    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    images = open_coco(images=str(folder), labels=str(file), val_data=str(file))[1]
    found = {}
    for i, image in enumerate(truth["images"]):
        here = [one for one in detections if one["image_id"] == image["id"]]
        here.sort(key=lambda one: -one["score"])
        boxes = torch.tensor([one["bbox"] for one in here])
        boxes[:, 2:] += boxes[:, :2]
        labels = [images.category_ids.index(one["category_id"]) for one in here]
        masks = np.stack([bitmap([one["segmentation"]], SIZE) for one in here])
        scores = torch.tensor([one["score"] for one in here])
        found[i] = Detections(boxes, scores, torch.tensor(labels), torch.from_numpy(masks) > 0)
    return images, file, found


def collected(images, found, masks=True):
    made = FoundObjects(images, masks)
    for i, one in found.items():
        made.add(i, one)
    return made


def reference(file, results, kind, ids=None):
    """The figures by COCO's own code, from files, and the AP of each category."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(file))
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(results)), kind)
        if ids is not None:
            evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    each = [p[p > -1].mean() if (p > -1).any() else -1 for p in precision.transpose(2, 0, 1)]
    return evaluation.stats, each


def fractions(values):
    """Per cent as COCO's fractions, where None is -1."""
    return [-1 if value is None else value / 100 for value in values]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_all_twelve_figures_equal_those_of_cocos_own_code(drawn, tmp_path, kind):
    images, file, found = drawn
    assert images.annotations.crowd.sum() == 5
    made = collected(images, found)
    boxes, masks = made.write(tmp_path)
    precision = made.precision(ALONE)[kind]
    stats, each = reference(file, boxes if kind == "bbox" else masks, kind)
    assert list(precision.figures) == list(FIGURES)
    assert fractions(precision.figures.values()) == pytest.approx(stats, abs=1e-6)
    assert fractions(precision.by_class.values()) == pytest.approx(each, abs=1e-6)
    assert 5 < precision.figures["AP"] < 95 and None in precision.by_class.values()


def test_the_area_of_a_mask_is_its_own(drawn, tmp_path):
    """Else objects count as large by their boxes: the published trap of results with both."""
    images, _, found = drawn
    boxes, masks = (
        json.loads(file.read_text()) for file in collected(images, found).write(tmp_path)
    )
    assert all("bbox" not in one for one in masks) and all(
        "segmentation" not in one for one in boxes
    )
    joined_up = [{**box, **mask} for box, mask in zip(boxes, masks, strict=True)]
    ours = average_precision(images, masks, "segm").figures
    assert average_precision(images, joined_up, "segm").figures["AP_large"] != ours["AP_large"]


def test_images_that_were_not_looked_at_do_not_count(drawn, tmp_path):
    images, file, found = drawn
    few = {i: one for i, one in found.items() if i % 2}
    made = collected(images, few)
    boxes, _ = made.write(tmp_path)
    stats, _ = reference(file, boxes, "bbox", [int(images.ids[i]) for i in few])
    assert fractions(made.precision(ALONE)["bbox"].figures.values()) == pytest.approx(
        stats, abs=1e-6
    )


def nothing(masks=True, size=(4, 4)):
    empty = torch.zeros(0, *size, dtype=torch.bool) if masks else None
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), empty)


def test_nothing_found_is_zero_and_no_object_of_a_size_is_none(tmp_path):
    _, val = open_coco(str(write_coco(tmp_path / "a")))
    made = collected(val, {i: nothing() for i in range(len(val))})
    for precision in made.precision(ALONE).values():
        assert precision.figures["AP"] == 0.0 and precision.figures["AP_large"] is None
    assert [json.loads(file.read_text()) for file in made.write(tmp_path / "b")] == [[], []]
    with pytest.raises(DataError, match="none of the 4 validation images"):
        FoundObjects(val, True).precision(ALONE)


def test_true_objects_found_are_a_hundred_per_cent_with_and_without_masks(tmp_path):
    _, val = open_coco(str(write_coco(tmp_path / "a")))
    for masks in (True, False):
        found = {}
        for i in range(len(val)):
            boxes, labels, bitmaps = val.objects(i, masks=True)
            made = Detections(
                torch.from_numpy(boxes),
                torch.ones(len(boxes)),
                torch.from_numpy(labels),
                torch.from_numpy(bitmaps) > 0 if masks else None,
            )
            found[i] = made
        made = collected(val, found, masks)
        precision = made.precision(ALONE)
        assert list(precision) == (["bbox", "segm"] if masks else ["bbox"])
        assert all(one.figures["AP"] == pytest.approx(100) for one in precision.values())
        files = made.write(tmp_path / str(masks))
        assert [file.name for file in files] == ["boxes.json", "masks.json"][: 1 + masks]


@pytest.mark.distributed
def test_two_processes_together_have_the_figures_of_one(drawn, tmp_path):
    images, _, found = drawn
    alone = collected(images, found)
    wanted = alone.precision(ALONE)

    def work(rank):
        with joined(torch.device("cpu")) as processes:
            own = {i: one for i, one in found.items() if i % 2 == rank}
            both = collected(images, own).joined()
            precision = both.precision(processes)
            assert precision == wanted and both.read == set(found)
            assert both.results["bbox"] == alone.results["bbox"]
            assert both.results["segm"] == alone.results["segm"]

    codes, errors = run_forked(work, tmp_path)
    assert codes == [0, 0], errors
