"""Which images meet in a micro-batch."""

from collections import Counter

import numpy as np
import pytest

from ibot.eval.dense.detection.order import GroupedOrder
from ibot.system.processes import Processes


def order(wide, micro_batch=4, parts=2, **more):
    about = {"seed": 0, "steps": 12}
    return GroupedOrder(
        wide=np.array(wide, bool), micro_batch=micro_batch, parts=parts, **{**about, **more}
    )


@pytest.mark.parametrize("seed", range(5))
def test_micro_batches_hold_one_group_and_all_images_of_it(seed):
    random = np.random.default_rng(seed)
    wide = random.random(int(random.integers(1, 40))) < random.random()
    micro_batch, parts = int(random.integers(1, 6)), int(random.integers(1, 4))
    made = order(wide, micro_batch, parts, seed=seed)
    for epoch in range(2):
        rows = made.epoch(epoch)
        assert rows.shape == (made.steps_per_epoch * parts, micro_batch)
        assert all(len(set(wide[row].tolist())) == 1 for row in rows)
        # By hand: whole micro-batches of each group, whole steps of all.
        needed = 0
        for group in (np.flatnonzero(wide), np.flatnonzero(~wide)):
            full = (len(group) + micro_batch - 1) // micro_batch
            needed += full
            seen = Counter(rows[np.isin(rows[:, 0], group)].ravel().tolist())
            assert set(seen) == set(group.tolist())
        assert made.steps_per_epoch == (needed + parts - 1) // parts


def test_images_are_repeated_only_to_fill_up():
    rows = order([True] * 7 + [False] * 6, micro_batch=3, parts=5).epoch(0)
    assert rows.shape == (5, 3)
    counts = Counter(rows.ravel().tolist())
    assert sorted(counts[i] for i in range(7)) == [1] * 5 + [2] * 2
    assert sorted(counts[i] for i in range(7, 13)) == [1] * 6


def test_epochs_and_seeds_have_orders_of_their_own():
    wide = [i % 3 == 0 for i in range(30)]
    first = order(wide).epoch(0)
    assert np.array_equal(first, order(wide).epoch(0))
    assert not np.array_equal(first, order(wide).epoch(1))
    assert not np.array_equal(first, order(wide, seed=1).epoch(0))
    groups = [wide[row[0]] for row in first]
    assert groups != sorted(groups) and groups != sorted(groups, reverse=True)


def test_two_processes_share_the_micro_batches_of_one():
    wide = [i % 3 == 0 for i in range(30)]
    alone = list(order(wide, parts=4))
    shared = [list(order(wide, parts=4, processes=Processes(rank=r, world_size=2))) for r in (0, 1)]
    assert [row for pair in zip(*shared, strict=True) for row in pair] == alone
    assert len(alone) == 4 * 12


def test_a_resumed_order_goes_on_where_it_was():
    wide = [i % 3 == 0 for i in range(30)]
    whole, rest = list(order(wide)), list(order(wide, start=7))
    assert whole[14:] == rest and whole[14][0][0] == 7


def test_views_of_a_step_have_places_of_their_own():
    for step in range(12):
        keys = list(order([True, False], micro_batch=2, parts=3, start=step, steps=step + 1))
        places = [place for row in keys for _, _, place in row]
        assert places == list(range(6)) and all(s == step for row in keys for s, _, _ in row)
