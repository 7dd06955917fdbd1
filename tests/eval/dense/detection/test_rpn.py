"""Proposals: what is learned from anchors and which boxes come out, against loops."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from ibot.eval.dense.detection.anchors import pyramid_anchors
from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.boxes import clip, decode, encode
from ibot.eval.dense.detection.rpn import (
    AnchorTargets,
    Predictions,
    ProposalHead,
    anchor_targets,
    proposal_losses,
    propose,
)
from ibot.eval.dense.detection.target import Target

GRIDS, STRIDES = ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3)), (4, 8, 16, 32, 64)
SIZE = (120, 150)
"""Of an image in an input of 128 x 160."""


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return overlap / (sum(areas) - overlap) if overlap else 0.0


def random_predictions(seed=0, images=1):
    random = torch.Generator().manual_seed(seed)
    scores = [torch.randn(images, 3 * h * w, generator=random) for h, w in GRIDS]
    deltas = [0.3 * torch.randn(images, 3 * h * w, 4, generator=random) for h, w in GRIDS]
    return Predictions(scores, deltas)


def test_predictions_are_those_of_the_anchors_cells():
    head, levels = ProposalHead(32), [torch.randn(2, 32, h, w) for h, w in GRIDS]
    said = head(levels)
    anchors = pyramid_anchors(GRIDS, STRIDES)
    assert [len(one) for one in anchors] == [one.shape[1] for one in said.scores]
    hidden = torch.relu(head.conv(levels[1]))
    row, column, shape = 5, 7, 2
    at = (row * 20 + column) * 3 + shape
    assert said.scores[1][1, at] == head.score(hidden)[1, shape, row, column]
    delta = head.delta(hidden)[1, 4 * shape : 4 * shape + 4, row, column]
    assert torch.equal(said.deltas[1][1, at], delta)


def test_anchors_outside_are_ignored_and_the_others_say_what_is_nearest():
    anchors = torch.cat(pyramid_anchors(GRIDS, STRIDES))
    objects = torch.tensor([[20.3, 30.2, 61.1, 60.7], [101.3, 11.2, 131.9, 47.3], [83, 63, 89, 69]])
    target = Target(objects, torch.zeros(3, dtype=torch.int64), None)
    found = anchor_targets(anchors, SIZE, target, count=10**6, draws=Draws(0, 0), image=0)
    rows = anchors.tolist()
    inside = [k for k, row in enumerate(rows) if min(row) >= 0 and row[2] < 150 and row[3] < 120]
    overlaps = {k: [iou(rows[k], one) for one in objects.tolist()] for k in inside}
    best = [max(overlaps[k][i] for k in inside) for i in range(3)]
    nearest, negatives = {}, []
    for k in inside:
        if max(overlaps[k]) >= 0.7:
            nearest[k] = overlaps[k].index(max(overlaps[k]))
        for i in range(3):
            if best[i] >= 0.3 and overlaps[k][i] >= best[i] - 1e-6:
                nearest[k] = i
        if k not in nearest and max(overlaps[k]) < 0.3:
            negatives.append(k)
    assert best[2] < 0.3 and set(nearest.values()) == {0, 1}
    assert set(found.positives.tolist()) == nearest.keys()
    assert found.negatives.tolist() == negatives and len(inside) > len(negatives) + len(nearest)
    for at, delta in zip(found.positives.tolist(), found.deltas, strict=True):
        torch.testing.assert_close(delta, encode(anchors[at], objects[nearest[at]]))


def test_half_of_256_anchors_at_most_hold_an_object():
    anchors = torch.cat(pyramid_anchors(GRIDS, STRIDES))
    objects = anchors[2000:2300:2].clone()
    target = Target(objects, torch.zeros(len(objects), dtype=torch.int64), None)
    found = anchor_targets(anchors, SIZE, target, count=256, draws=Draws(0, 0), image=0)
    assert len(found.positives) == 128 and len(found.negatives) == 128 and found.count == 256
    none = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None)
    found = anchor_targets(anchors, SIZE, none, count=256, draws=Draws(0, 0), image=0)
    assert len(found.positives) == 0 and len(found.negatives) == 256


def test_losses_are_sums_over_the_chosen_anchors_by_their_number():
    said = random_predictions(images=2)
    random = torch.Generator().manual_seed(1)
    targets = []
    for positives, negatives in ((5, 20), (0, 7)):
        order = torch.randperm(5000, generator=random)
        deltas = torch.randn(positives, 4, generator=random)
        targets.append(
            AnchorTargets(order[:positives], order[positives : positives + negatives], deltas)
        )
    wrong, off = proposal_losses(said, targets, torch.tensor(32.0))
    scores, deltas = torch.cat(said.scores, dim=1), torch.cat(said.deltas, dim=1)
    nats, distance = 0.0, 0.0
    for i, target in enumerate(targets):
        nats -= sum(logsigmoid(scores[i, k]).item() for k in target.positives)
        nats -= sum(logsigmoid(-scores[i, k]).item() for k in target.negatives)
        for k, goal in zip(target.positives, target.deltas, strict=True):
            for d in (deltas[i, k] - goal).abs().tolist():
                distance += 4.5 * d * d if d < 1 / 9 else d - 1 / 18
    assert wrong.item() == pytest.approx(nats / 32, rel=1e-5)
    assert off.item() == pytest.approx(distance / 32, rel=1e-5)


def slow_proposals(said, anchors, count):
    """One image, level by level, box by box."""
    found = []
    for scores, deltas, level in zip(said.scores, said.deltas, anchors, strict=True):
        best = sorted(range(len(level)), key=lambda k: -scores[0, k].item())[:count]
        boxes = clip(decode(level[best], deltas[0, best]), SIZE).tolist()
        kept = []
        for k, box in zip(best, boxes, strict=True):
            if all(iou(box, other) <= 0.7 for _, other in kept):
                kept.append((scores[0, k].item(), box))
        found += kept
    return [box for _, box in sorted(found, key=lambda one: -one[0])[:count]]


@pytest.mark.parametrize("count", [40, 150])
def test_proposals_equal_a_loop_in_which_levels_do_not_suppress_each_other(count):
    said, anchors = random_predictions(seed=count), pyramid_anchors(GRIDS, STRIDES)
    (found,) = propose(said, anchors, [SIZE], count)
    expected = torch.tensor(slow_proposals(said, anchors, count))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert len(found) == count and not found.requires_grad


def test_scores_start_at_even_odds():
    logits = torch.zeros(1, 10)
    said = Predictions([logits], [torch.zeros(1, 10, 4)])
    target = AnchorTargets(torch.arange(2), torch.arange(2, 10), torch.zeros(2, 4))
    wrong, off = proposal_losses(said, [target], torch.tensor(10.0))
    assert wrong.item() == pytest.approx(math.log(2)) and off.item() == 0
