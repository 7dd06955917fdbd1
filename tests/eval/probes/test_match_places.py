"""Where patches lie in another view, against loops over pixels of the image."""

import itertools
import math

import numpy as np
import pytest
import torch

from ibot.eval.probes.match_places import (
    Cells,
    Placed,
    cells_apart,
    centres,
    chance,
    most_similar,
    places_in,
    published_overlap,
)

SHAPES = [
    ((4, 4), (32, 32), 8),
    ((3, 5), (24, 40), 8),
    ((2, 6), (20, 53), 8),
    ((2, 2), (40, 33), 32),
]


def random_views(count, seed):
    """Images and a box in each; every other view is flipped."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 90, (count, 2))
    extent = np.maximum(1, (sizes * random.uniform(0.4, 1, (count, 2))).astype(int))
    corner = (random.uniform(0, 1, (count, 2)) * (sizes - extent + 1)).astype(int)
    flip = torch.from_numpy(random.permutation(count) % 2 == 0)
    box = torch.from_numpy(np.concatenate([corner, extent], axis=1).astype(np.int32))
    return Placed(box, flip), torch.from_numpy(sizes)


def centre(box, flip, place, size, patch):
    """Of a patch, in pixels of the image."""
    top, left, height, width = box
    y = (place[0] + 0.5) * patch / size[0]
    x = (place[1] + 0.5) * patch / size[1]
    return top + y * height, left + (1 - x if flip else x) * width


def loop_over(grid):
    return list(itertools.product(range(grid[0]), range(grid[1])))


@pytest.mark.parametrize(("grid", "size", "patch"), SHAPES)
def test_centres_and_the_patches_that_hold_them_equal_a_loop(grid, size, patch):
    (first, _), (second, _) = random_views(20, 0), random_views(20, 1)
    cells = Cells.of(grid, size, patch)
    points = centres(first, cells)
    places, held = places_in(points, second, cells)
    seen = 0
    for image in range(20):
        box, flip = first.box[image].tolist(), bool(first.flip[image])
        other, flipped = second.box[image].tolist(), bool(second.flip[image])
        for number, place in enumerate(loop_over(grid)):
            y, x = centre(box, flip, place, size, patch)
            assert points[image, number].tolist() == pytest.approx([y, x])
            down = (y - other[0]) / other[2] * size[0] / patch
            across = (x - other[1]) / other[3]
            across = (1 - across if flipped else across) * size[1] / patch
            within = 0 <= down < grid[0] and 0 <= across < grid[1]
            within &= down * patch < size[0] and across * patch < size[1]
            assert bool(held[image, number]) == within
            if within:
                assert places[image, number].tolist() == [math.floor(down), math.floor(across)]
                seen += 1
    assert seen > 10


@pytest.mark.parametrize("flip", [False, True])
def test_a_view_holds_its_own_patches_at_their_places(flip):
    placed = Placed(torch.tensor([[3, 5, 31, 17]]), torch.tensor([flip]))
    cells = Cells.of((3, 5), (24, 40), 8)
    places, held = places_in(centres(placed, cells), placed, cells)
    assert held.all() and places[0].tolist() == [list(place) for place in loop_over((3, 5))]


def test_patches_beyond_a_view_lie_in_no_view():
    """A network that pads makes a grid of 2 x 2 of a view of 40 x 33 pixels and patches of 32."""
    placed = Placed(torch.tensor([[0, 0, 80, 66]]), torch.tensor([False]))
    cells = Cells.of((2, 2), (40, 33), 32)
    _, held = places_in(centres(placed, cells), placed, cells)
    assert held.tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(("grid", "size", "patch"), SHAPES)
def test_the_published_overlap_equals_a_loop(grid, size, patch):
    (first, sizes), (second, _) = random_views(20, 2), random_views(20, 3)
    cells = Cells.of(grid, size, patch)
    found = published_overlap(centres(first, cells), second, cells, sizes)
    for image in range(20):
        height, width = sizes[image].tolist()
        theirs = [
            centre(second.box[image].tolist(), bool(second.flip[image]), place, size, patch)
            for place in loop_over(grid)
        ]
        rows, columns = zip(*theirs, strict=True)
        for number, place in enumerate(loop_over(grid)):
            y, x = centre(first.box[image].tolist(), bool(first.flip[image]), place, size, patch)
            want = min(rows) - 8 / 224 * height <= y <= max(rows) + 8 / 224 * height
            want &= min(columns) - 8 / 224 * width <= x <= max(columns) + 8 / 224 * width
            assert bool(found[image, number]) == want


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_chance_is_the_share_of_patches_within_the_radius(radius):
    grid = (3, 5)
    true = torch.tensor(loop_over(grid))[None]
    got = chance(true, grid, radius)[0]
    for number, (row, column) in enumerate(loop_over(grid)):
        near = [max(abs(row - r), abs(column - c)) <= radius for r, c in loop_over(grid)]
        assert got[number].item() == pytest.approx(sum(near) / 15)
        found = torch.arange(15)[None]
        apart = cells_apart(found, torch.tensor([row, column]).expand(1, 15, 2), 5)[0]
        assert (apart <= radius).tolist() == near


def test_the_most_similar_patch_equals_a_loop():
    torch.manual_seed(0)
    first, second = torch.randn(3, 6, 4), torch.randn(3, 7, 4) * torch.arange(1, 8)[:, None]
    angles, products = most_similar(first, second), most_similar(first, second, cosine=False)
    for image in range(3):
        for row in range(6):
            dots = [float(first[image, row] @ other) for other in second[image]]
            lengths = [float(other.norm()) for other in second[image]]
            assert products[image, row] == np.argmax(dots)
            assert angles[image, row] == np.argmax(np.array(dots) / lengths)
    assert (angles != products).any()
