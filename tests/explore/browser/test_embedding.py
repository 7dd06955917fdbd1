"""Images in two dimensions."""

import os

import numpy as np
import pytest

from ibot.errors import ResourceError
from ibot.explore.browser.embedding import (
    EARLY,
    LATE,
    Embedding,
    embed,
    principal,
    unit,
    within_one,
)


@pytest.fixture
def rows():
    """Two groups of 20 rows in 16 dimensions."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(2, 16))
    return unit(np.repeat(centres, 20, axis=0) + 0.1 * random.normal(size=(40, 16)))


def test_principal_components_have_fixed_signs(rows):
    found = principal(rows)
    centred = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    for i in range(2):
        axis = axes[i] * np.sign(axes[i][np.abs(axes[i]).argmax()])
        assert found[:, i] == pytest.approx(centred @ axis, abs=1e-5)
    order = np.random.default_rng(1).permutation(40)
    assert principal(rows[order]) == pytest.approx(found[order], abs=1e-5)


def test_points_keep_their_shape_within_one():
    points = np.array([[0.0, 10], [4, 10], [2, 12]])
    assert within_one(points) == pytest.approx(np.array([[0, 0.25], [1, 0.25], [0.5, 0.75]]))
    assert within_one(np.ones((3, 2))) == pytest.approx(np.full((3, 2), 0.5))


def test_neighbours_stay_neighbours_and_the_map_is_the_same_again(rows, tmp_path):
    told = []
    found = Embedding()(rows, tmp_path / "maps" / "map.npy", lambda *done: told.append(done))
    assert told == sorted(told) and told[-1] == (EARLY + LATE, EARLY + LATE)
    assert np.array_equal(np.load(tmp_path / "maps" / "map.npy"), found)
    distance = np.linalg.norm(found[:, None] - found[None], axis=2) + 1e9 * np.eye(40)
    nearest = distance.argmin(axis=1)
    assert (nearest // 20 == np.arange(40) // 20).all()
    assert np.array_equal(embed(rows), found)


def test_a_process_that_fails_says_why(rows, tmp_path, monkeypatch):
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    (tmp_path / "openTSNE.py").write_text("raise RuntimeError('no such library')")
    with pytest.raises(ResourceError, match="could not be made") as failed:
        Embedding()(rows, tmp_path / "map.npy", lambda done, total: None)
    assert "no such library" in failed.value.why and not (tmp_path / "map.npy").exists()
