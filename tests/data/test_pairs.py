"""Pairs of patches across views against distances between all centres, by loops."""

import numpy as np
import pytest

from ibot.config.override import apply
from ibot.data.pairs import make_pairs
from ibot.data.params import view_params
from ibot.recipes import recipe


@pytest.fixture(params=["as published", "flipped and turned"])
def case(request):
    """Parameters of eight images, and the grid of their views."""
    moves = [] if request.param == "as published" else ["vertical_flip=0.5", "turn=0.75"]
    settings = ["augment.global_scale=0.1,0.6", *(f"augment.{move}" for move in moves)]
    config = apply(recipe("tiny32"), settings).augment
    sizes = np.array(
        [(90, 120), (64, 64), (200, 130), (50, 51), (77, 33), (120, 90), (64, 80), (91, 92)]
    )
    return view_params(config, 3, 1, np.arange(8), sizes), (4, 4) if moves else (3, 5)


def centres(params, grid, image, view):
    """(y, x) of every patch of a view in the image: a picture of the places inside of the box is
    flipped and turned as the view is.
    """
    top, left, height, width = (float(value) for value in params.box[image, view])
    y = top + height * (np.arange(grid[0]) + 0.5) / grid[0]
    x = left + width * (np.arange(grid[1]) + 0.5) / grid[1]
    places = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    places = places[:, ::-1] if params.flip[image, view] else places
    places = places[::-1] if params.vertical_flip[image, view] else places
    return np.rot90(places, params.turn[image, view]).reshape(-1, 2).tolist()


def test_partners_by_position_are_nearest_in_the_image_and_within_the_overlap(case):
    params, grid = case
    masks = make_pairs("position", params, grid)
    partner = dict(zip(masks.index.tolist(), masks.target.tolist(), strict=True))
    cells, seen, moves = grid[0] * grid[1], 0, set()
    for view in range(2):
        for image in range(8):
            own, other = (centres(params, grid, image, which) for which in (view, 1 - view))
            top, left, height, width = (float(value) for value in params.box[image, 1 - view])
            used = []
            for place, (y, x) in enumerate(own):
                flat = (view * 8 + image) * cells + place
                inside = top <= y < top + height and left <= x < left + width
                assert (flat in partner) == inside
                if inside:
                    used.append(flat)
                    chosen = partner[flat] - ((1 - view) * 8 + image) * cells
                    # A rescaled axis keeps the order of distances along itself, not across axes:
                    # compare each axis.
                    assert abs(other[chosen][0] - y) <= min(abs(b - y) for b, _ in other) + 1e-9
                    assert abs(other[chosen][1] - x) <= min(abs(b - x) for _, b in other) + 1e-9
            weights = [
                w
                for i, w in zip(masks.index.tolist(), masks.weight.tolist(), strict=True)
                if i in used
            ]
            assert sum(weights) == pytest.approx(1 if used else 0)
            seen = seen + len(used)
            moved = params.flip, params.vertical_flip, params.turn
            moves.add(tuple(part[image, view].item() for part in moved))
    assert 0 < seen < 2 * 8 * cells and len(moves) > 1 and not masks.map.any()


def test_by_feature_every_patch_takes_part(case):
    params, grid = case
    cells = grid[0] * grid[1]
    masks = make_pairs("feature", params, grid)
    assert (
        masks.index.tolist() == list(range(2 * 8 * cells))
        and masks.target is None
        and not masks.map.any()
    )
    assert masks.weight.unique().tolist() == pytest.approx([1 / cells])
