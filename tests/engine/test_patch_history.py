"""What a run's records say of its patches."""

import pytest

from ibot.engine.patch_history import best_step, worse_patches
from ibot.types import ResultRecord


def history(match, knn=(), metric="match_r1", every=10, **changes):
    """Records of a run in the order of its steps; the first are of the initial weights."""
    found = []
    for place, value in enumerate(match):
        of_step = [("knn_top1", knn[place])] if knn else []
        for name, score in (*of_step, (metric, value)):
            given = {"protocol": "p", "settings": {}, "data": {}, **changes}
            found.append(ResultRecord(metric=name, value=score, step=place * every, **given))
    return found


def test_the_best_step_is_the_earliest_with_the_highest_score_initial_weights_aside():
    assert best_step([]) is None and best_step(history([50])) is None
    assert best_step(history([50, 20, 30, 30, 25])) == 20
    later = ResultRecord(protocol="match", metric="match_r1", value=99.0, settings={})
    assert best_step([*history([50, 20, 30]), later]) == 20, "of a later evaluation, without a step"


def test_segmentation_decides_where_it_is_measured():
    assert best_step(history([0, 9, 1]) + history([0, 1, 9], metric="dense_knn_miou")) == 20


def test_scores_of_other_settings_or_images_do_not_compare_with_the_newest():
    before = history([90, 90, 90])
    changed = [record for record in history([1, 1, 1, 7, 9, 8]) if record.step >= 30]
    for other in ({"settings": {"images": 8}}, {"data": {"root": "b"}}):
        old = [record for record in history([90, 90, 90], **other)]
        assert best_step(old + changed) == 40
    assert best_step(before + changed) == 10


@pytest.mark.parametrize(
    ("match", "knn", "said"),
    [
        ([50, 40, 36.9], [10, 20, 21], True),
        ([50, 40, 37.1], [10, 20, 21], False),  # not yet three points
        ([50, 40, 36], [10, 20, 19], False),  # k-NN fell as well
        ([50, 40, 36], [], True),  # no labels
        ([50, 40, 36, 35], [10, 20, 21, 22], False),  # said the step before
        ([50, 40, 36, 39, 36], [10, 20, 21, 22, 23], True),  # came back in between
        ([50, 30], [10, 20], False),  # below a random network
    ],
)
def test_patches_that_newly_fell_below_their_best_are_named(match, knn, said):
    verdict = worse_patches(history(match, knn), from_weights=False)
    assert (verdict is not None) == said
    if verdict is not None:
        assert f"match_r1 {match[-1]:.1f}, 40.0 at step 10" in verdict.evidence
        assert ("k-NN went from 20.0 to" in verdict.evidence) == bool(knn)


def test_trained_weights_at_the_start_are_a_measure():
    verdict = worse_patches(history([50, 30], [10, 20]), from_weights=True)
    assert "50.0 at step 0" in verdict.evidence
    assert worse_patches(history([50]), from_weights=True) is None
