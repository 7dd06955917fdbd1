import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.errors import ConfigError
from ibot.eval.features.spectrum import effective_rank, whiten
from ibot.eval.features.tokens import CLASS_TOKEN, Features
from ibot.eval.neighbours.vote import PUBLISHED_KS, knn_accuracy
from ibot.eval.probes import knn as protocol
from ibot.eval.probes.settings import KnnSettings


def test_golden_accuracies(golden):
    arrays = np.load(golden / "evaluation.npz", allow_pickle=False)
    cases = {
        k: v
        for k, v in json.loads((golden / "evaluation.json").read_text()).items()
        if k.startswith("knn_")
    }
    assert len(cases) >= 3
    for name, case in cases.items():
        tensors = [
            torch.from_numpy(arrays[f"{name}/{part}"])
            for part in ("train_features", "train_labels", "test_features", "test_labels")
        ]
        train, labels, test, truth = tensors
        for result in case["results"]:
            got = knn_accuracy(
                train.double(),
                labels,
                test.double(),
                truth,
                ks=[result["k"]],
                temperature=result["T"],
            )
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
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(
                similarity[i] / temperature
            )
        hits += max(votes, key=votes.get) == int(label)
    return 100 * hits / len(test)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_any_size_equal_the_loop(seed):
    g = torch.Generator().manual_seed(seed)
    train, test = (
        F.normalize(torch.randn(n, 6, generator=g, dtype=torch.float64), dim=1) for n in (57, 23)
    )
    labels, truth = (torch.randint(0, 4, (n,), generator=g) for n in (57, 23))
    want = loop_top1(train, labels, test, truth, 9, 0.07)
    lengths = torch.rand(57, 1, generator=g, dtype=torch.float64) + 0.5
    for chunk, block in ((1024, 4096), (5, 7), (1, 1), (23, 57)):
        got = knn_accuracy(train, labels, test, truth, ks=[9], chunk=chunk, block=block)[9]
        assert got.top1 == pytest.approx(want) and got.top5 is None
        args = (train * lengths, labels, 3 * test, truth)
        scaled = knn_accuracy(*args, ks=[9], chunk=chunk, block=block, scale=True)[9]
        assert scaled.top1 == pytest.approx(want)


@pytest.mark.parametrize("seed", range(4))
def test_every_score_equals_that_of_a_vote_image_by_image(seed):
    g = torch.Generator().manual_seed(100 + seed)
    train, test = (F.normalize(torch.randn(n, 5, generator=g).double(), dim=1) for n in (31, 17))
    # Classes of one side alone, and none at all of number 1: the largest number is now here, now
    # there.
    labels = torch.tensor([[0, 2, 3, 6], [0, 2, 3, 4]][seed % 2])
    truth = torch.tensor([[0, 3, 4, 5], [3, 6, 0, 4]][seed % 2])
    labels, truth = (
        some[torch.randint(0, 4, (n,), generator=g)] for some, n in ((labels, 31), (truth, 17))
    )
    for temperature in (0.07, 1.5):
        scores = knn_accuracy(
            train,
            labels,
            test,
            truth,
            ks=(3, 100, 12, 31),
            temperature=temperature,
            chunk=5,
            block=8,
        )
        assert list(scores) == [3, 31, 12]
        for k, score in scores.items():
            first, best_five, by_class = [], [], {}
            for query, label in zip(test, truth.tolist(), strict=True):
                near = sorted(((query @ row).item(), i) for i, row in enumerate(train))[::-1][:k]
                votes = [0.0] * 7
                for similarity, i in near:
                    votes[int(labels[i])] += math.exp(similarity / temperature)
                better = sum(vote > votes[label] for vote in votes)
                voted = votes[label] > 0
                first.append(voted and better == 0)
                # Among classes without a vote the order is not defined.
                best_five.append((voted and better < 5, voted or better < 5))
                by_class.setdefault(label, []).append(first[-1])
            assert score.hits.tolist() == first
            assert score.top1 == pytest.approx(100 * sum(first) / 17)
            low, high = (100 * sum(hit[i] for hit in best_five) / 17 for i in range(2))
            assert low - 1e-9 <= score.top5 <= high + 1e-9
            shares = [sum(hits) / len(hits) for hits in by_class.values()]
            assert score.balanced == pytest.approx(100 * sum(shares) / len(shares))


def test_near_neighbours_outvote_a_majority():
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    assert (
        knn_accuracy(train, labels, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), ks=[3])[3].top1
        == 100
    )


@pytest.mark.parametrize("temperature", [1e-4, 0.002, 0.005, 1e4])
def test_votes_neither_overflow_nor_vanish(temperature):
    """exp(1 / 0.005) is beyond float32; classes that lost stay before those without neighbours."""
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
    rows, labels = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    for train, test in ((rows, rows[:, :2]), (rows[0], rows), (rows, rows[0]), (rows[:0], rows)):
        with pytest.raises(ValueError, match="cannot be compared"):
            knn_accuracy(train, labels, test, labels)
    with pytest.raises(ValueError, match="cannot be compared"):
        knn_accuracy(rows, labels, rows[:0], labels)
    with pytest.raises(ValueError, match=r"4 features to train but labels of shape \(3,\)"):
        knn_accuracy(rows, labels[:3], rows, labels)
    with pytest.raises(ValueError, match=r"4 features to test but labels of shape \(3,\)"):
        knn_accuracy(rows, labels, rows, labels[:3])


def test_the_published_numbers_of_neighbours_are_the_default():
    assert PUBLISHED_KS == KnnSettings().k == (10, 20, 100, 200)
    rows, labels = F.normalize(torch.randn(300, 3), dim=1), torch.arange(300) % 3
    assert list(knn_accuracy(rows, labels, rows[:5], labels[:5])) == [10, 20, 100, 200]


def test_progress_counts_the_bank_once():
    told, rows = [], F.normalize(torch.randn(20, 3), dim=1)
    labels = torch.arange(20) % 3
    knn_accuracy(
        rows, labels, rows, labels, ks=(2,), block=8, progress=lambda *now: told.append(now)
    )
    assert told[-1] == (20, 20) and [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.fixture(scope="module")
def lengths():
    """Rows of three classes whose lengths say nothing, and labels: bank and queries."""
    g = torch.Generator().manual_seed(0)
    labels = [torch.arange(n) % 3 for n in (90, 60)]
    rows = [
        torch.eye(8)[label] + 0.35 * torch.randn(len(label), 8, generator=g) for label in labels
    ]
    rows = [part * torch.exp(2 * torch.randn(len(part), 1, generator=g)) for part in rows]
    return rows[0], labels[0], rows[1], labels[1]


def test_rows_are_scaled_unless_told_otherwise(lengths):
    train, labels, test, truth = lengths
    unit = [F.normalize(rows, dim=1) for rows in (train, test)]
    want = knn_accuracy(unit[0], labels, unit[1], truth, ks=[5], scale=False)[5]
    got = knn_accuracy(train, labels, test, truth, ks=[5])[5]
    assert got.top1 == want.top1 > 90 and torch.equal(got.hits, want.hits)
    assert knn_accuracy(train, labels, test, truth, ks=[5], scale=False)[5].top1 < 70


def test_features_arrays_and_lists_give_what_tensors_give(lengths):
    train, labels, test, truth = lengths
    want = knn_accuracy(*lengths, ks=[5])[5].top1
    bank, queries = (Features(x, None, y, []) for x, y in ((train, labels), (test, truth)))
    assert knn_accuracy(bank, test=queries, ks=5)[5].top1 == want
    assert knn_accuracy(bank, labels, queries, truth, ks=5)[5].top1 == want
    arrays = [part.numpy().copy() for part in lengths]
    arrays[0].flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert knn_accuracy(*arrays, ks=5)[5].top1 == want
    assert knn_accuracy(*(part.tolist() for part in lengths), ks=5)[5].top1 == want
    assert knn_accuracy(train, labels.int(), test, truth.tolist(), ks=5)[5].top1 == want


def test_what_is_missing_or_no_number_is_named(lengths):
    train, labels, test, truth = lengths
    bare = Features(train, None, None, [])
    nan = train.clone()
    nan[3, 1] = torch.nan
    cases = [
        (dict(train=bare, test=test, test_labels=truth), "no labels to train"),
        (dict(train=train, train_labels=labels), "no features to test"),
        (dict(train=bare, train_labels=bare), "no features to test"),
        (
            dict(train=train, train_labels=Features(test, None, truth, []), test=test),
            "test=queries",
        ),
        (
            dict(train=train, train_labels=labels[:5], test=test, test_labels=truth),
            r"90 features .* shape \(5,\)",
        ),
        (
            dict(train=train, train_labels=labels.float(), test=test, test_labels=truth),
            "whole numbers",
        ),
        (dict(train=train, train_labels=labels - 1, test=test, test_labels=truth), "whole numbers"),
        (dict(train=nan, train_labels=labels, test=test, test_labels=truth), "not finite"),
        (dict(train=train, train_labels=labels, test=test, test_labels=truth, ks=[0]), "positive"),
        (dict(train=train, train_labels=labels, test=test, test_labels=truth, ks=[]), "positive"),
        (
            dict(train=train, train_labels=labels, test=test, test_labels=truth, temperature=0),
            "positive",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            knn_accuracy(**arguments)


def test_the_protocol_records_every_k_of_unit_tokens(context):
    told = []
    context = replace(context, counter=lambda name: lambda *now: told.append((name, *now)))
    train, val = (
        context.features(images, name)[CLASS_TOKEN]
        for images, name in ((context.train, "train"), (context.val, "val"))
    )
    records = protocol.run(context, KnnSettings(k=(3, 40, 200), temperature=0.5))
    rows = (F.normalize(part.rows, dim=1) for part in (train, val))
    want = knn_accuracy(
        next(rows), train.labels, next(rows), val.labels, ks=(3, 40, 100), temperature=0.5
    )
    assert [record.settings["k"] for record in records] == [3, 40, 100]
    for record, score in zip(records, want.values(), strict=True):
        assert record.value == pytest.approx(score.top1) and record.metric == "knn_top1"
        assert record.extra["top5"] == pytest.approx(score.top5)
        assert record.extra["balanced"] == pytest.approx(score.balanced)
        assert record.settings["temperature"] == 0.5 and record.settings["feature"] == "n1m0"
        assert record.row == f"k = {record.settings['k']}" and record.extra["cached"]
        assert list(record.notes) == ["k is at most the 100 training images"]
        assert (record.num_train, record.num_val) == (100, 60)
    assert told[-1] == ("neighbours", 100, 100)
    assert protocol.run(context, KnnSettings(k=(100,)))[0].notes == ()
    for wrong in ({"k": ()}, {"k": (3, 0)}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            protocol.run(context, replace(KnnSettings(), **wrong))


def test_effective_rank_of_isotropic_and_flat_features():
    g = torch.Generator().manual_seed(0)
    assert effective_rank(torch.randn(4000, 10, generator=g)) == pytest.approx(10, abs=0.1)
    line = torch.randn(100, 1, generator=g) @ torch.randn(1, 10, generator=g)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(10, 4)) == 1.0
    features = torch.randn(30, 6, generator=g) * torch.arange(1, 7) + 5
    energy = np.linalg.svd((features - features.mean(0)).numpy(), compute_uv=False) ** 2
    share = energy / energy.sum()
    assert effective_rank(features) == pytest.approx(
        math.exp(-(share * np.log(share)).sum()), rel=1e-5
    )


def test_whitened_features_are_uncorrelated_with_variance_one():
    torch.manual_seed(0)
    train = torch.randn(500, 8) @ torch.randn(8, 8) + 3
    white, same = whiten(train, train[:10], 5)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(white.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(same, white[:10])
    # The five directions of largest variance: without them the rows have the three smallest.
    centred = (train - train.mean(0)).double()
    spread = torch.linalg.svdvals(centred).square()
    left = centred - white.double() @ torch.linalg.lstsq(white.double(), centred).solution
    assert left.square().sum().item() == pytest.approx(spread[5:].sum().item(), rel=1e-3)
