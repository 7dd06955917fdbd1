"""Assignment against slow loops; samples that hang on image and step alone."""

from collections import Counter

import pytest
import torch

from ibot.eval.dense.detection.assign import IGNORED, NEGATIVE, Draws, assign, sample
from ibot.rng import Purpose

PURPOSE = Purpose.DETECTION_ANCHORS


def slow_assign(overlaps, positive, negative, least=None):
    """Box by box, then object by object, as mmdetection does."""
    objects, boxes = overlaps.shape
    found = []
    for j in range(boxes):
        column = [overlaps[i][j] for i in range(objects)]
        best = max(column, default=0.0)
        found.append(IGNORED if best >= negative else NEGATIVE)
        if column and best >= positive:
            found[-1] = column.index(best)
    for i in range(objects if least is not None else 0):
        best = max(overlaps[i].tolist())
        for j in range(boxes):
            if best >= least and overlaps[i][j] == best:
                found[j] = i
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limits", [(0.7, 0.3, 0.3), (0.5, 0.5, None), (0.7, 0.7, None)])
def test_assignment_equals_loops(seed, limits):
    random = torch.Generator().manual_seed(seed)
    objects = seed % 4
    # Of few values, so that boxes and objects are level.
    overlaps = torch.randint(0, 11, (objects, 60), generator=random) / 10
    if objects > 1:
        overlaps[1] *= 0.4  # an object that no box has by 0.7
    if objects > 2:
        overlaps[2] *= 0.2  # and one that none may have at all
    assert assign(overlaps, *limits).tolist() == slow_assign(overlaps, *limits)


def test_an_object_takes_all_boxes_that_reach_its_largest_overlap_from_earlier_ones():
    overlaps = torch.tensor([[0.8, 0.5, 0.5, 0.1], [0.5, 0.1, 0.5, 0.2], [0.29, 0.0, 0.1, 0.2]])
    assert assign(overlaps, 0.7, 0.3, 0.3).tolist() == [1, IGNORED, 1, NEGATIVE]


def test_without_objects_all_is_background_and_without_boxes_nothing():
    assert assign(torch.zeros(0, 3), 0.7, 0.3, 0.3).tolist() == [NEGATIVE] * 3
    assert assign(torch.zeros(2, 0), 0.7, 0.3, 0.3).shape == (0,)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(500, 5000, (128, 128)), (3, 5000, (3, 253)), (0, 5000, (0, 256)), (500, 10, (128, 10))],
)
def test_a_sample_holds_half_positives_at_most_and_no_ignored_box(positives, negatives, expected):
    assigned = torch.full((positives + negatives + 50,), IGNORED)
    assigned[:positives], assigned[-negatives:] = 4, NEGATIVE
    order = torch.randperm(len(assigned), generator=torch.Generator().manual_seed(0))
    assigned = assigned[order]
    chosen, others = sample(assigned, 256, 0.5, Draws(0, 0), 7, PURPOSE)
    assert (len(chosen), len(others)) == expected
    assert (assigned[chosen] == 4).all() and (assigned[others] == NEGATIVE).all()
    assert len({*chosen.tolist(), *others.tolist()}) == sum(expected)


def test_a_choice_hangs_on_seed_step_image_and_purpose_alone():
    def choose(seed=0, step=3, image=7, purpose=PURPOSE, kind=0):
        return Draws(seed, step).choose(100, 4000, image, purpose, kind).tolist()

    first = choose()
    torch.manual_seed(1)
    assert choose() == first and len(set(first)) == 100
    purpose = Purpose.DETECTION_BOXES_1
    changed = [choose(seed=1), choose(step=4), choose(image=8), choose(purpose=purpose)]
    changed.append(choose(kind=1))
    for other in changed:
        assert len(set(other) & set(first)) < 20  # 2.5 are expected by chance


@pytest.mark.parametrize(("count", "of"), [(3, 3), (5, 3), (0, 9), (300, 301), (2, 5)])
def test_all_are_taken_where_there_are_no_more(count, of):
    chosen = Draws(0, 0).choose(count, of, 0, PURPOSE)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, of)
    assert not len(chosen) or 0 <= chosen.min() <= chosen.max() < of


def test_every_choice_is_equally_likely():
    drawn = Counter(
        frozenset(Draws(0, step).choose(2, 5, 0, PURPOSE).tolist()) for step in range(600)
    )
    # Ten pairs, 60 times each; the deviation of one count is 7.3.
    assert len(drawn) == 10 and all(abs(times - 60) < 4 * 7.3 for times in drawn.values())
