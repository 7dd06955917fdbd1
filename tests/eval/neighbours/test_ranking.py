"""Scores of rankings: the printed values, and slow loops written here."""

import numpy as np
import pytest
import torch

from ibot.eval.neighbours import ranking as module
from ibot.eval.neighbours.ranking import (
    average_precision,
    first_answers,
    precision_at,
    rankings,
    recall_at,
    similarities,
    without_junk,
)
from ibot.system.processes import Processes

CPU = torch.device("cpu")


def test_the_printed_ranking_has_its_printed_scores():
    order, right, junk = [3, 0, 4, 1, 2, 5], [0, 1, 5], [3, 2]
    rank = np.argsort(order)
    ranks = without_junk(rank[right], rank[junk])
    assert ranks.tolist() == [0, 2, 3]
    assert average_precision(ranks, 3) == pytest.approx(0.763889, abs=5e-7)
    assert [precision_at(ranks, k) for k in (1, 2, 5, 10)] == [1.0, 0.5, 0.75, 0.75]


@pytest.mark.parametrize(
    ("ranks", "num_right", "want"),
    [
        ([0, 1, 2], 3, 1.0),
        ([1, 3], 3, 0.2222),
        ([4], 3, 0.03333),
        ([0], 1, 1.0),
        ([1], 1, 0.25),
        ([4], 1, 0.1),
        ([0, 3], 2, 0.708333),
        ([], 1, 0.0),
    ],
)
def test_average_precision_is_the_printed_one(ranks, num_right, want):
    found = average_precision(np.array(ranks, np.int64), num_right)
    assert found == pytest.approx(want, abs=5e-5 if want == 0.2222 else 5e-6)


def looped(order, right, junk, ks):
    """The published procedure, image by image."""
    ranks = [order.index(image) for image in order if image in right]
    ranks = [rank - sum(order.index(other) < rank for other in junk) for rank in ranks]
    area = 0.0
    for j, rank in enumerate(ranks):
        before = 1.0 if rank == 0 else j / rank
        area += (before + (j + 1) / (rank + 1)) / 2 / len(right)
    precision = []
    for k in ks:
        depth = min(max(rank + 1 for rank in ranks), k)
        precision.append(sum(rank + 1 <= depth for rank in ranks) / depth)
    hits = [any(rank < k for rank in ranks) for k in ks]
    return area, precision, hits


def test_scores_of_random_rankings_are_those_of_loops():
    random = np.random.default_rng(0)
    for _ in range(200):
        order = random.permutation(30)
        chosen = random.permutation(30)[: random.integers(2, 20)]
        cut = random.integers(1, len(chosen))
        right, junk = chosen[:cut], chosen[cut:]
        rank, ks = np.argsort(order), (1, 3, 10, 40)
        ranks = without_junk(rank[right], rank[junk])
        area, precision, hits = looped(order.tolist(), set(right.tolist()), junk.tolist(), ks)
        assert average_precision(ranks, len(right)) == pytest.approx(area, abs=1e-12)
        assert [precision_at(ranks, k) for k in ks] == pytest.approx(precision)
        assert [recall_at(ranks, k) for k in ks] == hits


@pytest.fixture
def features():
    random = np.random.default_rng(1)
    bank = torch.from_numpy(random.normal(size=(70, 8)).astype(np.float32))
    queries = torch.from_numpy(random.normal(size=(23, 8)).astype(np.float32))
    return queries, bank


def plainly(queries, bank):
    unit = [rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (queries, bank)]
    return (unit[0] @ unit[1].T).numpy()


def test_a_bank_in_parts_is_ranked_as_by_a_plain_product(features, monkeypatch):
    monkeypatch.setattr(module, "MOST_SIMILARITIES", 350)
    monkeypatch.setattr(module, "BLOCK", 16)
    queries, bank = features
    got = dict(rankings(queries, [bank[:40], bank[40:]], device=CPU))
    assert sorted(got) == list(range(23))
    cosines = plainly(queries, bank)
    for i, order in got.items():
        assert sorted(order.tolist()) == list(range(70))
        falling = cosines[i][order]
        assert (np.diff(falling) < 1e-6).all()


def test_equal_ones_keep_their_order():
    # Of length 1 and along an axis: products of other equal rows may differ in their last bit.
    bank = torch.eye(8)[:1].repeat(70, 1)
    bank[40:] *= -1
    ((_, order),) = rankings(torch.eye(8)[:1], [bank[:30], bank[30:]], device=CPU)
    assert order.tolist() == list(range(70))


def test_no_more_is_compared_at_a_time_than_is_allowed(features, monkeypatch):
    queries, bank = features
    shapes, plain = [], module.similarities

    def noted(queries, bank):
        shapes.append(tuple((found := plain(queries, bank)).shape))
        return found

    monkeypatch.setattr(module, "similarities", noted)
    for most, rows in ((5 * 70 + 1, 5), (3, 1)):
        monkeypatch.setattr(module, "MOST_SIMILARITIES", most)
        shapes.clear()
        assert len(list(rankings(queries, [bank], device=CPU))) == 23
        assert set(shapes) == {(rows, 70), (23 % rows or rows, 70)}


def test_processes_share_the_queries_and_find_the_same(features, monkeypatch):
    monkeypatch.setattr(module, "MOST_SIMILARITIES", 5 * 70)
    queries, bank = features
    alone = dict(rankings(queries, [bank], device=CPU))
    shares = [
        dict(rankings(queries, [bank], device=CPU, processes=Processes(rank=r, world_size=2)))
        for r in range(2)
    ]
    assert [len(share) for share in shares] == [13, 10]
    for i, order in (shares[0] | shares[1]).items():
        assert order.tolist() == alone[i].tolist()


def test_first_answers_are_where_rankings_begin(features):
    queries, bank = features
    first = first_answers(queries, [bank[:30], bank[30:]], 12, CPU)
    cosines = plainly(queries, bank)
    for i, order in rankings(queries, [bank], device=CPU):
        np.testing.assert_allclose(cosines[i][first[i]], cosines[i][order[:12]], atol=1e-6)
    assert first_answers(queries, [bank[:3], bank[3:7]], 12, CPU).shape == (23, 7)
    assert similarities(queries[:0], [bank]).shape == (0, 70)
