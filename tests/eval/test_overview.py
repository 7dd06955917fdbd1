"""Which of several evaluations say that a network learnt something, in five lines."""

from dataclasses import replace
from pathlib import Path

from recorded import record

from ibot.eval.overview import overview
from ibot.eval.registry import lower_is_better

REST = Path("runs/a/results.jsonl")


def beside(own, **values):
    """A network's record and those of its baselines, each of 100 images with an interval of 2
    points.
    """
    own = replace(own, num_val=100)
    others = [
        replace(own, value=value, baseline=name, interval=(value - 1, value + 1))
        for name, value in values.items()
    ]
    return [replace(own, interval=(own.value - 1, own.value + 1)), *others]


def lines(found, failed=None, skipped=()):
    said = overview(found, failed or {}, skipped, REST)
    assert len(said) == 5
    titles = ("learnt", "not learnt", "best", "not run", "rest")
    assert tuple(line[:12].strip() for line in said) == titles
    return {line[:12].strip(): line[12:] for line in said}


def test_better_than_all_that_learnt_nothing_is_told_from_as_good_as_some():
    found = {
        "knn": beside(record("knn_top1", 40.0), random=20.0, pixels=30.0),
        "match": beside(record("match_r1", 40.0), random=20.0, pixels=40.5),
        "cluster": beside(record("cluster_acc", 10.0), random=20.0, pixels=30.0),
        "linear": [record("linear_top1", 55.0)],
    }
    said = lines(found)
    assert said["learnt"] == "knn (+10.0 over pixels)"
    assert said["not learnt"] == (
        "match (as pixels); cluster (worse than random start and pixels); beside nothing: linear"
    )
    assert said["best"] == "classes 55.0 (linear); patches 40.0 (match); groups 10.0 (cluster)"
    assert said["not run"].startswith("nothing")
    assert str(REST) in said["rest"] and "ibot results runs/a" in said["rest"]


def test_fewer_errors_are_better():
    error = record("corruptions_mean_15", 30.0)
    assert lower_is_better("corruptions", "corruptions_mce")
    assert lower_is_better("calibration", "calibration_rms_published")
    assert not lower_is_better("calibration", "calibration_aurra")
    assert not lower_is_better("knn", "knn_top1") and not lower_is_better("unknown", "error")
    found = {"corruptions": beside(error, random=60.0)}
    said = lines(found)
    assert said["learnt"] == "corruptions (+30.0 over random start)"
    assert said["best"] == "corruptions 30.0 (lower is better)"


def test_what_failed_and_what_was_left_out_is_named_with_its_reason():
    failed = dict.fromkeys("abcdef", "no label maps") | {"g": "no videos"}
    said = lines({"knn": [record()]}, failed, ["finetune"])
    assert said["not run"] == (
        "a, b, c, d and 2 more: no label maps; g: no videos; left out as asked: finetune"
    )
    assert "nothing" in lines({})["best"]
