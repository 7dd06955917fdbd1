"""The sweep against classifiers trained one by one with torch's own tools."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ibot.data.pixels import normalize
from ibot.data.sets.subsets import LabelledSubset, split_labelled
from ibot.engine.optimizer import LARS
from ibot.errors import ConfigError, DataError
from ibot.eval import state_file
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures
from ibot.eval.features.tokens import CLASS_TOKEN, Feature
from ibot.eval.linear_classifier import load_classifier
from ibot.eval.probes import linear as protocol
from ibot.eval.probes import linear_sweep
from ibot.eval.probes import sweep_training as training
from ibot.eval.probes.crops import crop_batches
from ibot.eval.probes.linear_sweep import LinearSweep, Optimizer, cosine_factor
from ibot.eval.probes.settings import SWEEP, LinearSettings
from ibot.eval.probes.sweep_steps import crop_steps, row_steps
from ibot.eval.state_file import StateFile
from ibot.rng import permutation
from ibot.system.distributed import Processes


def problem(seed, rows=96, dim=20, classes=7):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=g)
    return torch.randn(rows, dim, generator=g) + torch.randn(classes, dim, generator=g)[
        labels
    ], labels


def batches(features, labels, epochs=4, size=32):
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(size):
            yield features[part], labels[part], cosine_factor(epoch, epochs)


def test_the_published_rates_are_45_from_1e_4_to_9():
    assert len(SWEEP) == 45 and SWEEP[0] == 1e-4 and SWEEP[-1] == 9 and 0.03 in SWEEP


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_each_rate_follows_torch_s_own_optimizer(name, decay):
    features, labels = problem(0)
    rates = (1e-3, 0.05, 2.0)
    sweep = LinearSweep(20, 7, rates, seed=3, optimizer=Optimizer(name, decay))
    layers = [torch.nn.Linear(20, 7) for _ in rates]
    for layer, weight, bias in zip(layers, sweep.weight, sweep.bias, strict=True):
        layer.load_state_dict({"weight": weight.clone(), "bias": bias.clone()})
    make = {
        "sgd": lambda layer, rate: torch.optim.SGD(
            layer.parameters(), rate, momentum=0.9, weight_decay=decay
        ),
        "lars": lambda layer, rate: LARS(
            [
                {"params": [layer.weight], "weight_decay": decay},
                {"params": [layer.bias], "weight_decay": 0.0},
            ],
            lr=rate,
        ),
    }[name]
    optimizers = [make(layer, rate) for layer, rate in zip(layers, rates, strict=True)]
    for x, y, factor in batches(features, labels):
        sweep.step(x, y, factor)
        for layer, optimizer, rate in zip(layers, optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x), y).backward()
            optimizer.step()
    for layer, weight, logits in zip(layers, sweep.weight, sweep.logits(features), strict=True):
        torch.testing.assert_close(weight, layer.weight.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, layer(features).detach(), rtol=1e-4, atol=1e-4)


def test_each_rate_of_a_sweep_equals_its_own_run():
    features, labels = problem(1, rows=512, dim=48, classes=5)
    together = LinearSweep(48, 5, SWEEP, seed=0)
    for x, y, factor in batches(features, labels, epochs=6):
        together.step(x, y, factor)
    for i in (0, 13, 30, 44):
        alone = LinearSweep(48, 5, SWEEP[i : i + 1], seed=0)
        for x, y, factor in batches(features, labels, epochs=6):
            alone.step(x, y, factor)
        torch.testing.assert_close(alone.weight[0], together.weight[i], rtol=1e-4, atol=1e-4)
        assert torch.equal(
            alone.logits(features)[0].argmax(1), together.logits(features)[i].argmax(1)
        )


def test_a_sweep_goes_on_from_its_state_as_if_it_had_never_stopped():
    features, labels = problem(2)
    steps = list(batches(features, labels))
    whole, first = LinearSweep(20, 7, (0.1, 1.0)), LinearSweep(20, 7, (0.1, 1.0))
    for step in steps:
        whole.step(*step)
    for step in steps[:5]:
        first.step(*step)
    second = LinearSweep(20, 7, (0.1, 1.0), seed=9)
    second.load(first.state())
    for step in steps[5:]:
        second.step(*step)
    assert torch.equal(whole.weight, second.weight) and torch.equal(whole.bias, second.bias)


def test_a_sweep_without_rates_is_refused():
    with pytest.raises(ValueError, match="at least one rate"):
        LinearSweep(4, 3, ())


@pytest.mark.parametrize("epochs", [1, 7, 100])
def test_rates_fall_as_torchs_cosine_epoch_by_epoch(epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        assert cosine_factor(epoch, epochs) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert cosine_factor(epochs, epochs) == pytest.approx(0)


def test_a_sweep_starts_from_seed_0_small_and_differently_at_each_rate():
    sweep = LinearSweep(40, 30, (0.5, 1.0))
    assert torch.equal(sweep.weight, LinearSweep(40, 30, (0.5, 1.0), seed=0).weight)
    assert not torch.equal(*sweep.weight) and (sweep.bias == 0).all()
    assert sweep.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_a_part_of_a_step_is_divided_by_the_rows_of_all_processes():
    features, labels = problem(6, rows=12, dim=4, classes=3)
    whole, half = (LinearSweep(4, 3, (0.5, 1.0), seed=1) for _ in range(2))
    whole.step(features[:5], labels[:5], 1.0)
    half.step(features[:5], labels[:5], 1.0, total=10)
    start = LinearSweep(4, 3, (0.5, 1.0), seed=1)
    torch.testing.assert_close(half.weight - start.weight, (whole.weight - start.weight) / 2)
    torch.testing.assert_close(half.bias, whole.bias / 2)


def test_a_step_adds_up_the_gradients_of_all_processes(monkeypatch):
    features, labels = problem(6, rows=6, dim=4, classes=3)
    alone, shared = (LinearSweep(4, 3, (0.5, 1.0), seed=1) for _ in range(2))
    alone.step(torch.cat([features, features]), torch.cat([labels, labels]), 1.0)
    # The other process has the same.
    monkeypatch.setattr(linear_sweep, "sum_in_place", lambda gradient: gradient.mul_(2))
    shared.step(features, labels, 1.0, total=12)
    torch.testing.assert_close(shared.weight, alone.weight)
    torch.testing.assert_close(shared.bias, alone.bias)


def features_of(rows, labels, index=None):
    index = np.arange(len(rows)) if index is None else np.asarray(index)
    return LabelledFeatures(rows, index, [], True, labels)


def test_every_rate_is_scored_on_every_row_in_parts_of_any_size(monkeypatch):
    features, labels = problem(3, rows=23, dim=4, classes=5)
    sweep = LinearSweep(4, 5, (0.1, 1.0, 3.0))
    for part in (slice(0, 10), slice(10, 23)):
        sweep.step(features[part], labels[part], 1.0)
    want = torch.stack(
        [
            (features @ weight.T + bias).argmax(1) == labels
            for weight, bias in zip(sweep.weight, sweep.bias, strict=True)
        ]
    )
    judge = features_of(features, labels)
    for scores in (2**24, 15 * 4, 1):
        monkeypatch.setattr(training, "SCORES", scores)
        assert torch.equal(training.hits(sweep, judge), want)


@pytest.mark.parametrize("mode", ["clean", "published"])
def test_the_best_rate_of_the_last_epoch_or_of_all_is_kept(tmp_path, mode, monkeypatch):
    """Judged are scores by epoch and rate that are written here; equal ones go to the first."""
    shares = [[1, 4, 3], [2, 5, 5], [5, 1, 4]]
    epoch = []

    def judged(sweep, judge):
        return torch.arange(10) < torch.tensor(shares[len(epoch) - 1])[:, None]

    monkeypatch.setattr(training, "hits", judged)
    features, labels = problem(4, rows=12, dim=3, classes=2)
    factors, done, weights = [], [], []
    sweep = LinearSweep(3, 2, (0.1, 0.2, 0.3))
    step = sweep.step

    def noted(found, truth, factor, total):
        factors.append(factor)
        step(found, truth, factor, total)

    def steps(number):
        if epoch:
            weights.append(sweep.weight.clone())
        epoch.append(number)
        yield {"f": features[:8]}, labels[:8], 8
        yield {"f": features[8:]}, labels[8:], 4

    sweep.step = noted
    options = {
        "epochs": 3,
        "over_epochs": mode == "published",
        "state": StateFile(tmp_path / "sweep.state", Processes()),
        "progress": lambda *now: done.append(now),
    }
    judge = {"f": features_of(features, labels)}
    best, last = training.train_sweeps({"f": sweep}, steps, judge, **options)["f"]
    weights.append(sweep.weight.clone())
    assert epoch == [0, 1, 2] and done == [(1, 3), (2, 3), (3, 3)]
    assert factors == pytest.approx([1, 1, 0.75, 0.75, 0.25, 0.25])
    place = (1, 1) if mode == "published" else (2, 0)
    assert (best.epoch, best.rate, best.score) == (*place, 0.5)
    assert torch.equal(best.weight, weights[place[0]][place[1]])
    assert best.bias.shape == (2,)
    assert last == [share / 10 for share in shares[2]]
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="held-out"):
        empty = {"f": features_of(features[:0], labels[:0])}
        training.train_sweeps({"f": sweep}, steps, empty, **options)


def test_images_are_parted_by_mode_and_what_was_chosen_on_is_said(context):
    every = np.arange(100)
    fit, held, words = training.split(context.train, 0.2, "published", 0)
    assert np.array_equal(fit, every) and not len(held) and words == "val, over epochs and rates"
    fit, held, words = training.split(context.train, 0.2, "clean", 3)
    want = split_labelled(context.train, 0.2, 3)
    assert np.array_equal(fit, want[0].indices) and np.array_equal(held, want[1].indices)
    assert words == training.HELD_OUT
    labels = np.asarray(context.train.labels)
    ones = LabelledSubset(context.train, np.unique(labels, return_index=True)[1])
    fit, held, words = training.split(ones, 0.2, "clean", 0)
    assert fit.tolist() == held.tolist() == list(range(10)) and "no class has two" in words
    for count, noted in ((49, True), (50, False)):
        judge = features_of(torch.zeros(count, 1), torch.zeros(count))
        assert bool(training.few_held_out(judge, training.HELD_OUT)) == noted
        assert not training.few_held_out(judge, "val, over epochs and rates")


@pytest.mark.parametrize("rank", [0, 1])
def test_steps_of_given_features_are_the_images_to_fit_in_keyed_order(context, rank):
    """Row i belongs to image 2 * i + 1; every third image is held out, two cannot be read."""
    index = np.array([i for i in range(1, 100, 2) if i not in (7, 51)])
    rows, labels = torch.randn(len(index), 5), torch.arange(len(index))
    fit = np.array([i for i in range(100) if i % 3])
    given = {Feature(): features_of(rows, labels, index)}
    context = replace(context, seed=6, processes=Processes(rank, 2, rank))
    usable = [row for row, image in enumerate(index) if image % 3]
    shuffled = np.array(usable)[permutation(6, 4, len(usable))].tolist()
    found = list(row_steps(context, fit, 7, given)(4))
    for number, (features, truth, total) in enumerate(found):
        whole = shuffled[7 * number : 7 * number + 7]
        own = whole[rank::2]
        assert total == len(whole) and truth.tolist() == own
        assert torch.equal(features[Feature()], rows[own])
    assert sum(total for *_, total in found) == len(usable)


def test_steps_of_crops_are_scored_in_pieces_and_keep_their_labels(context):
    fit, sizes = np.arange(3, 100, 4), []
    context = replace(context, seed=2, batch=4, processes=Processes(1, 2, 1))

    def score(images):
        sizes.append(len(images))
        return {"k": images.flatten(1)[:, :50]}

    order = fit[permutation(2, 5, len(fit))]
    steps = [order[start : start + 11] for start in range(0, len(fit), 11)]
    own = [step[1::2] for step in steps]
    crops = list(crop_batches(context.train, (32, 32), own, 2, 5))
    found = list(crop_steps(context, fit, 11, score)(5))
    assert sizes == [4, 1, 4, 1, 1]
    for (rows, labels, total), step, crop in zip(found, steps, crops, strict=True):
        assert total == len(step)
        assert torch.equal(rows["k"], normalize(crop.views).flatten(1)[:, :50])
        assert labels.tolist() == [context.train.label(i) for i in crop.positions]


def test_the_probe_of_plain_images_is_the_sweep_on_the_images_to_fit(context):
    """The record, the classifier in the file and the choice follow from a sweep trained here."""
    settings = LinearSettings(
        rates=(0.1, 2.0, 30.0),
        epochs=3,
        batch=32,
        features=("n2m0", "n2m0"),
        augment="none",
        holdout=0.2,
    )
    context = replace(context, seed=1)
    feature = Feature(2, 0)
    train = context.features(context.train, "train", [feature])[feature]
    val = context.features(context.val, "val", [feature])[feature]
    fit, held = (part.indices for part in split_labelled(context.train, 0.2, 1))
    sweep = LinearSweep(48, 10, [rate * 32 / 256 for rate in settings.rates], seed=1)
    for epoch in range(3):
        order = fit[permutation(1, epoch, len(fit))]
        for start in range(0, len(order), 32):
            rows = torch.from_numpy(order[start : start + 32])
            sweep.step(train.rows[rows], train.labels[rows], cosine_factor(epoch, 3))
    right = sweep.logits(train.rows[held]).argmax(-1) == train.labels[held]
    best = int(right.double().mean(1).argmax())
    (record,) = protocol.run(context, settings)
    logits = val.rows @ sweep.weight[best].T + sweep.bias[best]
    top1 = 100 * (logits.argmax(1) == val.labels).double().mean().item()
    assert record.value == pytest.approx(top1) and record.num_train == len(fit)
    assert record.settings["features"] == "n2m0" and record.settings["batch"] == 32
    assert record.extra["chosen_rate"] == settings.rates[best] and record.extra["chosen_epoch"] == 3
    assert record.chosen == f"rate {settings.rates[best]:g}, epoch 3"
    assert record.extra["rates"] == {
        f"{rate:g}": pytest.approx(100 * share.item())
        for rate, share in zip(settings.rates, right.double().mean(1), strict=True)
    }
    assert record.row == "n2m0 of plain images"
    classifier = load_classifier(record.extra["classifier"])
    torch.testing.assert_close(classifier.weight, sweep.weight[best])
    torch.testing.assert_close(classifier.bias, sweep.bias[best])
    assert (classifier.feature, classifier.unit, classifier.view) == (feature, False, context.view)
    assert classifier.classes == context.train.classes
    about = {"protocol": "linear", "rate": settings.rates[best], "epoch": 3, "epochs": 3}
    assert classifier.about == about
    torch.testing.assert_close(classifier.head(val.rows), logits)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rates": ()},
        {"rates": (0.1, 0.0)},
        {"epochs": 0},
        {"batch": 0},
        {"holdout": 0.0},
        {"holdout": 1.0},
        {"features": ()},
        {"features": ("n3m0",)},
        {"features": ("x",)},
    ],
)
def test_a_probe_that_cannot_be_trained_is_refused(context, wrong):
    with pytest.raises(ConfigError):
        protocol.run(context, replace(LinearSettings(augment="none"), **wrong))


def test_a_sweep_cut_off_after_an_epoch_goes_on_where_it_was(tmp_path, monkeypatch):
    features, labels = problem(5, rows=40, dim=4, classes=3)
    judge = {CLASS_TOKEN: features_of(features, labels)}

    def train(cut=None):
        sweep, seen = LinearSweep(4, 3, (0.5, 4.0)), []

        def steps(epoch):
            if epoch == cut:
                raise KeyboardInterrupt
            seen.append(epoch)
            yield {CLASS_TOKEN: features}, labels, 40

        state = StateFile(tmp_path / "sweep.state", Processes())
        sweeps, options = {CLASS_TOKEN: sweep}, {"epochs": 4, "over_epochs": True, "state": state}
        return training.train_sweeps(sweeps, steps, judge, **options), seen

    want, _ = train()
    monkeypatch.setattr(state_file, "SAVE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        train(cut=2)
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.state"]
    there = []
    monkeypatch.setattr(state_file, "barrier", lambda: there.append(len(list(tmp_path.iterdir()))))
    found, seen = train()
    assert there == [1], "other processes may still read the state"
    assert seen == [2, 3] and not list(tmp_path.iterdir())
    (a, last), (b, want_last) = found[CLASS_TOKEN], want[CLASS_TOKEN]
    assert last == want_last
    assert (a.score, a.epoch, a.rate) == (b.score, b.epoch, b.rate)
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def test_a_probe_goes_on_from_a_state_in_the_layout_of_before(context, monkeypatch):
    """Every name below stands in files that lie on disks: none may change."""
    settings = LinearSettings(rates=(0.1, 2.0), epochs=3, features=("n2m0",), augment="none")
    file = context.out / f"sweep-{context.identity('linear', plain(settings))}.state"
    (want,) = protocol.run(context, settings)
    factor = training.cosine_factor

    def cut(epoch, epochs):
        if epoch == 2:
            raise KeyboardInterrupt
        return factor(epoch, epochs)

    monkeypatch.setattr(training, "cosine_factor", cut)
    monkeypatch.setattr(state_file, "SAVE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        protocol.run(context, settings)
    now = torch.load(file, weights_only=True)
    names = ("weight", "bias", "weight_momentum", "bias_momentum")
    tensors = {name: now["sweeps"]["n2m0"][name] for name in names}
    torch.save({"epoch": 2, "sweeps": {"n2m0": tensors}, "best": {}}, file)
    assert now["epoch"] == 2 and not now["best"] and len(now["sweeps"]["n2m0"]) == 4
    epochs = []
    monkeypatch.setattr(training, "cosine_factor", lambda *at: epochs.append(at[0]) or factor(*at))
    (found,) = protocol.run(context, settings)
    assert epochs == [2] and found.value == want.value
    assert found.extra["rates"] == want.extra["rates"]


def test_the_best_of_a_state_in_the_layout_of_before_is_read(tmp_path):
    best = 0.5, 0, 1, torch.ones(2, 3), torch.zeros(2)
    sweep = LinearSweep(3, 2, (0.1, 0.2))
    content = {"epoch": 2, "sweeps": {"f": sweep.state()}, "best": {"f": list(best)}}
    torch.save(content, tmp_path / "sweep.state")
    start, kept = training._resume(
        StateFile(tmp_path / "sweep.state", Processes()), {"f": LinearSweep(3, 2, (0.1, 0.2))}
    )
    assert start == 2 and (kept["f"].score, kept["f"].epoch, kept["f"].rate) == best[:3]
    assert torch.equal(kept["f"].weight, best[3]) and torch.equal(kept["f"].bias, best[4])
