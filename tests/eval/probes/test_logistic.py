import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from ibot.errors import ConfigError, MissingExtra
from ibot.eval.features.rows import LabelledFeatures
from ibot.eval.probes import logistic as protocol
from ibot.eval.probes import logistic_fit as logistic
from ibot.eval.probes.logistic_fit import (
    CHUNK,
    PUBLISHED_PENALTIES,
    Rows,
    choose_penalty,
    count_folds,
    fit_logistic,
    fit_path,
    objective,
    stratified_folds,
)
from ibot.eval.probes.settings import LogisticSettings


def noisy_classes(num_samples, num_classes, width, seed, spread=1.0):
    """Unit-length features around random class means; every class has a sample."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, width, generator=g, dtype=torch.float64)
    labels = torch.arange(num_samples) % num_classes
    noise = torch.randn(num_samples, width, generator=g, dtype=torch.float64)
    return F.normalize(means[labels] + spread * noise, dim=1), labels


def accuracy(weight, features, labels):
    return ((features.double() @ weight.T).argmax(dim=1) == labels).double().mean().item()


@pytest.mark.parametrize("value", [*PUBLISHED_PENALTIES, 30.0])
@pytest.mark.parametrize("num_classes", [3, 7])
def test_probabilities_equal_those_of_scikit_learn(num_classes, value):
    features, labels = noisy_classes(210, num_classes, 6, seed=num_classes)
    reference = LogisticRegression(
        C=1 / value, fit_intercept=False, tol=1e-12, max_iter=10_000
    ).fit(features, labels)
    weight = fit_logistic(features, labels, num_classes, value / len(features), tolerance=1e-7)
    logits = features @ weight.T
    want = torch.from_numpy(reference.predict_proba(features))
    # scikit-learn stops at a relative change of the objective of 64 eps, which leaves about 1e-7 in
    # the weights.
    torch.testing.assert_close(logits.softmax(dim=1), want, atol=1e-5, rtol=0)
    assert logits.argmax(dim=1).tolist() == reference.predict(features).tolist()


def test_two_classes_equal_scikit_learn_at_twice_its_c():
    features, labels = noisy_classes(120, 2, 5, seed=1)
    reference = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(
        features, labels
    )
    weight = fit_logistic(features, labels, 2, 1 / len(features), tolerance=1e-7)
    want = torch.from_numpy(reference.predict_proba(features))
    torch.testing.assert_close((features @ weight.T).softmax(dim=1), want, atol=1e-5, rtol=0)


def test_default_tolerance_is_close_to_the_optimum():
    features, labels = noisy_classes(300, 5, 8, seed=2)
    for value in PUBLISHED_PENALTIES:
        penalty = value / len(features)
        exact = fit_logistic(features, labels, 5, penalty, tolerance=1e-7)
        quick = fit_logistic(features.float(), labels, 5, penalty)
        torch.testing.assert_close(
            (features @ quick.T).softmax(1), (features @ exact.T).softmax(1), atol=0.01, rtol=0
        )
        assert quick.dtype == torch.float64


def test_gradient_equals_autograd():
    features, labels = noisy_classes(40, 4, 6, seed=3)
    weight = torch.randn(
        4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    want = F.cross_entropy(features @ weight.T, labels) + 0.3 / 2 * weight.square().sum()
    value, gradient = objective(weight, features, labels, 0.3, chunk=7)
    assert value.item() == pytest.approx(want.item(), abs=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(want, weight)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [1, 7, 50, 51])
def test_chunks_of_any_size_give_the_same(chunk):
    features, labels = noisy_classes(50, 3, 4, seed=4)
    whole = fit_logistic(features.float(), labels, 3, 0.01, tolerance=1e-8)
    parts = fit_logistic(features.float(), labels, 3, 0.01, tolerance=1e-8, chunk=chunk)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)


def test_no_float64_copy_of_all_features_or_logits_is_built(largest_tensor):
    features, labels = noisy_classes(1000, 5, 8, seed=5)
    features = features.float()
    with largest_tensor(torch.float64) as watch:
        fit_logistic(features, labels, 5, 0.01, chunk=64)
    assert watch.numel == 64 * 8


def mapped(rows, file):
    """The rows as the cache gives them: a tensor over a file."""
    np.save(file, rows.float().numpy())
    return torch.from_numpy(np.load(file, mmap_mode="c"))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_rows_are_selected_scaled_and_read_in_order(tmp_path, size):
    features = mapped(
        3 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), tmp_path / "rows.npy"
    )
    numbers = torch.arange(0, 40, 3)
    some = Rows(features, unit=True).select(numbers)
    want = F.normalize(features.double(), dim=1)[numbers]
    assert some.shape == (14, 5) and torch.equal(
        torch.cat(list(some.chunks(size, torch.device("cpu")))), want
    )
    again = some.select(torch.tensor([1, 4]))
    assert torch.equal(next(again.chunks(size, torch.device("cpu"))), want[[1, 4]][:size])
    plain = torch.cat(list(Rows(features).chunks(size, torch.device("cpu"))))
    assert plain.dtype == torch.float64 and torch.equal(plain, features.double())


def test_rows_of_half_precision_get_length_one():
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).half()
    rows = torch.cat(list(Rows(features, unit=True).chunks(7, torch.device("cpu"))))
    torch.testing.assert_close(
        rows.norm(dim=1), torch.ones(40, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_rows_in_a_file_give_what_copies_in_memory_give(tmp_path):
    features, labels = noisy_classes(200, 4, 6, seed=17)
    rows = Rows(mapped(5 * features, tmp_path / "rows.npy"), unit=True)
    copy = F.normalize(rows.features.double(), dim=1)
    penalties = [value / 200 for value in (0.1, 1.0, 10.0)]
    best, scores = choose_penalty(rows, labels, penalties, folds=3)
    assert (best, scores) == choose_penalty(copy, labels, penalties, folds=3)
    fold, hits = stratified_folds(labels, 3, seed=0), dict.fromkeys(scores, 0)
    for held_out in range(3):
        train, test = fold != held_out, fold == held_out
        growth = 200 / int(train.sum())
        path = fit_path(copy[train], labels[train], 4, [penalty * growth for penalty in penalties])
        for penalty, weight in zip(scores, path.values(), strict=True):
            hits[penalty] += int(((copy[test] @ weight.T).argmax(dim=1) == labels[test]).sum())
    assert scores == {penalty: count / 2 for penalty, count in hits.items()}
    for weight, want in zip(
        *(fit_path(x, labels, 4, penalties).values() for x in (rows, copy)), strict=True
    ):
        torch.testing.assert_close(weight, want, atol=1e-9, rtol=0)


@pytest.mark.parametrize("mode", ["clean", "published"])
def test_the_protocol_holds_no_more_than_a_chunk_of_the_features(
    context, tmp_path, mode, largest_tensor
):
    """Neither scaled nor selected nor in float64; what is read in chunks is itself mapped."""
    sets = []
    for name, count in (("train", 2 * CHUNK + 1000), ("val", CHUNK + 100)):
        features, labels = noisy_classes(count, 10, 24, seed=18, spread=0.5)
        rows = mapped(features, tmp_path / f"{name}.npy")
        sets.append(LabelledFeatures(rows, np.arange(count), [], True, labels))
    with largest_tensor(torch.float32, torch.float64) as watch:
        record = protocol.probe(replace(context, mode=mode), LogisticSettings(folds=2), *sets)
    assert watch.numel == CHUNK * 24 and record.value > 50


def test_a_strong_penalty_gives_the_class_means():
    features, labels = noisy_classes(103, 4, 6, seed=6, spread=2.0)
    one_hot = F.one_hot(labels, 4).double()
    rule = one_hot.T @ features / len(features) - features.mean(dim=0) / 4
    penalty = 1e4
    weight = fit_logistic(features, labels, 4, penalty, tolerance=1e-10)
    # Off by the change of the softmax from uniform, of the order of the weights (1e-5).
    torch.testing.assert_close(weight * penalty, rule, atol=1e-4, rtol=0)
    as_is = fit_logistic(features, labels, 4, 1.0)
    assert ((features @ as_is.T).argmax(1) == (features @ rule.T).argmax(1)).double().mean() > 0.97


def test_separable_classes_are_learnt_and_permuted_labels_are_not():
    features, labels = noisy_classes(1600, 4, 16, seed=7, spread=0.1)
    train, test = slice(0, 800), slice(800, None)
    weight = fit_logistic(features[train], labels[train], 4, 1 / 800)
    assert accuracy(weight, features[test], labels[test]) == 1
    permuted = labels[train][torch.randperm(800, generator=torch.Generator().manual_seed(0))]
    weight = fit_logistic(features[train], permuted, 4, 1 / 800)
    truth = labels[test][torch.randperm(800, generator=torch.Generator().manual_seed(1))]
    # Standard deviation of 800 guesses among four: 0.015.
    assert accuracy(weight, features[test], truth) == pytest.approx(0.25, abs=0.06)


def test_path_runs_from_strong_to_weak_and_equals_single_fits():
    features, labels = noisy_classes(90, 3, 5, seed=8)
    path = fit_path(features, labels, 3, [0.001, 0.1, 0.01, 0.1], tolerance=1e-7)
    assert list(path) == [0.1, 0.01, 0.001]
    for penalty, weight in path.items():
        torch.testing.assert_close(
            weight, fit_logistic(features, labels, 3, penalty, tolerance=1e-7), atol=1e-5, rtol=1e-5
        )


def test_path_starts_each_fit_at_the_solution_before(monkeypatch):
    features, labels = noisy_classes(60, 3, 4, seed=9)
    starts, fit = [], logistic.fit_logistic
    monkeypatch.setattr(
        logistic, "fit_logistic", lambda *a, **k: starts.append(k["start"]) or fit(*a, **k)
    )
    path = fit_path(features, labels, 3, [0.01, 1.0])
    assert starts[0] is None and starts[1] is path[1.0]


def test_a_start_at_the_solution_is_kept():
    features, labels = noisy_classes(60, 3, 4, seed=10)
    weight = fit_logistic(features, labels, 3, 0.01, tolerance=1e-6)
    assert torch.equal(
        fit_logistic(features, labels, 3, 0.01, start=weight, tolerance=1e-5), weight
    )


def test_a_class_with_one_sample_or_none_is_fitted():
    features = torch.eye(4)[[0, 0, 1, 1, 2]]
    labels = torch.tensor([0, 0, 1, 1, 2])
    weight = fit_logistic(features, labels, 4, 0.1 / 5)
    assert weight.shape == (4, 4) and accuracy(weight, features, labels) == 1
    assert (features.double() @ weight.T)[:, 3].max() < 0


def test_folds_hold_equal_shares_of_every_class():
    labels = torch.arange(3).repeat_interleave(torch.tensor([11, 23, 5]))
    labels = labels[torch.randperm(39, generator=torch.Generator().manual_seed(0))]
    fold = stratified_folds(labels, 5, seed=0)
    assert sorted(torch.bincount(fold).tolist()) == [7, 8, 8, 8, 8]
    for label, (low, high) in enumerate([(2, 3), (4, 5), (1, 1)]):
        count = torch.bincount(fold[labels == label], minlength=5)
        assert count.min() == low and count.max() == high
    assert torch.equal(fold, stratified_folds(labels, 5, seed=0))
    assert not torch.equal(fold, stratified_folds(labels, 5, seed=1))


def test_folds_follow_the_smallest_class_and_never_hold_out_a_single_image():
    fold = stratified_folds(torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2, 4]), 5, seed=0)
    assert fold[0] == fold[9] == -1 and fold.max() == 2
    assert sorted(fold[1:4].tolist()) == [0, 1, 2]


def test_cross_validation_equals_scikit_learn_with_c_kept():
    features, labels = noisy_classes(153, 3, 5, seed=11, spread=1.5)
    features, labels = (
        torch.cat([features, features[:1] * -1]),
        torch.cat([labels, torch.tensor([3])]),
    )
    num = len(labels)
    best, scores = choose_penalty(
        features, labels, [value / num for value in (0.01, 1.0, 100.0)], folds=3, seed=4
    )
    fold, hits = stratified_folds(labels, 3, seed=4), dict.fromkeys(scores, 0)
    for penalty in scores:
        model = LogisticRegression(
            C=1 / (num * penalty), fit_intercept=False, tol=1e-8, max_iter=10_000
        )
        for held_out in range(3):
            train, test = fold != held_out, fold == held_out
            assert 3 in labels[train] and 3 not in labels[test]
            hits[penalty] += (
                model.fit(features[train], labels[train]).predict(features[test])
                == labels[test].numpy()
            ).sum()
    # One sample of 153 may lie on a border.
    assert scores == pytest.approx(
        {penalty: 100 * count / 153 for penalty, count in hits.items()}, abs=0.7
    )
    assert list(scores) == sorted(scores, reverse=True) and scores[best] == max(scores.values())


def test_folds_keep_the_penalty_of_the_sum_of_losses(monkeypatch):
    features, labels = noisy_classes(31, 3, 5, seed=16)
    calls, fit = [], logistic.fit_path
    monkeypatch.setattr(
        logistic,
        "fit_path",
        lambda x, y, c, ps, **_: calls.append((len(x), ps)) or fit(x, y, c, ps),
    )
    choose_penalty(features, labels, [0.1 / 31, 1 / 31], folds=4)
    assert sorted(num for num, _ in calls) == [23, 23, 23, 24]
    for num_train, penalties in calls:
        assert [num_train * penalty for penalty in penalties] == pytest.approx([1, 0.1])


def test_fits_are_counted_over_folds_and_penalties():
    features, labels = noisy_classes(31, 3, 5, seed=16)
    told = []
    fit_path(features, labels, 3, [0.1, 1.0, 0.1], progress=lambda *given: told.append(given))
    assert told == [(0, 2), (1, 2), (2, 2)]
    told.clear()
    choose_penalty(
        features, labels, [0.1, 1.0], folds=3, progress=lambda *given: told.append(given)
    )
    # A fold begins with what the one before has ended with.
    assert told == [(done, 6) for done in (0, 1, 2, 2, 3, 4, 4, 5, 6)]


@pytest.mark.parametrize(
    ("mode", "labels", "fits"),
    [
        ("clean", [0, 0, 0, 1, 1, 1, 1], 3 * 3 + 1),
        ("clean", [0, 1, 2], 1),
        ("published", [0, 0, 1], 3),
    ],
)
def test_the_protocol_counts_all_fits_as_one_work(context, monkeypatch, mode, labels, fits):
    """Folds x penalties and the last one; the smallest class has fewer images than folds."""
    told, done, fit = {}, [], logistic.fit_logistic
    monkeypatch.setattr(logistic, "fit_logistic", lambda *a, **k: done.append(0) or fit(*a, **k))

    def counter(name):
        return lambda *given: told.setdefault(name, []).append((*given, len(done)))

    rows = torch.randn(len(labels), 24, generator=torch.Generator().manual_seed(0))
    features = LabelledFeatures(rows, np.arange(len(labels)), [], True, torch.tensor(labels))
    protocol.probe(
        replace(context, mode=mode, counter=counter), LogisticSettings(), features, features
    )
    assert list(told) == ["logistic fits"]
    steps = list(dict.fromkeys(told["logistic fits"]))
    assert steps == [(number, fits, number) for number in range(fits + 1)]


def set_of(features, labels):
    return LabelledFeatures(features.float(), np.arange(len(labels)), [], True, labels)


@pytest.mark.parametrize("mode", ["clean", "published"])
def test_the_protocol_scores_the_penalty_that_its_mode_may_choose(context, mode):
    """Rows of any length are fitted as rows of length 1, and penalties are shares of the images."""
    settings = LogisticSettings(penalties=(1.0, 0.01, 30.0), folds=3)
    features, labels = noisy_classes(90, 10, 6, seed=20, spread=0.5)
    queries, truth = noisy_classes(53, 10, 6, seed=20, spread=0.5)
    truth = (truth + (torch.arange(53) % 3 == 0)) % 10
    length = torch.rand(90, 1, generator=torch.Generator().manual_seed(0)).double() + 0.5
    context = replace(context, mode=mode, seed=5)
    record = protocol.probe(
        context, settings, set_of(features * length, labels), set_of(4 * queries, truth)
    )
    by_penalty = {}
    for value in (30.0, 1.0, 0.01):
        logits = queries @ fit_logistic(features, labels, 10, value / 90, tolerance=1e-6).T
        by_penalty[value] = 100 * (logits.argmax(1) == truth).double().mean().item()
    if mode == "published":
        chosen, shown, on = max(by_penalty, key=by_penalty.get), by_penalty, "val"
    else:
        found, crossed = choose_penalty(
            features, labels, [v / 90 for v in settings.penalties], 3, 5
        )
        chosen, on = round(90 * found, 6), "cross-validation of the training images"
        shown = {round(90 * penalty, 6): score for penalty, score in crossed.items()}
    assert record.extra["penalties"] == {
        f"{value:g}": pytest.approx(v) for value, v in shown.items()
    }
    assert record.value == pytest.approx(by_penalty[chosen])
    assert record.row == record.chosen == f"lambda {chosen:g}/n"
    assert record.extra["chosen_on"] == on
    assert (record.num_train, record.num_val) == (90, 53) and record.extra["top5"] is not None


def test_without_two_images_of_a_class_the_middle_penalty_is_taken(context):
    rows, labels = (
        torch.randn(4, 6, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 3, 5, 9]),
    )
    settings = LogisticSettings(penalties=(5.0, 0.1, 0.7))
    record = protocol.probe(context, settings, set_of(rows, labels), set_of(rows, labels))
    assert record.row == "lambda 0.7/n" and record.extra["penalties"] == {}
    assert record.extra["chosen_on"] == "nothing: no class has two images" and record.value == 100


@pytest.mark.parametrize("wrong", [{"penalties": ()}, {"penalties": (1.0, 0.0)}, {"folds": 1}])
def test_settings_of_the_protocol_that_choose_nothing_are_refused(context, wrong):
    with pytest.raises(ConfigError, match="penalties"):
        protocol.run(context, replace(LogisticSettings(), **wrong))


def test_the_strongest_of_equally_good_penalties_is_chosen():
    features, labels = noisy_classes(60, 3, 8, seed=12, spread=0.05)
    best, scores = choose_penalty(features, labels, [1e-3, 1e-1, 1e-2])
    assert best == 0.1 and scores == {0.1: 100, 1e-2: 100, 1e-3: 100}


def test_a_fit_that_stops_early_warns(monkeypatch):
    features, labels = noisy_classes(90, 3, 5, seed=13)
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    with pytest.warns(RuntimeWarning, match="after 1 steps"):
        fit_logistic(features, labels, 3, 1e-4)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_logistic(features, labels, 3, 1e-4)


def test_arguments_that_do_not_fit_are_refused():
    features, labels = noisy_classes(6, 3, 4, seed=14)
    for arguments, message in [
        ((features, labels[:5], 3, 1.0), r"\(6, 4\).*\(5,\)"),
        ((features, labels, 2, 1.0), "between 0 and 2"),
        ((features, labels - 1, 3, 1.0), "between -1"),
        ((features, labels, 3, 0.0), "penalty"),
        ((features / 0, labels, 3, 1.0), "finite"),
        ((features[:0], labels[:0], 3, 1.0), r"\(0, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_logistic(*arguments)
    with pytest.raises(ValueError, match="start"):
        fit_logistic(features, labels, 3, 1.0, start=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="no penalties"):
        choose_penalty(features, labels, [])
    with pytest.raises(ValueError, match="1 folds"):
        choose_penalty(features, labels, [1.0], folds=1)
    for parted in (count_folds, lambda labels, folds: stratified_folds(labels, folds, seed=0)):
        with pytest.raises(ValueError, match="class of two samples"):
            parted(torch.arange(5), 5)


def test_a_missing_scipy_names_its_package(monkeypatch):
    features, labels = noisy_classes(6, 3, 4, seed=15)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtra, match=r"pip install .scipy>="):
        fit_logistic(features, labels, 3, 1.0)
