"""Groups without chains, and the thresholds that a set's own images give."""

from itertools import combinations

import pytest
import torch

from ibot.explore import linking
from ibot.explore.calibration import SAME, cosine_from, knows_again, same_from, upper_tail
from ibot.explore.linking import complete_groups, pairs_within
from ibot.explore.pairs import Pairs


def groups_of(table, least):
    """Groups of a symmetric table [n, n] of likeness."""
    first, second = torch.triu_indices(len(table), len(table), 1)
    value = table[first, second]
    near = value >= least

    def fits(one, other):
        return table[one, other] >= least

    return complete_groups(first[near], second[near], value[near], fits)


def test_a_chain_is_no_group():
    """Butterfly, helicopter, ketch: each a little like the next."""
    table = torch.eye(3)
    for (one, other), value in {(0, 1): 0.96, (1, 2): 0.97, (0, 2): 0.6}.items():
        table[one, other] = table[other, one] = value
    assert groups_of(table, 0.95) == [[1, 2]]
    table[0, 2] = table[2, 0] = 0.951
    assert groups_of(table, 0.95) == [[0, 1, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_complete_and_no_two_could_be_one(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(40, 2, generator=generator)
    table = 1 - torch.cdist(points, points)
    groups = groups_of(table, 0.8)
    assert groups and len({i for group in groups for i in group}) == sum(map(len, groups))
    for group in groups:
        assert all(table[pair] >= 0.8 for pair in combinations(group, 2))
    for one, other in combinations(groups, 2):
        assert (table[one][:, other] < 0.8).any()
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)


def test_hundreds_of_copies_of_one_image_are_one_group(monkeypatch):
    asked = []
    monkeypatch.setattr(linking, "MOST", 16)

    def fits(one, other):
        asked.append(len(one))
        return torch.ones(len(one), dtype=torch.bool)

    ring = torch.arange(300)
    groups = complete_groups(ring, (ring + 1) % 300, torch.ones(300), fits)
    assert groups == [list(range(300))] and max(asked) == 16
    assert len(pairs_within(groups[0])[0]) == 16


def of(cosine, agreement, count):
    """Pairs of random images with these likenesses."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.randint(count, (2, len(cosine)), generator=generator)
    return Pairs(ends.amin(0), ends.amax(0), cosine, agreement)


def test_the_tail_reaches_beyond_what_was_seen_as_the_distribution_does():
    generator = torch.Generator().manual_seed(0)
    depth = -torch.log(torch.rand(200000, generator=generator, dtype=torch.float64))
    cosine = 1 - torch.exp(-depth / 2)  # exponential in -log(1 - cosine)
    for share in (0.05, 1 / 200, 1 / 2000):
        exceeded = (cosine > upper_tail(cosine[:5000], share)).double().mean().item()
        assert share / 2.5 < exceeded < 2.5 * share


def test_a_network_that_finds_all_alike_gets_a_higher_threshold_than_one_that_does_not():
    generator = torch.Generator().manual_seed(0)
    agreement = 0.75 + 0.1 * torch.rand(1000, generator=generator)
    weak, good = (1 - scale * torch.rand(1000, generator=generator) for scale in (0.1, 0.9))
    found = [cosine_from(of(cosine, agreement, 500)) for cosine in (weak, good)]
    assert found[0] > 0.99 and found[1] < found[0]
    assert cosine_from(of(weak[:20], agreement[:20], 500)) is None, "too few to tell"


def test_images_that_agree_without_being_copies_raise_the_agreement_of_copies():
    """Radiographs: all agree. Single copies of photographs do not count, nor files stored anew."""
    count, generator = 200, torch.Generator().manual_seed(0)
    first, second = torch.triu_indices(count, count, 1)
    cosine = torch.zeros(len(first))
    alike = 0.93 + 0.05 * torch.rand(len(first), generator=generator)
    assert same_from(Pairs(first, second, cosine, alike), count) > 0.97
    apart = alike - 0.3
    apart[:50] = 0.99
    apart[50:3000] = 0.9999
    assert same_from(Pairs(first, second, cosine, apart), count) == SAME


def test_a_network_is_judged_by_what_pictures_leave_open():
    agreement = torch.tensor([0.99, 0.99, 0.99, 0.9, 0.9, 0.5, 0.5, 0.5])
    assert not knows_again(torch.tensor([1, 1, 1, 0, 0, 1, 1, 1]).bool(), agreement, SAME)
    assert knows_again(torch.tensor([0, 0, 0, 1, 0, 0, 0, 0]).bool(), agreement, SAME)
    assert not knows_again(torch.ones(3).bool(), agreement[:3], SAME)
