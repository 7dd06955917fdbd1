"""The sweep against classifiers trained one by one with torch's own tools."""

import pytest
import torch

from ibot.config.evaluation import SWEEP
from ibot.engine.optimizer import LARS
from ibot.eval.linear import LinearSweep, Optimizer, cosine_factor


def problem(seed, rows=96, dim=20, classes=7):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=g)
    return torch.randn(rows, dim, generator=g) + torch.randn(classes, dim, generator=g)[labels], labels


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
        "sgd": lambda layer, rate: torch.optim.SGD(layer.parameters(), rate, momentum=0.9, weight_decay=decay),
        "lars": lambda layer, rate: LARS(
            [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias], "weight_decay": 0.0}], lr=rate
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
        assert torch.equal(alone.logits(features)[0].argmax(1), together.logits(features)[i].argmax(1))


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
