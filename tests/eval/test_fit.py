"""The fit with customers that fine-tuning does not know: a dense head, batches of any kind."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.config.schema import ModelConfig
from ibot.errors import RunError, TrainingStopped, WeightsError
from ibot.eval.fit import CHECKPOINT, Fit, Validation
from ibot.models.backbone import build_backbone

COLORS = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0]])
"""Of ground, first and second kind of square, normalised."""


def squares(count=6, size=32):
    """Images float32 [n, 3, size, size] with two coloured squares, and label maps int64."""
    random = torch.Generator().manual_seed(0)
    labels = torch.zeros(count, size, size, dtype=torch.int64)
    for i in range(count):
        for kind in (1, 2):
            top, left = (4 * torch.randint(0, 6, (2,), generator=random)).tolist()
            labels[i, top : top + 8, left : left + 8] = kind
    noise = torch.randn(count, 3, size, size, generator=random)
    return COLORS[labels].permute(0, 3, 1, 2) + noise, labels


class DenseNetwork(nn.Module):
    """A ViT and a 1 x 1 convolution on its patches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        vit = ModelConfig(width=32, depth=1, heads=2, patch=4)
        self.backbone = build_backbone(vit, (32, 32), drop_path=0.2)
        self.head = nn.Conv2d(32, 3, 1)

    def forward(self, images):
        out = self.backbone(images)
        logits = self.head(out.patches.transpose(1, 2).unflatten(2, out.grid))
        return F.interpolate(logits, size=images.shape[-2:], mode="nearest")


def mean_iou(found, truth):
    shares = [
        ((found == k) & (truth == k)).sum() / ((found == k) | (truth == k)).sum() for k in (0, 1, 2)
    ]
    return torch.stack(shares).mean().item()


def dense_fit(folder, progress=None, epochs=6):
    """Segmentation of six images; a step is two micro-batches of three."""
    images, labels = squares()
    network = DenseNetwork()

    def batches(step):
        while True:
            order = torch.randperm(6, generator=torch.Generator().manual_seed(step))
            yield from order.split(3)
            step += 1

    def validate():
        found = network(images).argmax(dim=1)
        return Validation({"miou": mean_iou(found, labels)}, {"found": found})

    return Fit(
        model=network,
        optimizer=torch.optim.AdamW(network.parameters()),
        lr=lambda step: 3e-3 * min(1.0, (step + 1) / 5),
        batches=batches,
        loss=lambda net, i, step, part: F.cross_entropy(net(images[i]), labels[i]),
        validate=validate,
        best_by="miou",
        epochs=epochs,
        steps_per_epoch=6,
        micro_batches=2,
        folder=folder,
        identity={"task": "squares"},
        ema_decay=0.9,
        checkpoint_steps=4,
        progress=progress,
    )


def load(folder, name=CHECKPOINT):
    return torch.load(folder / name, weights_only=True)


def assert_equal(a, b):
    """Nested containers are the same, tensors bit by bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


class StopError(Exception):
    """Cuts a training off."""


def stop_at(*steps):
    def progress(done, total):
        if done in steps:
            raise StopError

    return progress


def test_a_dense_head_is_over_fitted_and_goes_on_bit_by_bit_where_it_was_cut_off(tmp_path):
    whole = dense_fit(tmp_path / "whole")
    whole.run()
    assert whole.scores[0]["miou"] < 0.8 and whole.scores[-1]["miou"] > 0.9
    for stop, saved in ((5, 4), (21, 20)):
        with pytest.raises(StopError):
            dense_fit(tmp_path / "cut", progress=stop_at(stop)).run()
        assert load(tmp_path / "cut")["step"] == saved
    dense_fit(tmp_path / "cut").run()
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    assert names == {file.name for file in (tmp_path / "cut").iterdir()}
    assert names == {CHECKPOINT, whole.epoch_file(whole.best_epoch).name, "epoch_00000005.pt"}
    for name in names:
        assert_equal(load(tmp_path / "whole", name), load(tmp_path / "cut", name))
    best = whole.output(whole.best_epoch)
    assert mean_iou(best["found"], squares()[1]) == whole.scores[whole.best_epoch]["miou"]
    network = DenseNetwork().eval()
    network.load_state_dict(best["model"])
    assert torch.equal(network(squares()[0]).argmax(dim=1), best["found"])


@dataclass
class Line:
    """y = w x, whose gradients are known; notes what the fit asks for."""

    folder: Path
    metrics: tuple[float, ...] = (1.0, 3.0, 3.0, 2.0)

    def __post_init__(self):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.model.weight, 2.0)
        self.asked, self.validated = [], []

    def batches(self, step):
        for number in range(step, 100):
            for part in (0, 1):
                yield [{"x": torch.tensor([float(part + 1)]), "name": f"{number}.{part}"}]

    def loss(self, network, batch, step, part):
        self.asked.append((batch[0]["name"], step, part, network.training))
        return network(batch[0]["x"]).sum()

    def validate(self):
        self.validated.append((self.model.training, torch.is_grad_enabled()))
        return Validation({"score": self.metrics[len(self.validated) - 1]}, {"kept": [1, "a"]})

    def fit(self, **changes):
        weight = [self.model.weight]
        given = {
            "model": self.model,
            "optimizer": torch.optim.SGD([{"params": weight, "lr_scale": 0.5}], lr=9.0),
            "lr": lambda step: 0.1 * (step + 1),
            "batches": self.batches,
            "loss": self.loss,
            "validate": self.validate,
            "best_by": "score",
            "epochs": 4,
            "steps_per_epoch": 2,
            "micro_batches": 2,
            "folder": self.folder,
            "identity": {"task": "line", "rates": {"top": 0.1}},
        }
        return Fit(**{**given, **changes})


def test_a_step_averages_its_micro_batches_and_takes_the_rate_of_the_step(tmp_path):
    line, seen = Line(tmp_path), []
    fit = line.fit(epochs=1, ema_decay=0.75, progress=lambda *now: seen.append(now))
    fit.run()
    # The gradient of every step is the mean of 1 and 2; rates are half of 0.1 and of 0.2.
    first, second = 2 - 1.5 * 0.05, 2 - 1.5 * 0.15
    assert line.model.weight.item() == pytest.approx(second)
    assert fit.ema[0].item() == pytest.approx(0.75 * (0.75 * 2 + 0.25 * first) + 0.25 * second)
    assert fit.scores[0]["train_loss"] == pytest.approx((1.5 * 2 + 1.5 * first) / 2)
    assert line.asked == [
        (f"{step}.{part}", step, part, True) for step in (0, 1) for part in (0, 1)
    ]
    assert seen == [(1, 2), (2, 2)] and line.validated == [(False, False)]
    assert not line.model.training


def test_the_first_best_and_the_last_epoch_are_kept(tmp_path):
    fit = Line(tmp_path).fit()
    fit.run()
    assert [score["epoch"] for score in fit.scores] == [0, 1, 2, 3] and fit.best_epoch == 1
    names = {file.name for file in tmp_path.glob("epoch*")}
    assert names == {"epoch_00000001.pt", "epoch_00000003.pt"}
    assert fit.output(1)["kept"] == [1, "a"] and fit.output(3)["model"] is None
    again = Line(tmp_path)
    finished = again.fit()
    finished.run()
    assert not again.asked and not again.validated and finished.scores == fit.scores
    assert_equal(finished.model.state_dict(), fit.model.state_dict())


def test_what_could_not_be_read_is_remembered(tmp_path):
    line, bad = Line(tmp_path), set()
    loss = line.loss

    def noted(network, batch, step, part):
        bad.add(("train", step, "broken"))
        return loss(network, batch, step, part)

    with pytest.raises(StopError):
        line.fit(loss=noted, bad=bad, checkpoint_steps=1, progress=stop_at(3)).run()
    assert bad == {("train", step, "broken") for step in (0, 1, 2)}
    resumed = Line(tmp_path).fit()
    resumed.run()
    assert resumed.bad == bad


def test_a_folder_of_another_training_or_a_damaged_one_is_refused(tmp_path):
    Line(tmp_path).fit(epochs=1).run()
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(RunError, match=r"top was 0.1, now 0.2"):
        Line(tmp_path).fit(identity={"task": "line", "rates": {"top": 0.2}}).run()
    other = Line(tmp_path)
    nn.init.constant_(other.model.weight, 3.0)
    with pytest.raises(RunError, match="initial weights was"):
        other.fit().run()
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    (tmp_path / CHECKPOINT).write_bytes(before[:100])
    with pytest.raises(WeightsError, match="cannot be read") as refused:
        Line(tmp_path).fit().run()
    assert f"delete the folder '{tmp_path}'" in refused.value.fix


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path):
    line = Line(tmp_path)

    def loss(network, batch, step, part):
        return network(batch[0]["x"]).sum() / (step != 3)

    with pytest.raises(TrainingStopped, match="not finite at step 4"):
        line.fit(loss=loss).run()
    assert load(tmp_path)["step"] == 2 and len(line.validated) == 1


def test_random_numbers_of_a_loss_belong_to_the_step(tmp_path):
    drawn = []

    def loss(network, batch, step, part):
        drawn.append((step, torch.rand(()).item()))
        return network(batch[0]["x"]).sum()

    with pytest.raises(StopError):
        Line(tmp_path).fit(loss=loss, progress=stop_at(3)).run()
    Line(tmp_path).fit(loss=loss, seed=0).run()
    by_step = {}
    for step, value in drawn:
        by_step.setdefault(step, set()).add(value)
    assert sorted(by_step) == list(range(8)) and [len(by_step[s]) for s in range(8)] == [1] * 8
    assert len(set().union(*by_step.values())) == 8


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_products_run_in_the_precision_and_small_gradients_of_float16_are_scaled(
    tmp_path, precision
):
    def run(folder, **changes):
        line, seen = Line(folder, metrics=(1.0,) * 4), []

        def loss(network, batch, step, part):
            seen.append(network(batch[0]["x"]).dtype)
            return 1e-8 * line.loss(network, batch, step, part).float()

        def validate():
            seen.append(line.model(torch.ones(1)).dtype)
            return line.validate()

        given = {"loss": loss, "validate": validate, "lr": lambda step: 1e5 * (step + 1)}
        fit = line.fit(precision=precision, **given, **changes)
        with suppress(StopError):
            fit.run()
        return fit, set(seen)

    whole, seen = run(tmp_path / "whole")
    assert seen == {precision} and whole.model.weight.dtype == torch.float32
    # 1e-8 is zero in float16: without a scale the weight would stay 2.
    moved = 2 - whole.model.weight.item()
    assert moved == pytest.approx(1.5e-8 * 0.5 * 1e5 * 36, rel=0.02)
    run(tmp_path / "cut", checkpoint_steps=1, progress=stop_at(4))
    resumed, _ = run(tmp_path / "cut")
    assert_equal(load(tmp_path / "whole"), load(tmp_path / "cut"))
    scaler = load(tmp_path / "cut")["scaler"]
    assert (scaler is None) == (precision == torch.bfloat16) and resumed.step == 8
