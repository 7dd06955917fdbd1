"""The stages: samples, targets, losses, refinement and selection against loops."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from drawn_objects import drawn_batch, rectangles

from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.boxes import clip, decode, giou
from ibot.eval.dense.detection.cascade import (
    STAGES,
    Cascade,
    Sampled,
    refined,
    select,
    stage_losses,
    stage_samples,
)
from ibot.eval.dense.detection.heads import box_features
from ibot.eval.dense.detection.masks import mask_targets

CLASSES = 3


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return overlap / (sum(areas) - overlap) if overlap else 0.0


def near(boxes, count, seed=0, spread=8.0):
    """`count` boxes [n, 4] around each of some boxes."""
    random = torch.Generator().manual_seed(seed)
    moved = boxes.repeat(count, 1)
    moved = moved + spread * torch.randn(len(moved), 4, generator=random)
    return torch.cat(
        [torch.min(moved[:, :2], moved[:, 2:]), torch.max(moved[:, :2], moved[:, 2:])], dim=1
    )


def samples_of(proposals, target, stage, count=10**6):
    return stage_samples(
        proposals, target, stage, count=count, num_classes=CLASSES, draws=Draws(0, 0), image=0
    )


def test_the_stages_are_the_published_ones():
    assert [stage.least_iou for stage in STAGES] == [0.5, 0.6, 0.7]
    assert [stage.weight for stage in STAGES] == [1, 0.5, 0.25]
    assert [stage.stds[0] for stage in STAGES] == [0.1, 0.05, 0.033]
    assert [stage.stds[3] for stage in STAGES] == [0.2, 0.1, 0.067]
    assert len({stage.purpose for stage in STAGES}) == 3


@pytest.mark.parametrize("stage", STAGES, ids=["first", "second", "third"])
def test_boxes_have_the_object_that_they_overlap_most_by_the_stages_threshold(stage):
    _, target = rectangles(3)
    proposals = near(target.boxes, 40)
    found = samples_of(proposals, target, stage)
    expected = Counter(
        {
            (*box, label): 1
            for box, label in zip(
                map(tuple, target.boxes.tolist()), target.labels.tolist(), strict=True
            )
        }
    )
    for box in proposals.tolist():
        overlaps = [iou(box, one) for one in target.boxes.tolist()]
        best = max(overlaps)
        label = target.labels[overlaps.index(best)].item() if best >= stage.least_iou else CLASSES
        expected[(*box, label)] += 1
    got = Counter(
        (*box, label)
        for box, label in zip(map(tuple, found.boxes.tolist()), found.labels.tolist(), strict=True)
    )
    assert got == expected and len({label for *_, label in got}) > 1
    positives = len(found.objects)
    assert (found.labels[:positives] < CLASSES).all() and (
        found.labels[positives:] == CLASSES
    ).all()
    assert torch.equal(found.goals, target.boxes[found.objects])
    assert torch.equal(found.labels[:positives], target.labels[found.objects])
    copies = found.boxes[found.copied]
    assert found.copied.sum() == 2 and {*map(tuple, copies.tolist())} == {
        *map(tuple, target.boxes.tolist())
    }


def test_a_quarter_of_512_boxes_at_most_has_an_object():
    _, target = rectangles(3)
    proposals = torch.cat([near(target.boxes, 300, spread=1.0), near(target.boxes, 300, spread=90)])
    found = samples_of(proposals, target, STAGES[0], 512)
    assert len(found.boxes) == 512 and len(found.objects) == 128
    # The objects' own boxes are drawn like all others.
    assert found.copied.sum() <= 2


def test_an_image_without_objects_gives_background():
    _, target = rectangles(3, count=0)
    found = samples_of(near(torch.tensor([[5.0, 5, 50, 60]]), 30), target, STAGES[1], 16)
    assert found.labels.tolist() == [CLASSES] * 16 and not found.copied.any()
    assert found.goals.shape == (0, 4)


def random_case(seed=0):
    """Samples of two images, the second without objects, and what heads say of them."""
    _, target = rectangles(seed)
    _, empty = rectangles(seed, count=0)
    sampled = [
        samples_of(near(target.boxes, 10, seed), target, STAGES[0]),
        samples_of(near(target.boxes, 4, seed + 1), empty, STAGES[0]),
    ]
    random = torch.Generator().manual_seed(seed)
    count = sum(len(one.boxes) for one in sampled)
    logits = torch.randn(count, CLASSES + 1, generator=random)
    return sampled, logits, torch.randn(count, CLASSES, 4, generator=random)


@pytest.mark.parametrize("stage", STAGES, ids=["first", "second", "third"])
def test_losses_count_all_samples(stage):
    sampled, logits, deltas = random_case()
    losses = stage_losses(logits, deltas, sampled, stage, torch.tensor(40.0))
    nats, distance, row = 0.0, 0.0, 0
    for one in sampled:
        for k, label in enumerate(one.labels.tolist()):
            nats -= F.log_softmax(logits[row], dim=0)[label].item()
            if label < CLASSES:
                box = decode(one.boxes[k : k + 1], deltas[row : row + 1, label], stage.stds)
                distance += 1 - giou(box, one.goals[k : k + 1]).item()
            row += 1
    assert losses["class"].item() == pytest.approx(nats / 40, rel=1e-5)
    assert losses["box"].item() == pytest.approx(10 * distance / 40, rel=1e-5)


def test_boxes_move_by_the_delta_of_their_class_and_stay_in_the_image():
    sampled, _, deltas = random_case()
    boxes = sampled[0].boxes
    labels = torch.arange(len(boxes)) % CLASSES
    moved = refined(boxes, deltas[: len(boxes)], labels, STAGES[1], (90, 120))
    for k, box in enumerate(boxes):
        expected = decode(box, deltas[k, k % CLASSES], (0.05, 0.05, 0.1, 0.1))
        assert torch.equal(moved[k], clip(expected, (90, 120)))


def cascade(masks=True):
    torch.manual_seed(0)
    return Cascade(32, 16, CLASSES, norm="batch", masks=masks, strides=(4, 8, 16, 32), samples=32)


def random_levels(images=2):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(images, 32, 96 // s, 128 // s, generator=random) for s in (4, 8, 16, 32)]


def test_the_next_stage_starts_from_moved_boxes_without_copies():
    heads, batch = cascade(), drawn_batch()
    sampled, logits, deltas = random_case()
    first, second = heads._next(sampled, logits, deltas, STAGES[0], batch)
    one, expected = sampled[0], []
    for k, label in enumerate(one.labels.tolist()):
        if not one.copied[k]:
            chosen = label if label < CLASSES else int(logits[k, :CLASSES].argmax())
            box = decode(one.boxes[k], deltas[k, chosen], STAGES[0].stds)
            expected.append(clip(box, batch.sizes[0]))
    assert torch.equal(first, torch.stack(expected)) and one.copied.any()
    assert len(second) == len(sampled[1].boxes)


def test_mask_losses_are_means_over_positives_and_pixels_of_the_true_classs_map():
    heads, batch, levels = cascade().eval(), drawn_batch(), random_levels()
    sampled = [samples_of(near(target.boxes, 6), target, STAGES[0]) for target in batch.targets]
    loss = heads._mask_loss(1, levels, batch, sampled)
    expected = 0.0
    for i, (one, target) in enumerate(zip(sampled, batch.targets, strict=True)):
        for k, number in enumerate(one.objects):
            box = one.boxes[k : k + 1]
            features = box_features(
                [level[i : i + 1] for level in levels], heads.strides, [box], 14
            )
            logits = heads.mask_heads[1](features)[0, target.labels[number]]
            truth = mask_targets(target.masks, box, number[None], (96, 128))[0]
            expected += F.binary_cross_entropy_with_logits(logits, truth).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert sum(len(one.objects) for one in sampled) > 10


def test_without_masks_there_are_neither_heads_nor_losses():
    heads, batch = cascade(masks=False), drawn_batch(masks=False)
    losses = heads.losses(
        random_levels(), batch, [near(t.boxes, 9) for t in batch.targets], Draws(0, 0)
    )
    assert not heads.mask_heads and losses.keys() == {
        f"{name}_{i}" for name in ("class", "box") for i in (1, 2, 3)
    }
    found = heads.eval().detect(
        random_levels(), [near(t.boxes, 9) for t in batch.targets], batch.sizes, batch.factors
    )
    assert all(one.masks is None for one in found)


def slow_select(boxes, probs):
    """Class by class, best first."""
    found = []
    for label in range(probs.shape[1]):
        kept = []
        for k in probs[:, label].argsort(descending=True).tolist():
            box, score = boxes[k, label].tolist(), probs[k, label].item()
            if score > 0.05 and all(iou(box, other) <= 0.5 for other, *_ in kept):
                kept.append((box, score, label))
        found += kept
    return sorted(found, key=lambda one: -one[1])[:100]


@pytest.mark.parametrize(("count", "classes"), [(60, 3), (200, 5), (4, 2)])
def test_detections_equal_a_loop_over_classes(count, classes):
    random = torch.Generator().manual_seed(count)
    corners = 100 * torch.rand(count, classes, 2, 2, generator=random)
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=2)
    probs = (2 * torch.randn(count, classes + 1, generator=random)).softmax(dim=1)[:, :-1]
    best, scores, labels = select(boxes, probs)
    expected = slow_select(boxes, probs)
    assert scores.tolist() == [score for _, score, _ in expected]
    assert labels.tolist() == [label for *_, label in expected]
    assert best.tolist() == [box for box, *_ in expected]
    assert len(best) == 100 or count < 200


def slow_detect(heads, levels, proposals, size, factor):
    """One image: boxes, scores, labels and probabilities of masks before they are pasted."""
    boxes, logits = proposals, []
    for i, stage in enumerate(STAGES):
        said, deltas = heads.box_heads[i](box_features(levels, heads.strides, [boxes], 7))
        logits.append(said)
        if i < 2:
            labels = said[:, :CLASSES].argmax(dim=1)
            boxes = torch.stack(
                [
                    clip(decode(box, delta[label], stage.stds), size)
                    for box, delta, label in zip(boxes, deltas, labels, strict=True)
                ]
            )
    probs = ((logits[0] + logits[1] + logits[2]) / 3).softmax(dim=1)
    every = torch.stack(
        [clip(decode(boxes, deltas[:, c], STAGES[2].stds), size) for c in range(CLASSES)], dim=1
    )
    y, x = factor
    best, scores, labels = select(every / torch.tensor([x, y, x, y]), probs[:, :CLASSES])
    resized = best * torch.tensor([x, y, x, y])
    features = box_features(levels, heads.strides, [resized], 14)
    maps = [head(features).sigmoid() for head in heads.mask_heads]
    mean = (maps[0] + maps[1] + maps[2]) / 3
    return best, scores, labels, torch.stack([m[k] for m, k in zip(mean, labels, strict=True)])


def test_detection_refines_through_the_stages_and_means_logits_and_masks():
    from ibot.eval.dense.detection.masks import paste

    heads, batch, levels = cascade().eval(), drawn_batch(), random_levels()
    proposals = [near(target.boxes, 8) for target in batch.targets]
    found = heads.detect(levels, proposals, batch.sizes, [(0.5, 0.4), (0.5, 0.5)])
    for i, one in enumerate(found):
        alone = [level[i : i + 1] for level in levels]
        with torch.no_grad():
            boxes, scores, labels, masks = slow_detect(
                heads, alone, proposals[i], batch.sizes[i], [(0.5, 0.4), (0.5, 0.5)][i]
            )
        torch.testing.assert_close(one.scores, scores)
        torch.testing.assert_close(one.boxes, boxes, atol=1e-4, rtol=1e-5)
        assert torch.equal(one.labels, labels) and len(labels)
        size = [(180, 300), (140, 256)][i]
        assert one.masks.shape == (len(labels), *size)
        pasted = paste(masks, boxes, size)
        assert (one.masks == pasted).float().mean() > 0.9999  # a last bit may decide at one half


def test_a_background_that_is_sure_finds_nothing():
    heads, batch = cascade().eval(), drawn_batch()
    with torch.no_grad():
        for head in heads.box_heads:
            head.score.bias[-1] = 50
    found = heads.detect(
        random_levels(), [near(t.boxes, 5) for t in batch.targets], batch.sizes, batch.factors
    )
    assert [one.masks.shape for one in found] == [(0, 180, 240), (0, 140, 256)]


def test_a_sample_knows_its_background():
    one = Sampled(
        torch.zeros(2, 4),
        torch.tensor([3, 3]),
        torch.zeros(0).long(),
        torch.zeros(0, 4),
        torch.zeros(2).bool(),
    )
    losses = stage_losses(
        torch.zeros(2, 81), torch.zeros(2, 80, 4), [one], STAGES[0], torch.tensor(2.0)
    )
    assert losses["class"].item() == pytest.approx(math.log(81)) and losses["box"].item() == 0
