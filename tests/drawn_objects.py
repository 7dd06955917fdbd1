"""Drawn rectangles to be detected, and small detectors."""

import torch

from ibot.config.schema import ModelConfig
from ibot.eval.dense.detection.detector import Detector
from ibot.eval.dense.detection.settings import DetectionSettings
from ibot.eval.dense.detection.target import Batch, Target
from ibot.models.backbone import build_backbone

VIT = ModelConfig(width=32, depth=4, heads=2, patch=16)
SWIN = ModelConfig(
    kind="swin", width=16, depths=(1, 1, 1, 1), stage_heads=(1, 2, 2, 4), window=4, patch=4
)
SMALL = DetectionSettings(
    batch=2,
    micro_batch=2,
    channels=32,
    hidden=32,
    proposals=50,
    test_proposals=50,
    anchors=32,
    samples=16,
    table=(0, 0),
    drop_path=0.0,
    warmup_steps=0,
)


def small_detector(config=VIT, num_classes=3, settings=SMALL, masks=True):
    """A detector on a random backbone, always the same one."""
    torch.manual_seed(0)
    backbone = build_backbone(config, (64, 64), masked=True)
    return Detector(backbone, num_classes, settings, masks=masks)


def rectangles(index, size=(90, 120), count=2, num_classes=3, masks=True):
    """Image [3, h, w] number `index` with rectangles in the colour of their class, and what is to
    be learned of it.
    """
    random = torch.Generator().manual_seed(index)
    image = 0.1 * torch.randn(3, *size, generator=random)
    boxes, labels = torch.zeros(count, 4), torch.zeros(count, dtype=torch.int64)
    maps = torch.zeros(count, *size, dtype=torch.uint8)
    for k in range(count):
        height, width = torch.randint(20, 60, (2,), generator=random).tolist()
        top = int(torch.randint(0, size[0] - height, (1,), generator=random))
        left = int(torch.randint(0, size[1] - width, (1,), generator=random))
        labels[k] = torch.randint(0, num_classes, (1,), generator=random)
        boxes[k] = torch.tensor([left, top, left + width, top + height])
        maps[k, top : top + height, left : left + width] = 1
        image[:, top : top + height, left : left + width] += torch.eye(3)[labels[k] % 3][
            :, None, None
        ]
    return image, Target(boxes, labels, maps if masks else None)


def drawn_batch(numbers=(0, 1), counts=(2, 1), sizes=((90, 120), (70, 128)), masks=True):
    """A micro-batch of such images, padded to 96 x 128, resized to half before."""
    images = torch.zeros(len(numbers), 3, 96, 128)
    targets = []
    for i, (index, count, size) in enumerate(zip(numbers, counts, sizes, strict=True)):
        image, target = rectangles(index, size, count, masks=masks)
        images[i, :, : size[0], : size[1]] = image
        targets.append(target)
    return Batch(
        images=images,
        sizes=list(sizes),
        targets=targets,
        factors=[(0.5, 0.5)] * len(numbers),
        index=list(numbers),
    )
