"""Which images meet in a batch, and who gets them."""

from collections import Counter

import numpy as np
import pytest

from ibot.eval.dense.detection.order import GroupedOrder
from ibot.system.processes import Processes


def order(wide, batch=8, parts=2, **more):
    about = {"seed": 0, "steps": 12}
    return GroupedOrder(wide=np.array(wide, bool), batch=batch, parts=parts, **{**about, **more})


@pytest.mark.parametrize("seed", range(5))
def test_batches_hold_one_group_and_all_images_of_it(seed):
    random = np.random.default_rng(seed)
    wide = random.random(int(random.integers(1, 40))) < random.random()
    batch = int(random.integers(1, 12))
    made = order(wide, batch, seed=seed)
    for epoch in range(2):
        rows = made.epoch(epoch)
        assert rows.shape == (made.steps_per_epoch, batch)
        assert all(len(set(wide[row].tolist())) == 1 for row in rows)
        # By hand: whole batches of each group.
        needed = 0
        for group in (np.flatnonzero(wide), np.flatnonzero(~wide)):
            needed += (len(group) + batch - 1) // batch
            seen = Counter(rows[np.isin(rows[:, 0], group)].ravel().tolist())
            assert set(seen) == set(group.tolist())
        assert made.steps_per_epoch == needed


def test_images_are_repeated_only_to_fill_up():
    rows = order([True] * 7 + [False] * 6, batch=3).epoch(0)
    assert rows.shape == (5, 3)
    counts = Counter(rows.ravel().tolist())
    assert sorted(counts[i] for i in range(7)) == [1] * 5 + [2] * 2
    assert sorted(counts[i] for i in range(7, 13)) == [1] * 6


def test_epochs_and_seeds_have_orders_of_their_own():
    wide = [i % 3 == 0 for i in range(30)]
    first = order(wide, batch=4).epoch(0)
    assert np.array_equal(first, order(wide, batch=4).epoch(0))
    assert not np.array_equal(first, order(wide, batch=4).epoch(1))
    assert not np.array_equal(first, order(wide, batch=4, seed=1).epoch(0))
    groups = [wide[row[0]] for row in first]
    assert groups != sorted(groups) and groups != sorted(groups, reverse=True)


@pytest.mark.parametrize(("world", "parts"), [(1, 2), (1, 8), (2, 2), (2, 4), (4, 4), (8, 8)])
def test_a_step_has_the_same_views_however_it_is_shared(world, parts):
    wide = [i % 3 == 0 for i in range(30)]
    whole = list(order(wide, parts=1))
    shared = [
        list(order(wide, parts=parts, processes=Processes(rank=rank, world_size=world)))
        for rank in range(world)
    ]
    assert len(whole) == 12
    for step, batch in enumerate(whole):
        assert [key[2] for key in batch] == list(range(8)) and batch[0][0] == step
        own = parts // world
        for part in range(parts):
            # As stochastic depth deals them: `set_part`.
            micro = shared[part % world][step * own + part // world]
            assert micro == batch[part::parts]


def test_a_resumed_order_goes_on_where_it_was():
    wide = [i % 3 == 0 for i in range(30)]
    whole, rest = list(order(wide)), list(order(wide, start=7))
    assert whole[14:] == rest and whole[14][0][0] == 7
