import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from ibot.config.schema import MaskConfig
from ibot.data.masks import make_masks, mask_ratios, masks_from_map
from ibot.rng import Purpose, uniform, words

TARGETS = {
    "A": MaskConfig(ratio=((0.0, 0.0), (0.3, 0.2))),
    "B": MaskConfig(ratio=((0.3, 0.0),)),
    "C": MaskConfig(ratio=((0.3, 0.2),)),
    "D": MaskConfig(ratio=((0.65, 0.05),), shape="random"),
    "E": MaskConfig(ratio=((0.0, 0.0), (0.7, 0.05)), shape="random"),
    "F": MaskConfig(ratio=((0.75, 0.0),), shape="random"),
}
# Measured on 10,000 masks of the published generator (specification, table 2.3.4): mean, std, share
# of empty masks.
TABLE = {
    ("A", 4): (0.1320, 0.1568, 0.5057),
    ("A", 6): (0.1395, 0.1636, 0.5070),
    ("A", 7): (0.1437, 0.1656, 0.4998),
    ("A", 8): (0.1467, 0.1680, 0.4997),
    ("A", 12): (0.1462, 0.1680, 0.4992),
    ("A", 14): (0.1497, 0.1690, 0.4908),
    ("A", 16): (0.1466, 0.1676, 0.4968),
    ("A", 32): (0.1483, 0.1695, 0.4978),
    ("B", 4): (0.2499, 0.0020, 0.0),
    ("B", 6): (0.2757, 0.0076, 0.0),
    ("B", 7): (0.2843, 0.0056, 0.0),
    ("B", 8): (0.2958, 0.0040, 0.0),
    ("B", 12): (0.2940, 0.0076, 0.0),
    ("B", 14): (0.2921, 0.0062, 0.0),
    ("B", 16): (0.2922, 0.0070, 0.0),
    ("B", 32): (0.2950, 0.0061, 0.0),
    ("C", 4): (0.2684, 0.1164, 0.0),
    ("C", 6): (0.2849, 0.1160, 0.0001),
    ("C", 7): (0.2875, 0.1156, 0.0),
    ("C", 8): (0.2898, 0.1156, 0.0),
    ("C", 12): (0.2906, 0.1174, 0.0003),
    ("C", 14): (0.2945, 0.1172, 0.0),
    ("C", 16): (0.2919, 0.1180, 0.0),
    ("C", 32): (0.2949, 0.1184, 0.0),
    ("D", 4): (0.6171, 0.0371, 0.0),
    ("D", 6): (0.6358, 0.0304, 0.0),
    ("D", 7): (0.6398, 0.0298, 0.0),
    ("D", 8): (0.6421, 0.0292, 0.0),
    ("D", 12): (0.6465, 0.0289, 0.0),
    ("D", 14): (0.6475, 0.0288, 0.0),
    ("D", 16): (0.6481, 0.0288, 0.0),
    ("D", 32): (0.6496, 0.0288, 0.0),
    ("E", 4): (0.3279, 0.3324, 0.5057),
    ("E", 6): (0.3386, 0.3431, 0.5057),
    ("E", 7): (0.3410, 0.3455, 0.5057),
    ("E", 8): (0.3419, 0.3464, 0.5057),
    ("E", 12): (0.3442, 0.3487, 0.5057),
    ("E", 14): (0.3446, 0.3492, 0.5057),
    ("E", 16): (0.3449, 0.3495, 0.5057),
    ("E", 32): (0.3457, 0.3502, 0.5057),
    ("F", 4): (0.75, 0.0, 0.0),
    ("F", 6): (0.75, 0.0, 0.0),
    ("F", 7): (0.7347, 0.0, 0.0),
    ("F", 8): (0.75, 0.0, 0.0),
    ("F", 12): (0.75, 0.0, 0.0),
    ("F", 14): (0.75, 0.0, 0.0),
    ("F", 16): (0.75, 0.0, 0.0),
    ("F", 32): (0.75, 0.0, 0.0),
}


@pytest.mark.parametrize(("target", "side"), TABLE)
def test_mask_statistics_equal_the_published_generators(target, side):
    mean, std, empty = TABLE[target, side]
    count = 3000
    maps = make_masks(TARGETS[target], (side, side), 2, 0, 0, np.arange(count // 2)).map.flatten(
        0, 1
    )
    ratio = maps.float().mean(-1)
    # Four standard errors of both samples, the other one of 10,000 masks.
    error = 4 * (1 / count + 1 / 10000) ** 0.5
    assert ratio.mean().item() == pytest.approx(mean, abs=error * max(std, 0.002) + 1e-4)
    assert ratio.std().item() == pytest.approx(std, abs=error * max(std, 0.002) + 1e-3)
    assert (ratio == 0).float().mean().item() == pytest.approx(
        empty, abs=error * 0.5 + 1e-3 if empty else 3e-3
    )


def published_block_mask(height, width, ratio):
    """The specification's section 2.3.2 cell by cell, on Python's generator."""
    mask = [[False] * width for _ in range(height)]
    target, count, low = ratio * height * width, 0, (min(height, width) // 3) ** 2
    while count < target:
        room, added = target - count, 0
        for _ in range(10):
            area = random.uniform(low, room)
            aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
            bh, bw = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if bw < width and bh < height:
                top, left = random.randint(0, height - bh), random.randint(0, width - bw)
                cells = [
                    (i, j)
                    for i in range(top, top + bh)
                    for j in range(left, left + bw)
                    if not mask[i][j]
                ]
                if 0 < len(cells) <= room:
                    for i, j in cells:
                        mask[i][j] = True
                    added = len(cells)
            if added:
                break
        if not added:
            break
        count += added
    return np.array(mask)


def published_ratio(pairs):
    drawn = [
        random.uniform(mean - spread, mean + spread) if spread > 0 else mean
        for mean, spread in pairs
    ]
    return random.choice(drawn)


def test_the_reference_in_this_file_gives_the_published_counts():
    want = {
        0: "85 82 0 0 0 0 0 33 0 75 30 85",
        1: "0 39 0 79 82 84 44 0 0 73 0 58",
        2: "0 26 58 0 0 60 47 0 75 0 23 36",
    }
    for seed, counts in want.items():
        random.seed(seed)
        got = [
            int(published_block_mask(14, 14, published_ratio(TARGETS["A"].ratio)).sum())
            for _ in range(12)
        ]
        assert got == [int(c) for c in counts.split()]


@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (14, 7)])
def test_block_masks_have_the_distribution_of_the_reference(grid):
    random.seed(5)
    count = 1500
    theirs = np.stack(
        [published_block_mask(*grid, published_ratio(TARGETS["C"].ratio)) for _ in range(count)]
    )
    ours = (
        make_masks(TARGETS["C"], grid, 1, 7, 0, np.arange(count))
        .map[0]
        .numpy()
        .reshape(count, *grid)
    )
    for statistic in (
        lambda m: m.mean((1, 2)),  # ratio
        lambda m: m.any(2).sum(1) / m.shape[1],  # rows touched
        lambda m: (m[:, 1:] != m[:, :-1]).mean((1, 2)),  # edges
        lambda m: m[:, 0, 0].astype(float),  # a corner
        lambda m: m[:, grid[0] // 2, grid[1] // 2].astype(float),  # the middle
    ):
        a, b = statistic(ours), statistic(theirs)
        assert a.mean() == pytest.approx(
            b.mean(), abs=4.5 * ((a.var() + b.var()) / count) ** 0.5 + 1e-6
        )


def plain_block_mask(config, grid, target, seed, epoch, image, view):
    """Section 2.3.2 by cells, on the stream of one mask: 64 numbers, then those of later views."""
    height, width = grid
    numbers = (
        float(number)
        for fetched in range(64)
        for number in uniform(seed, epoch, image, view + 256 * fetched, Purpose.MASK_BLOCK, 64)
    )
    hidden, failures, low = set(), 0, (min(grid) // 3) ** 2
    while target - len(hidden) >= 1 and failures < 10:
        area, aspect, down, right = (next(numbers) for _ in range(4))
        area = low + (target - len(hidden) - low) * area
        aspect = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect)
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        longest = (height, width) if config.full_width else (height - 1, width - 1)
        cells = set()
        if rows <= longest[0] and columns <= longest[1]:
            top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
            cells = {(top + i, left + j) for i in range(rows) for j in range(columns)} - hidden
        fits = 0 < len(cells) <= target - len(hidden)
        hidden, failures = (hidden | cells, 0) if fits else (hidden, failures + 1)
    return [(i, j) in hidden for i in range(height) for j in range(width)]


def plain_random_mask(grid, target, seed, epoch, image, view):
    """Section 2.3.3: the cells with the smallest words, 256 words from each view of the stream."""
    cells = grid[0] * grid[1]
    drawn = (words(seed, epoch, image, view + 256 * i, Purpose.MASK_RANDOM, 256) for i in range(3))
    keyed = np.concatenate(list(drawn))[:cells].tolist()
    smallest = sorted(keyed)[: int(target)]
    return [key in smallest for key in keyed]


@pytest.mark.parametrize("shape", ["block", "random"])
@pytest.mark.parametrize(
    ("grid", "ratio_per"),
    [
        ((14, 14), "view"),
        ((3, 8), "image"),
        ((9, 4), "view"),
        ((17, 19), "image"),
        ((2, 7), "view"),
    ],
    ids=str,
)
def test_masks_equal_those_made_cell_by_cell_from_the_same_numbers(shape, grid, ratio_per):
    ratio = ((0.2, 0.15), (0.55, 0.1), (0.9, 0.1))
    index = np.array([5, 0, 12, 2**33 + 3, 40])
    seed, epoch, cells = 11, 3, grid[0] * grid[1]
    for full_width, first, which in ((False, 0, "global"), (True, 0, "first"), (False, 2, "all")):
        config = MaskConfig(
            ratio=ratio, shape=shape, ratio_per=ratio_per, full_width=full_width, views=which
        )
        got = make_masks(config, grid, 3, seed, epoch, index, first_view=first)
        want = torch.zeros(3, len(index), cells, dtype=torch.bool)
        for place, i in np.ndindex(3, len(index)):
            image, view = int(index[i]), first + place
            of = view if ratio_per == "view" else 0
            pair, within = uniform(seed, epoch, image, of, Purpose.MASK_RATIO, 2)
            mean, half_width = ratio[int(3 * pair)]
            share = mean - half_width + 2 * half_width * within
            key = (share * cells, seed, epoch, image, view)
            if which == "first" and view > 0:
                continue
            if shape == "random":
                want[place, i] = torch.tensor(plain_random_mask(grid, *key))
            else:
                want[place, i] = torch.tensor(plain_block_mask(config, grid, *key))
        assert torch.equal(got.map, want)
        places = [i for i, hidden in enumerate(want.flatten().tolist()) if hidden]
        assert got.index.tolist() == places and got.target is None
        per_view = want.flatten(0, 1).sum(1).tolist()
        assert got.weight.tolist() == pytest.approx([1 / per_view[i // cells] for i in places])


def test_no_single_block_spans_the_grid_unless_asked():
    narrow = MaskConfig(ratio=((0.5, 0.0),))
    tiny = make_masks(narrow, (2, 2), 1, 0, 0, np.arange(300)).map
    assert (
        tiny.sum(-1).max() <= 2 and not make_masks(narrow, (1, 1), 1, 0, 0, np.arange(50)).map.any()
    )
    wide = MaskConfig(ratio=((1.0, 0.0),), full_width=True)
    assert make_masks(wide, (4, 4), 1, 0, 0, np.arange(300)).map.all(-1).any()


def test_masks_do_not_depend_on_the_rest_of_the_batch():
    for config in (TARGETS["A"], TARGETS["E"]):
        whole = make_masks(config, (14, 14), 2, 3, 5, np.arange(40)).map
        some = make_masks(config, (14, 14), 2, 3, 5, np.array([31, 4])).map
        assert torch.equal(some, whole[:, [31, 4]])
        assert not torch.equal(whole, make_masks(config, (14, 14), 2, 3, 6, np.arange(40)).map)


def test_views_draw_their_ratios_apart_or_together():
    index = np.arange(4000)
    apart = mask_ratios(TARGETS["A"], 2, 0, 0, index) > 0
    both = apart.sum(0)
    assert [(both == n).mean() for n in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    together = mask_ratios(MaskConfig(ratio_per="image"), 2, 0, 0, index)
    np.testing.assert_array_equal(together[0], together[1])


def test_the_first_view_alone_may_be_masked():
    index = np.arange(50)
    whole = make_masks(MaskConfig(ratio=((0.3, 0.0),)), (14, 14), 2, 0, 0, index).map
    first = make_masks(MaskConfig(ratio=((0.3, 0.0),), views="first"), (14, 14), 2, 0, 0, index).map
    assert torch.equal(first[0], whole[0]) and not first[1].any() and whole[1].any()


@pytest.mark.parametrize("shape", ["block", "random"])
def test_masks_of_local_views_are_those_of_further_views(shape):
    config, index = MaskConfig(ratio=((0.3, 0.2),), shape=shape, views="all"), np.arange(30)
    together = make_masks(config, (6, 6), 5, 0, 0, index).map
    assert torch.equal(make_masks(config, (6, 6), 3, 0, 0, index, first_view=2).map, together[2:])
    image = replace(config, ratio_per="image")
    both = [mask_ratios(image, n, 0, 0, index, first)[0] for n, first in ((2, 0), (3, 2))]
    np.testing.assert_array_equal(*both)


def test_the_least_area_of_a_block_can_be_chosen():
    grid, index = (14, 12), np.arange(60)

    def maps(**settings):
        made = make_masks(MaskConfig(ratio=((0.3, 0.0),), **settings), grid, 2, 0, 0, index)
        return made.map.unflatten(-1, grid)

    def edges(hidden):  # between hidden and visible cells: many small blocks have more
        return sum((hidden.diff(dim=dim) != 0).sum().item() for dim in (-1, -2))

    assert torch.equal(maps(), maps(min_block=16)), "as published: (12 // 3) ** 2"
    assert edges(maps(min_block=1)) > 1.2 * edges(maps()) > 1.2 * 1.2 * edges(maps(min_block=50))
    assert maps(min_block=50).flatten(2).sum(-1).max() <= 0.3 * 14 * 12


def test_masks_can_be_emptied():
    masks = make_masks(MaskConfig(ratio=((0.3, 0.0),)), (14, 9), 2, 0, 2, np.arange(8))
    early = masks.emptied()
    assert early.map.shape == (2, 8, 126) and early.num_views == masks.num_views
    assert not early.map.any() and not len(early.index) and not len(early.weight)
    assert masks.map.any(-1).all()


def test_weights_of_a_view_sum_to_one():
    maps = torch.tensor(
        [[[True, False, True], [False, False, False]], [[False, True, False], [True, True, True]]]
    )
    masks = masks_from_map(maps)
    assert masks.index.tolist() == [0, 2, 7, 9, 10, 11]
    assert masks.weight.tolist() == pytest.approx([0.5, 0.5, 1.0, 1 / 3, 1 / 3, 1 / 3])
    assert masks.num_views == 4
