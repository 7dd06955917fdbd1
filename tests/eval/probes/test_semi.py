"""Few labels: each draw is scored as if its images were all there are."""

import statistics
from dataclasses import replace

import numpy as np
import pytest

from ibot.data.sets.subsets import stratified_subset
from ibot.errors import ConfigError
from ibot.eval.features.rows import rows_of
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.eval.probes import semi
from ibot.eval.probes.settings import LogisticSettings, SemiSettings
from ibot.eval.tune.settings import sane_settings, semi_supervised_settings


@pytest.fixture
def features(context):
    def of(images, name):
        return context.features(images, name)[CLASS_TOKEN]

    return of(context.train, "train"), of(context.val, "val")


def test_each_draw_votes_with_its_own_images_and_is_written_down(context, features):
    train, val = features
    context = replace(context, seed=4)
    settings = SemiSettings(share=(0.2, 0.35), probes=("knn",), subsets=2)
    records = semi.run(context, settings)
    values = {}
    for share in (0.2, 0.35):
        for seed in (4, 5):
            subset = stratified_subset(context.train.labels, share=share, seed=seed)
            few = rows_of(train, subset)
            ks = (1, 5, 10, 20, 100, 200)
            scores = knn_accuracy(few.rows, few.labels, val.rows, val.labels, ks=ks, scale=True)
            name = f"{100 * share:g}%"
            for k, score in scores.items():
                values[name, seed, k] = score.top1
            file = context.out / f"labels-{100 * share:g}percent-seed{seed}.txt"
            want = [context.train.name(i) for i in subset.tolist()]
            assert file.read_text().splitlines() == want
            found = [
                record
                for record in records
                if record.settings["subset"] == name
                and record.settings["subset_seed"] == seed
                and record.metric == "semi_knn_top1"
            ]
            votes = {record.settings["k"]: record.value for record in found}
            assert votes == pytest.approx(scores_of(scores))
            for record in found:
                assert record.protocol == "semi" and record.num_train == len(subset)
                assert record.notes[0] == f"{name}: {len(subset)} images keep their label"
                assert record.row.startswith(f"{name} seed {seed}, knn")
    means = [record for record in records if record.metric.endswith("_mean")]
    # A k above the images of a draw becomes their number, which both draws share here.
    most = len(rows_of(train, subset).rows)
    wanted = {"20%": (1, 5, 10, 20), "35%": (1, 5, 10, 20, most)}
    found = [(record.settings["subset"], record.settings["k"]) for record in means]
    assert found == [(name, k) for name, ks in wanted.items() for k in ks]
    for record in means:
        name, k = record.settings["subset"], record.settings["k"]
        both = [values[name, seed, k] for seed in (4, 5)]
        assert record.value == pytest.approx(statistics.mean(both))
        assert record.extra["deviation"] == pytest.approx(statistics.stdev(both))
        assert record.extra["range"] == pytest.approx([min(both), max(both)])
        assert record.row == f"{name}, knn, k = {k}, mean of 2"


def scores_of(scores):
    return {k: score.top1 for k, score in scores.items()}


def test_lists_stand_in_the_place_of_shares(context, features, tmp_path):
    train, val = features
    chosen = np.array([0, 17, 33, 34, 60, 99])
    (tmp_path / "few.txt").write_text("\n".join(context.train.name(i) for i in chosen))
    settings = SemiSettings(lists=(str(tmp_path / "few.txt"),), probes=("knn", "logistic"))
    records = semi.run(context, settings)
    few = rows_of(train, chosen)
    scores = knn_accuracy(few.rows, few.labels, val.rows, val.labels, ks=(1, 5, 6), scale=True)
    votes = {r.settings["k"]: r.value for r in records if "k" in r.settings}
    assert votes == pytest.approx(scores_of(scores))
    assert [r.metric for r in records][-1] == "semi_logistic_top1" and len(records) == 4
    assert {(r.settings["subset"], r.num_train) for r in records} == {("few", 6)}
    assert not list(context.out.glob("labels-*"))


def test_probes_are_run_on_the_few_alone_in_their_order(context, monkeypatch):
    asked = []

    def note(name, result):
        def stand_in(few, settings, *given, **options):
            asked.append((name, len(few.train), settings, options))
            return result

        return stand_in

    base = context.record("linear", "linear_top1", 1.0, {}, row="x", notes=[])
    monkeypatch.setattr(semi.linear, "probe", note("linear", [base]))
    monkeypatch.setattr(semi.logistic, "probe", note("logistic", base))
    monkeypatch.setattr(semi.finetune, "tune", note("finetune", base))
    settings = SemiSettings(share=(0.2,), probes=("finetune", "logistic", "linear"))
    assert len(semi.run(context, settings)) == 3
    assert [name for name, *_ in asked] == ["linear", "logistic", "finetune"]
    assert {count for _, count, *_ in asked} == {20}
    assert asked[0][3] == {"keep_classifiers": False} and asked[1][2] == LogisticSettings()
    assert asked[2][2] == replace(sane_settings("small", 20), head_layers=1)
    semi.run(replace(context, mode="published"), replace(settings, probes=("finetune",)))
    assert asked[3][2] == semi_supervised_settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": (0.0,)},
        {"share": (1.0,)},
        {"share": (0.5, 1.5)},
        {"subsets": 0},
        {"probes": ()},
        {"share": ()},
        {"lists": ("a/x.txt", "b/x.txt")},
        {"probes": ("knn", "svm")},
    ],
)
def test_settings_without_a_meaning_are_refused(context, wrong):
    with pytest.raises(ConfigError):
        semi.run(context, replace(SemiSettings(), **wrong))
