"""Scores of label maps against counting pixel by pixel."""

import math

import pytest
import torch

from ibot.eval.label_scores import LabelScores, areas, confusion, miou_interval


def slow_scores(found, labels, num_classes):
    """mIoU, mAcc and aAcc of lists of pixels, in per cent, by the definition."""
    kept = [(f, t) for f, t in zip(found, labels, strict=True) if t >= 0]
    shares, accuracies = [], []
    for k in range(num_classes):
        both = sum(f == k and t == k for f, t in kept)
        either = sum(k in (f, t) for f, t in kept)
        truth = sum(t == k for _, t in kept)
        shares += [100 * both / either] if either else []
        accuracies += [100 * both / truth] if truth else []
    hits = sum(f == t for f, t in kept)
    return sum(shares) / len(shares), sum(accuracies) / len(accuracies), 100 * hits / len(kept)


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_random_maps_are_those_of_counting(seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 5, (3, 7, 9), generator=random)
    labels[labels == 3] = 2  # 3 is found and never true, 5 neither
    found = torch.randint(0, 5, (3, 7, 9), generator=random)
    of_images = torch.stack([areas(confusion(f, t, 6)) for f, t in zip(found, labels, strict=True)])
    scores = LabelScores.of(of_images.sum(dim=0))
    slow = slow_scores(found.flatten().tolist(), labels.flatten().tolist(), 6)
    assert (scores.miou, scores.macc, scores.aacc) == pytest.approx(slow, abs=1e-9)
    assert scores.iou[3] == 0 and math.isnan(scores.iou[5]) and math.isnan(scores.accuracy[3])
    assert scores.by_class(tuple("abcdef"))["f"] is None
    with pytest.raises(ValueError, match="no pixel"):
        LabelScores.of(torch.zeros(3, 2))


def test_the_interval_is_that_of_resampled_images():
    random = torch.Generator().manual_seed(0)
    of_images = torch.stack(
        [areas(confusion(*torch.randint(0, 3, (2, 50), generator=random), 3)) for _ in range(40)]
    )
    drawn = torch.randint(0, 40, (2000, 40), generator=random)
    slow = sorted(LabelScores.of(of_images[rows].sum(dim=0)).miou for rows in drawn)
    low, high = miou_interval(of_images)
    assert low == pytest.approx(slow[50], abs=0.3) and high == pytest.approx(slow[1950], abs=0.3)
    assert miou_interval(of_images[:1]) == pytest.approx([LabelScores.of(of_images[0]).miou] * 2)
