import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.eval.knn import knn_accuracy
from ibot.eval.spectrum import effective_rank, whiten


def test_golden_accuracies(golden):
    arrays = np.load(golden / "evaluation.npz", allow_pickle=False)
    cases = {k: v for k, v in json.loads((golden / "evaluation.json").read_text()).items() if k.startswith("knn_")}
    assert len(cases) >= 3
    for name, case in cases.items():
        tensors = [
            torch.from_numpy(arrays[f"{name}/{part}"])
            for part in ("train_features", "train_labels", "test_features", "test_labels")
        ]
        train, labels, test, truth = tensors
        for result in case["results"]:
            got = knn_accuracy(train.double(), labels, test.double(), truth, ks=[result["k"]], temperature=result["T"])
            score = got[min(result["k"], len(train))]
            assert score.top1 == pytest.approx(result["top1"], abs=1e-9), name
            low, high = result["top5_lowest_under_ties"], result["top5_highest_under_ties"]
            assert low - 1e-9 <= score.top5 <= high + 1e-9, name


def loop_top1(train, labels, test, truth, k, temperature):
    hits = 0
    for query, label in zip(test, truth, strict=True):
        similarity = [float(query @ bank) for bank in train]
        order = sorted(range(len(train)), key=lambda i: -similarity[i])[:k]
        votes: dict[int, float] = {}
        for i in order:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(similarity[i] / temperature)
        hits += max(votes, key=votes.get) == int(label)
    return 100 * hits / len(test)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_any_size_equal_the_loop(seed):
    g = torch.Generator().manual_seed(seed)
    train, test = (F.normalize(torch.randn(n, 6, generator=g, dtype=torch.float64), dim=1) for n in (57, 23))
    labels, truth = (torch.randint(0, 4, (n,), generator=g) for n in (57, 23))
    want = loop_top1(train, labels, test, truth, 9, 0.07)
    lengths = torch.rand(57, 1, generator=g, dtype=torch.float64) + 0.5
    for chunk, block in ((1024, 4096), (5, 7), (1, 1), (23, 57)):
        got = knn_accuracy(train, labels, test, truth, ks=[9], chunk=chunk, block=block)[9]
        assert got.top1 == pytest.approx(want) and got.top5 is None
        args = (train * lengths, labels, 3 * test, truth)
        scaled = knn_accuracy(*args, ks=[9], chunk=chunk, block=block, scale=True)[9]
        assert scaled.top1 == pytest.approx(want)


def test_near_neighbours_outvote_a_majority():
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    assert knn_accuracy(train, labels, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), ks=[3])[3].top1 == 100


@pytest.mark.parametrize("temperature", [1e-4, 0.002, 0.005, 1e4])
def test_votes_neither_overflow_nor_vanish(temperature):
    """exp(1 / 0.005) is beyond float32; classes that only lost must stay before those without a neighbour."""
    angle = torch.tensor([0.0, 0.1, 0.9, 0.5, 0.7, 0.2, 1.3, 1.4])
    train = torch.stack([angle.cos(), angle.sin()], dim=1)
    labels = torch.tensor([9, 9, 5, 3, 8, 7, 0, 1])
    query, truth = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([9, 5, 8, 0])
    score = knn_accuracy(train, labels, query, truth, ks=[6], temperature=temperature)[6]
    assert score.hits.tolist() == [True, False, False, False] and score.top5 == 75


def test_k_is_clipped_to_the_bank():
    train = F.normalize(torch.randn(5, 3), dim=1)
    scores = knn_accuracy(train, torch.arange(5), train, torch.arange(5), ks=[1, 10, 200])
    assert list(scores) == [1, 5] and scores[1].top1 == 100


def test_balanced_accuracy_counts_classes_equally():
    train = torch.eye(2)
    test = torch.tensor([[1.0, 0.0]] * 9 + [[1.0, 0.0]])
    score = knn_accuracy(train, torch.tensor([0, 1]), test, torch.tensor([0] * 9 + [1]), ks=[1])[1]
    assert score.top1 == pytest.approx(90) and score.balanced == pytest.approx(50)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        knn_accuracy(torch.randn(4, 3), torch.zeros(4), torch.randn(4, 2), torch.zeros(4))


def test_effective_rank_of_isotropic_and_flat_features():
    g = torch.Generator().manual_seed(0)
    assert effective_rank(torch.randn(4000, 10, generator=g)) == pytest.approx(10, abs=0.1)
    line = torch.randn(100, 1, generator=g) @ torch.randn(1, 10, generator=g)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(10, 4)) == 1.0


def test_whitened_features_are_uncorrelated_with_variance_one():
    train = torch.randn(500, 8) @ torch.randn(8, 8)
    white, _ = whiten(train, train[:10], 5)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(5), atol=1e-3, rtol=0)
