"""Pairs of patches across views against distances between all centres, by loops."""

import numpy as np
import pytest

from ibot.config.override import apply
from ibot.data.pairs import make_pairs
from ibot.data.params import view_params
from ibot.recipes import recipe

GRID = (3, 5)


@pytest.fixture
def params():
    config = apply(recipe("tiny32"), ["augment.global_scale=0.1,0.6"]).augment
    sizes = np.array(
        [(90, 120), (64, 64), (200, 130), (50, 51), (77, 33), (120, 90), (64, 80), (91, 92)]
    )
    return view_params(config, 3, 1, np.arange(8), sizes)


def centres(params, image, view):
    """(y, x) of every patch of a view in the image, by the definition of a flipped and resized
    crop.
    """
    top, left, height, width = (float(value) for value in params.box[image, view])
    points = []
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            seen = GRID[1] - 1 - column if params.flip[image, view] else column
            points.append(
                (top + height * (row + 0.5) / GRID[0], left + width * (seen + 0.5) / GRID[1])
            )
    return points


def test_partners_by_position_are_nearest_in_the_image_and_within_the_overlap(params):
    masks = make_pairs("position", params, GRID)
    partner = dict(zip(masks.index.tolist(), masks.target.tolist(), strict=True))
    cells, seen, flips = GRID[0] * GRID[1], 0, set()
    for view in range(2):
        for image in range(8):
            own, other = centres(params, image, view), centres(params, image, 1 - view)
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
            seen, flips = seen + len(used), flips | {tuple(params.flip[image, :2].tolist())}
    assert 0 < seen < 2 * 8 * cells and len(flips) > 1 and not masks.map.any()


def test_by_feature_every_patch_takes_part(params):
    masks = make_pairs("feature", params, GRID)
    assert (
        masks.index.tolist() == list(range(2 * 8 * 15))
        and masks.target is None
        and not masks.map.any()
    )
    assert masks.weight.unique().tolist() == pytest.approx([1 / 15])
