"""J, F and what is reported of them, against printed values, slow loops and the original code."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ibot.eval.dense.video.scores import (
    ObjectScore,
    Series,
    boundary,
    boundary_accuracy,
    dilated,
    quarters,
    region_similarity,
    summary,
)


def rectangle(top, bottom, left, right):
    """Rows and columns from ... to, the last ones included, of 120 x 160 pixels."""
    mask = np.zeros((120, 160), bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def test_the_printed_values_of_two_rectangles():
    truth = rectangle(30, 79, 40, 99)
    grown, shifted = rectangle(33, 84, 44, 103), rectangle(31, 80, 41, 100)
    assert region_similarity(grown, truth) == pytest.approx(0.754587, abs=5e-7)
    assert boundary_accuracy(grown, truth) == pytest.approx(0.045045, abs=5e-7)
    assert region_similarity(shifted, truth) == pytest.approx(0.929881, abs=5e-7)
    assert boundary_accuracy(shifted, truth) == 1.0


def test_the_printed_series_and_bins():
    found = Series.of(np.linspace(0.9, 0.3, 12))
    assert found.mean == pytest.approx(0.6) and found.recall == pytest.approx(2 / 3)
    assert found.decay == pytest.approx(0.43636, abs=5e-6)
    assert quarters(67) == [(0, 18), (17, 34), (33, 51), (50, 67)]
    assert quarters(10) == [(0, 3), (2, 6), (5, 8), (7, 10)]
    assert quarters(1) == 4 * [(0, 1)] and Series.of([0.4]) == Series(0.4, 0.0, 0.0)


def test_bins_do_not_wrap_where_bytes_would():
    edges = [start for start, _ in quarters(1001)] + [quarters(1001)[-1][1] - 1]
    assert edges == [0, 250, 500, 750, 1000]


def test_the_boundary_equals_loops_over_pixels():
    mask = np.random.default_rng(0).random((9, 13)) > 0.6
    want = np.zeros_like(mask)
    for y in range(9):
        for x in range(13):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside = [mask[v, u] for v, u in others if v < 9 and u < 13]
            want[y, x] = any(value != mask[y, x] for value in inside)
    assert np.array_equal(boundary(mask), want) and not boundary(mask)[-1, -1]


@pytest.mark.parametrize("radius", [1, 3, 8])
def test_dilation_equals_a_disk_around_each_pixel(radius):
    mask = np.random.default_rng(radius).random((20, 31)) > 0.98
    y, x = np.ogrid[:20, :31]
    want = np.zeros_like(mask)
    for v, u in np.argwhere(mask):
        want |= (y - v) ** 2 + (x - u) ** 2 <= radius**2
    assert np.array_equal(dilated(mask, radius), want)


def test_empty_masks_are_right_only_where_nothing_is():
    nothing, something = np.zeros((20, 20), bool), np.eye(20, dtype=bool)
    for score in (region_similarity, boundary_accuracy):
        assert score(nothing, nothing) == 1
        assert score(nothing, something) == score(something, nothing) == 0


def test_the_table_holds_a_value_for_each_object():
    good, poor = ObjectScore([1.0, 0.8], [0.6, 0.6]), ObjectScore([0.2, 0.2], [0.4, 0.4])
    found = summary({"a/1": good, "a/2": poor})
    assert found["video_jf"] == pytest.approx([0.75, 0.3])
    assert found["video_j_recall"] == [1.0, 0.0] and found["video_f_recall"] == [1.0, 0.0]
    assert list(found)[1:4] == ["video_j_mean", "video_j_recall", "video_j_decay"]


@pytest.fixture(scope="module")
def davis(shared_data):
    """Reads an image of the archive by its name."""
    with tarfile.open(shared_data / "davis2016_subset" / "davis2016_subset.tar") as archive:

        def read(name):
            return np.asarray(Image.open(io.BytesIO(archive.extractfile(name).read())))

        yield read


@pytest.mark.parametrize("name", ["dog", "horsejump-high", "1", "2"])
def test_real_predictions_score_as_by_the_original_code(shared_data, davis, name):
    file = shared_data / "davis2016_subset" / "reference_scores.json"
    video = "horsejump-high" if name.isdigit() else name
    key = f"{video} object {name} (derived masks)" if name.isdigit() else name
    want = json.loads(file.read_text())["sequences"][key]
    part = "Annotations_two_objects_derived" if name.isdigit() else "Annotations"
    region, edges = [], []
    for i in range(len(want["J_frames"])):
        found = davis(f"reference_predictions/osvos/{video}/{i:05d}.png")
        truth = davis(f"{part}/480p/{video}/{i:05d}.png")
        masks = [one == int(name) if name.isdigit() else one > 0 for one in (found, truth)]
        region.append(region_similarity(*masks))
        edges.append(boundary_accuracy(*masks))
    assert region == pytest.approx(want["J_frames"], abs=1e-4)
    assert edges == pytest.approx(want["F_frames"], abs=1e-4)
    # The means leave out the first and the last frame.
    assert Series.of(region[1:-1]).mean == pytest.approx(want["J"], abs=1e-6)
    assert Series.of(edges[1:-1]).mean == pytest.approx(want["F"], abs=1e-6)
