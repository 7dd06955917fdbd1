"""Folders in COCO's format for tests: drawn rectangles in the colour of their class."""

import json

import numpy as np
from PIL import Image

COLORS = {3: (255, 0, 0), 7: (0, 255, 0), 20: (0, 0, 255), 90: (255, 255, 0)}
"""By category id, with gaps; no object has the last one."""
SIZES = ((60, 80), (80, 60), (48, 48), (60, 80), (50, 120), (60, 80), (120, 50), (60, 80))
"""Height and width of the images, one after the other."""
EMPTY, CROWD, PIXEL = 2, 3, 4
"""Images of the training part without objects, with a crowd, with a box of one pixel."""


def rectangle(number, image, category, box, **more):
    """An annotation whose mask is its box [left, top, width, height], whole pixels."""
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    about = {"id": number, "image_id": image, "category_id": category, "bbox": list(box)}
    return {**about, "area": w * h, "iscrowd": 0, "segmentation": [polygon], **more}


def runs(box, size):
    """A rectangle as run lengths down the columns."""
    mask = np.zeros(size, int)
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(size), "counts": [0, *counts] if flat[0] else counts}


def random_boxes(random, count, size):
    """Boxes [left, top, width, height] of 12 to 30 pixels inside of an image."""
    height, width = size
    boxes = []
    for _ in range(count):
        w, h = (int(side) for side in random.integers(12, 31, 2))
        x, y = int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1))
        boxes.append((x, y, w, h))
    return boxes


def write_part(folder, images, seed=0, name="train", masks=True):
    """`folder/name/*.png` and its annotation file; returns what that holds."""
    random = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": []}
    for i in range(images):
        size, number = SIZES[i % len(SIZES)], 100 + i
        pixels = random.integers(0, 60, (*size, 3), dtype=np.uint8)
        boxes = random_boxes(random, 1 + i % 3, size) if i != EMPTY else []
        if i == PIXEL:
            boxes.append((2, 3, 1, 1))
        for box in boxes:
            category = int(random.choice(list(COLORS)[:3]))
            x, y, w, h = box
            pixels[y : y + h, x : x + w] = COLORS[category]
            one = rectangle(len(content["annotations"]) + 1, number, category, box)
            content["annotations"].append(one)
        if i == CROWD:
            crowd = {"iscrowd": 1, "segmentation": runs((0, 0, 30, 10), size)}
            last = len(content["annotations"]) + 1
            content["annotations"].append(rectangle(last, number, 3, (0, 0, 30, 10), **crowd))
        Image.fromarray(pixels).save(folder / name / f"{i}.png")
        shape = {"height": size[0], "width": size[1]}
        content["images"].append({"id": number, "file_name": f"{i}.png", **shape})
    # Not in the order of their ids.
    content["categories"] = [{"id": i, "name": f"class {i}"} for i in (20, 3, 90, 7)]
    if not masks:
        for one in content["annotations"]:
            del one["segmentation"]
    write_annotations(folder, content, name)
    return content


def write_annotations(folder, content, name="train"):
    """The annotation file of a part."""
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def write_coco(folder, train=8, val=4, masks=True):
    """A folder of both parts; returns it."""
    write_part(folder, train, seed=0, name="train", masks=masks)
    write_part(folder, val, seed=1, name="val", masks=masks)
    return folder
