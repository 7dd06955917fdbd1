"""Scores and their intervals against loops over images, classes and resamples."""

import numpy as np
import pytest
import torch

from ibot.eval.scores import balanced_accuracy, bootstrap_mean, interval, resamples, topk_hits


@pytest.mark.parametrize("present", [(0, 1, 2), (1, 4), (0, 2, 6), (5,)], ids=str)
def test_classes_that_are_absent_do_not_count_towards_balanced_accuracy(present):
    random = torch.Generator().manual_seed(len(present))
    labels = torch.tensor(present)[torch.randint(0, len(present), (50,), generator=random)]
    labels[: len(present)] = torch.tensor(present)
    hits = torch.rand(50, generator=random) < 0.6
    shares = [hits[labels == label].double().mean().item() for label in present]
    assert balanced_accuracy(hits, labels) == pytest.approx(100 * sum(shares) / len(shares))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_hit_is_a_class_among_the_k_largest(k):
    logits = torch.randn(40, 7, generator=torch.Generator().manual_seed(k))
    labels = torch.arange(40) % 7
    want = [int((row > row[label]).sum()) < k for row, label in zip(logits, labels, strict=True)]
    assert topk_hits(logits, labels, k).tolist() == want


def test_resamples_draw_every_row_alike_and_follow_their_seed():
    first, again = (np.stack(list(resamples(6, 500, 3))) for _ in range(2))
    assert np.array_equal(first, again) and first.shape == (500, 6)
    assert not np.array_equal(first, np.stack(list(resamples(6, 500, 4))))
    assert np.bincount(first.ravel(), minlength=6).min() > 400 and len({*map(bytes, first)}) > 490


@pytest.mark.parametrize("levels", [2, 5, 64, 65, 1000])
def test_the_interval_of_a_mean_is_that_of_resampled_means(levels):
    values = torch.randint(0, levels, (900,), generator=torch.Generator().manual_seed(0)) * 1.5
    error = values.std().item() / 30
    low, high = bootstrap_mean(values)
    assert low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.25 * error)
    assert bootstrap_mean(values, 1) != (low, high) == bootstrap_mean(values, 0)
    if levels > 64 and len(values.unique()) > 64:
        rows = values.double().numpy()
        means = [rows[drawn].mean() for drawn in resamples(900, 1000, 7)]
        assert bootstrap_mean(values, 7) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_an_interval_is_shifted_to_the_score_it_belongs_to():
    scores = np.random.default_rng(0).exponential(size=400)
    low, high = np.percentile(scores, 2.5), np.percentile(scores, 97.5)
    assert interval(scores) == pytest.approx((low, high))
    shift = 3 - scores.mean()
    assert interval(scores, around=3.0) == pytest.approx((low + shift, high + shift))
    shift = 0 - scores.mean()
    assert interval(scores, around=0.0) == pytest.approx((low + shift, high + shift))
