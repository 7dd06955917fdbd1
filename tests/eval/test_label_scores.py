"""Scores of label maps against counting pixel by pixel."""

import math

import pytest
import torch

from ibot.eval.label_scores import LabelScores, confusion


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
    scores = LabelScores.of(sum(confusion(f, t, 6) for f, t in zip(found, labels, strict=True)))
    slow = slow_scores(found.flatten().tolist(), labels.flatten().tolist(), 6)
    assert (scores.miou, scores.macc, scores.aacc) == pytest.approx(slow, abs=1e-9)
    assert scores.iou[3] == 0 and math.isnan(scores.iou[5]) and math.isnan(scores.accuracy[3])
    assert scores.by_class(tuple("abcdef"))["f"] is None
    with pytest.raises(ValueError, match="no pixel"):
        LabelScores.of(torch.zeros(2, 2))
