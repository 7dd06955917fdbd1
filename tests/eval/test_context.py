"""What a record holds, against loops; and what tells two evaluations apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ibot.data.sets.subsets import LabelledSubset
from ibot.eval.context import plain
from ibot.eval.features.rows import FeatureSet, unreadable
from ibot.eval.features.views import View
from ibot.eval.probes.settings import KnnSettings
from ibot.eval.scores import bootstrap_mean


def test_a_record_says_what_was_measured_on_what(context):
    val = LabelledSubset(context.val, np.array([0, 1, 2, 3, 30, 31, 59]))
    context = replace(
        context,
        val=val,
        seed=3,
        key="student",
        weights_hash="abc",
        mode="published",
        view=View((32, 40), "pad", "bilinear"),
        exif_orientation="ignore",
    )
    record = context.record("p", "p_x", 1.5, {"k": 3}, interval=(1.0, 2.0), row="r")
    assert (record.protocol, record.metric, record.value) == ("p", "p_x", 1.5)
    assert record.settings == {
        "size": [32, 40],
        "fit": "pad",
        "interpolation": "bilinear",
        "exif_orientation": "ignore",
        "k": 3,
    }
    assert (record.num_train, record.num_val, record.interval) == (100, 7, (1.0, 2.0))
    assert (record.mode, record.seed, record.key) == ("published", 3, "student")
    assert (record.weights, record.weights_hash) == ("random.safetensors", "abc")
    assert (
        record.architecture == str(context.loaded.config)
        and record.extra == {}
        and record.row == "r"
    )
    counts = np.bincount([val.label(i) for i in range(7)])
    assert record.data == {
        "root": str(val.root),
        "train": context.train.fingerprint(),
        "val": val.fingerprint(),
        "classes": 10,
        "largest_class": pytest.approx(100 * counts.max() / 7),
    }
    assert record.seconds > 0
    assert record.images_per_second == pytest.approx(107 / record.seconds)
    few = context.record("p", "p_x", 1.5, {}, num_train=20, num_val=0)
    assert (few.num_train, few.num_val) == (20, 0)
    assert few.images_per_second == pytest.approx(20 / few.seconds)
    assert {"ibot", "commit", "python", "torch"} <= set(record.versions)


@pytest.mark.parametrize("classes", [4, 5, 8])
def test_the_accuracy_of_logits_is_that_of_a_loop(context, classes):
    torch.manual_seed(classes)
    logits, labels = torch.randn(40, classes), torch.randint(0, classes - 1, (40,))
    record = replace(context, seed=2).top("p", logits, labels, {"k": 1}, num_train=9, row="r")
    rank = [int((row > row[y]).sum()) for row, y in zip(logits, labels, strict=True)]
    right = [100.0 * (place == 0) for place in rank]
    assert record.metric == "p_top1" and record.value == pytest.approx(sum(right) / 40)
    assert record.interval == bootstrap_mean(torch.tensor(right).double(), 2)
    five = 100 * sum(place < 5 for place in rank) / 40 if classes >= 5 else None
    assert record.extra["top5"] == (five if five is None else pytest.approx(five))
    shares = [
        sum(r for r, y in zip(right, labels, strict=True) if y == c) / int((labels == c).sum())
        for c in range(classes - 1)
        if (labels == c).any()
    ]
    assert record.extra["balanced"] == pytest.approx(sum(shares) / len(shares))
    assert (record.num_train, record.num_val, record.row) == (9, 40, "r")


def test_evaluations_that_differ_have_names_of_their_own(context):
    name = context.identity("knn", {"k": 1})
    assert name == context.identity("knn", {"k": 1}) and len(name) == 12
    others = [context.identity("linear", {"k": 1}), context.identity("knn", {"k": 2})]
    some = LabelledSubset(context.train, np.arange(50))
    for changes in (
        {"weights_hash": "x"},
        {"train": some},
        {"val": some},
        {"mode": "published"},
        {"seed": 1},
        {"view": View((32, 32), "pad")},
        {"batch": 8},
    ):
        others.append(replace(context, **changes).identity("knn", {"k": 1}))
    assert len({name, *others}) == 10


def test_images_that_cannot_be_read_are_counted_over_all_sets():
    def of(bad):
        return FeatureSet(torch.zeros(1, 1), np.zeros(1), bad, cached=False)

    assert unreadable(of([]), of([])) == []
    notes = unreadable(of([]), of([("b", "cut"), ("a", "x")]), of([("c", "y")]))
    assert notes == ["3 images cannot be read, the first: b: cut"]
    assert plain(KnnSettings(k=(3,))) == {"k": (3,), "temperature": 0.07}
