import hashlib
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import script_in_two, start_script

from ibot.config.schema import HeadConfig, ModelConfig
from ibot.data.decode import UnreadableImage, decode
from ibot.data.scenes import write_folder
from ibot.data.sets.open import find_labelled
from ibot.errors import ConfigError, DataError, RunError, TrainingStopped, UserError, WeightsError
from ibot.eval.fit import CHECKPOINT
from ibot.eval.tune.network import Classifier, projection_layers
from ibot.eval.tune.settings import (
    FinetuneSettings,
    imagenet_settings,
    sane_settings,
    semi_supervised_settings,
    transfer_settings,
)
from ibot.eval.tune.step_plan import StepOrder, finetune_lr, plan_steps
from ibot.eval.tune.training import finetune
from ibot.models.backbone import build_backbone
from ibot.models.head import ProjectionHead
from ibot.system.distributed import init_processes, shutdown
from ibot.system.processes import Processes

CPU = torch.device("cpu")
VIT = ModelConfig(width=32, depth=2, heads=2, patch=8)
SMALL = FinetuneSettings(
    epochs=2, batch=16, micro_batch=4, warmup_epochs=1, ema_decay=0.9, checkpoint_steps=2
)
"""Three steps of four micro-batches per epoch on the set below."""


class Scenes:
    """A labelled folder; some numbers cannot be read."""

    def __init__(self, source, broken=()):
        self.source, self.broken = source, broken

    def __len__(self):
        return len(self.source)

    def name(self, index):
        return self.source.name(index)

    def label(self, index):
        return self.source.label(index)

    def read(self, index):
        if index in self.broken:
            raise UnreadableImage("corrupt")
        return decode(self.source.path(index))


def scenes(folder: Path, count=(50, 30)) -> tuple[Scenes, Scenes]:
    write_folder(folder, train=count[0], val=count[1])
    train, val = find_labelled(str(folder))
    return Scenes(train), Scenes(val)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return scenes(tmp_path_factory.mktemp("scenes"))


def network(settings=SMALL, size=32, classes=10, **changes):
    torch.manual_seed(0)
    return Classifier(build_backbone(replace(VIT, **changes), (size, size)), classes, settings)


def run(sets, folder, settings=SMALL, classifier=None, **options):
    options = {"size": 32, "device": CPU, **options}
    return finetune(classifier or network(settings), *sets, settings, folder=folder, **options)


def stored(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)


def assert_same(a, b, **tolerance):
    """Nested containers are equal; tensors within the tolerance, bit by bit without one."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key], **tolerance)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y, **tolerance)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))
    else:
        assert a == (pytest.approx(b, rel=1e-4) if tolerance and isinstance(a, float) else b)


def test_recipes_are_the_published_tables():
    rows = [imagenet_settings(name) for name in ("small", "base", "large")]
    assert [(s.epochs, s.warmup_epochs, s.layer_decay, s.drop_path) for s in rows] == [
        (200, 20, 0.75, 0.1),
        (100, 20, 0.65, 0.2),
        (50, 5, 0.75, 0.4),
    ]
    assert [(s.batch, s.micro_batch) for s in rows] == [(1024, 128), (1024, 128), (1024, 64)]
    assert replace(rows[0], precision="auto", keep_size=True) == FinetuneSettings()
    peaks = {
        name: [transfer_settings(name, size).lr * 768 / 512 for size in ("base", "small")]
        for name in ("cifar10", "cifar100", "cars", "flowers", "inat18", "inat19")
    }
    assert {name: pytest.approx(pair) for name, pair in peaks.items()} == {
        "cifar10": [1.125e-5, 1.125e-5],
        "cifar100": [1.125e-5, 1.125e-5],
        "cars": [1.125e-4, 1.125e-4],
        "flowers": [1.125e-5, 1.125e-5],
        "inat18": [1.125e-5, 7.5e-5],
        "inat19": [1.125e-5, 3.75e-5],
    }
    assert [transfer_settings(name, "base").epochs for name in ("cars", "inat18", "inat19")] == [
        1000,
        360,
        360,
    ]
    assert [transfer_settings(name, "base").erasing for name in ("cars", "inat18", "inat19")] == [
        0.25,
        0.1,
        0.1,
    ]
    few = semi_supervised_settings()
    assert not any(
        settings.keep_size for settings in (*rows, few, transfer_settings("cars", "small"))
    )
    assert (few.head_layers, few.repeats, few.decay_tokens, few.layer_decay, few.init_scale) == (
        1,
        3,
        True,
        1.0,
        1.0,
    )


@pytest.mark.parametrize(
    "call", [lambda: transfer_settings("pets", "base"), lambda: imagenet_settings("huge")]
)
def test_unknown_names_are_refused_with_the_known_ones(call):
    with pytest.raises(UserError, match="use one of"):
        call()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", 0, "at least 1"),
        ("epochs", -1, "at least 1"),
        ("batch", 0, "at least 1"),
        ("micro_batch", 0, "at least 1"),
        ("repeats", 0, "at least 1"),
        ("lr", 0.0, "above 0"),
        ("layer_decay", 0.0, "above 0"),
        ("drop_path", 1.0, "below 1"),
        ("ema_decay", 1.0, "below 1"),
        ("erasing", 1.1, "between 0 and 1"),
        ("label_smoothing", -0.1, "between 0 and 1"),
        ("head_layers", 4, "between 0 and 3"),
        ("warmup_epochs", -1, "at least 0"),
        ("mixup", -0.5, "at least 0"),
        ("checkpoint_steps", -1, "at least 0"),
    ],
)
def test_numbers_with_which_nothing_can_be_trained_are_refused(name, value, wanted):
    with pytest.raises(ConfigError, match=f"^{name}={value} ") as caught:
        replace(SMALL, **{name: value})
    assert (
        wanted in caught.value.why
        and caught.value.fix == f"for example {name}={getattr(FinetuneSettings(), name)}"
    )


def test_own_data_get_a_length_that_fits():
    for num_train, epochs in ((100, 100), (50_000, 100), (150_000, 34), (1_281_167, 30)):
        settings = sane_settings("base", num_train)
        assert (
            settings.epochs == epochs and settings.layer_decay == 0.75 and settings.drop_path == 0.2
        )
        assert settings.keep_size
    assert finetune_lr(5 * 10, settings, steps_per_epoch=10, batch=64) == pytest.approx(1e-3 / 4)


def test_rates_per_step_are_the_printed_ones():
    settings = imagenet_settings("base")

    def lr(step):
        return finetune_lr(step, settings, steps_per_epoch=1251, batch=1024)

    assert lr(0) == 0 and lr(1) == pytest.approx(3.996962e-8, rel=1e-6)
    assert lr(25_019) == lr(25_020) == 1e-3
    assert lr(75_060) == pytest.approx(5.005e-4, rel=1e-6) and lr(125_099) == pytest.approx(
        1e-6, rel=1e-6
    )


@pytest.mark.parametrize(
    "settings", [semi_supervised_settings(), transfer_settings("cars", "base")]
)
@pytest.mark.parametrize("batch", [1024, 768, 256])
def test_rates_per_epoch_are_those_of_timms_scheduler(settings, batch):
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr * batch / 512)
    scheduler = CosineLRScheduler(
        optimizer, settings.epochs, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6
    )
    for epoch in range(settings.epochs):
        for step in (7 * epoch, 7 * epoch + 6):
            got = finetune_lr(step, settings, steps_per_epoch=7, batch=batch)
            assert got == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        scheduler.step(epoch)


def test_the_cosine_of_few_labels_is_flat_and_rises_for_small_batches():
    settings = semi_supervised_settings()
    rates = [finetune_lr(epoch, settings, steps_per_epoch=1, batch=1024) for epoch in range(1000)]
    assert rates[:6] == pytest.approx([1e-6, 1e-6, 2.8e-6, 4.6e-6, 6.4e-6, 8.2e-6])
    assert rates[6:] == pytest.approx([1e-5] * 994)
    transfer = transfer_settings("cifar10", "base")
    assert finetune_lr(501, transfer, steps_per_epoch=1, batch=768) == pytest.approx(1.0625e-5)
    small = [finetune_lr(epoch, settings, steps_per_epoch=1, batch=576) for epoch in (6, 999)]
    assert small[0] == pytest.approx(5.6e-6, rel=0.01) and small[1] == pytest.approx(1e-5, rel=0.01)


def test_published_batches_are_cut_alike_on_one_process_and_on_eight():
    for world in (1, 2, 8):
        plan = plan_steps(1_281_167, 1000, FinetuneSettings(), world)
        assert (plan.micro_batch, plan.parts, plan.steps_per_epoch, plan.notes) == (
            128,
            8,
            1251,
            (),
        )
    plan = plan_steps(50_000, 10, transfer_settings("cifar10", "base"), 8)
    assert (plan.micro_batch, plan.parts, plan.steps_per_epoch) == (96, 8, 65)


@pytest.mark.parametrize(
    ("images", "world", "repeats", "wanted"),
    [
        (100, 1, 1, (100, 1, 1)),
        (101, 1, 1, (100, 1, 1)),
        (200, 2, 3, (100, 2, 1)),
        (2000, 3, 1, (112, 9, 1)),
        (3, 1, 1, (2, 1, 1)),
    ],
)
def test_a_batch_that_does_not_fit_is_lowered_with_a_note(images, world, repeats, wanted):
    plan = plan_steps(images, 10, replace(FinetuneSettings(), repeats=repeats), world)
    assert (plan.micro_batch, plan.parts, plan.steps_per_epoch) == wanted
    [note] = plan.notes
    assert f"the batch is {plan.batch} instead of 1024" in note


def test_mixing_needs_two_images_and_two_classes():
    assert plan_steps(100, 10, FinetuneSettings()).mixing
    assert not plan_steps(100, 1, FinetuneSettings()).mixing
    lonely = plan_steps(3, 10, FinetuneSettings(), 2)
    assert not lonely.mixing and lonely.micro_batch == 1 and "mixup" in lonely.notes[0]
    for images in (0, 1):
        with pytest.raises(DataError, match="do not suffice for 2 processes"):
            plan_steps(images, 10, FinetuneSettings(), 2)


def test_each_epoch_has_every_image_once_and_processes_share_the_micro_batches():
    settings = replace(SMALL, epochs=2)
    plan = plan_steps(50, 10, settings)
    alone = list(StepOrder(50, plan, settings, 0, Processes(), 0))
    assert len(alone) == 2 * plan.steps_per_epoch * plan.parts == 24 and {
        len(keys) for keys in alone
    } == {4}
    for epoch in (0, 1):
        images = [i for keys in alone for e, i, _ in keys if e == epoch]
        assert len(images) == len(set(images)) == 48
    shared = [list(StepOrder(50, plan, settings, 0, Processes(rank, 2), 0)) for rank in (0, 1)]
    assert [keys for pair in zip(*shared, strict=True) for keys in pair] == alone
    assert list(StepOrder(50, plan, settings, 0, Processes(), 4)) == alone[4 * plan.parts :]


def test_a_classifier_starts_as_published():
    backbone = build_backbone(replace(VIT, width=384, heads=6), (32, 32), masked=True)
    published = Classifier(backbone, 1000, FinetuneSettings())
    assert published.head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.01)
    assert not published.head.bias.any() and published.num_classes == 1000
    assert (
        Classifier(
            backbone, 1000, semi := replace(FinetuneSettings(), init_scale=1.0)
        ).head.weight.std()
        > 0.019
    )
    assert torch.equal(
        published.head.weight, Classifier(backbone, 1000, FinetuneSettings()).head.weight
    )
    assert not torch.equal(
        published.head.weight, Classifier(backbone, 1000, semi, seed=1).head.weight
    )
    assert not any(
        p.requires_grad for name, p in published.named_parameters() if "masked_embed" in name
    )


@pytest.mark.parametrize(
    "config",
    [
        VIT,
        replace(VIT, registers=2),
        replace(VIT, mean_pooling=True),
        ModelConfig(kind="swin", width=8, depths=(1, 1), stage_heads=(1, 2), patch=4, window=4),
    ],
)
def test_logits_are_the_linear_layer_on_the_class_token(config):
    classifier = Classifier(
        build_backbone(config, (32, 32)), 7, FinetuneSettings(init_scale=1.0)
    ).eval()
    images = torch.randn(3, 3, 32, 32)
    wanted = classifier.head(classifier.backbone(images).cls)
    torch.testing.assert_close(classifier(images), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_drop_path_is_set_as_if_the_backbone_had_been_built_with_it(kind):
    config = ModelConfig(
        kind=kind, width=8, depth=3, heads=1, depths=(1, 2), stage_heads=(1, 1), patch=4, window=4
    )
    plain, wanted = (
        build_backbone(config, (16, 16)),
        build_backbone(config, (16, 16), drop_path=0.3),
    )
    Classifier(plain, 2, FinetuneSettings(drop_path=0.3))
    got, expected = (
        [b.drop_path.rate for b in net.blocks_for_sharding()] for net in (plain, wanted)
    )
    assert got == pytest.approx(expected) and got[0] == 0 and got[-1] == 0.3


def test_positions_are_resampled_once_to_the_exact_size():
    backbone = build_backbone(replace(VIT, patch=16), (224, 224))
    table = backbone.pos_embed.detach().clone()
    backbone.resize_positions((224, 224), "exact")
    assert torch.equal(backbone.pos_embed, table)
    maps = table[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(
        maps, size=(30, 30), mode="bicubic", align_corners=False
    )
    inside = backbone.positions((30, 30), square=True)
    backbone.resize_positions((480, 480), "exact")
    got = backbone.positions((30, 30), square=True)
    assert got is backbone.pos_embed and torch.equal(got[:, 0], table[:, 0])
    torch.testing.assert_close(got[:, 1:], wanted.permute(0, 2, 3, 1).flatten(1, 2))
    assert 1e-3 < (got - inside).abs().max() < 0.02  # variants A and B are not equal (8.0)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_kept_head_layers_compute_what_the_projection_head_computes(count):
    head = ProjectionHead(32, HeadConfig(out_dim=24, hidden_dim=20, bottleneck_dim=12), shared=True)
    head.last_layer.weight_g.data.uniform_(0.5, 2)
    x = torch.randn(5, 32)
    wanted = {0: x, 1: head.mlp[:2](x), 2: head.mlp[:4](x), 3: head.cls_layer(head.project(x))}[
        count
    ]
    settings = replace(SMALL, head_layers=count)
    classifier = Classifier(build_backbone(VIT, (32, 32)), 3, settings, head=head)
    torch.testing.assert_close(classifier.projection(x), wanted)
    assert classifier.head.in_features == wanted.shape[1]
    assert all(p.requires_grad for p in classifier.parameters())


def test_kept_layers_are_a_copy_that_is_trained():
    head = ProjectionHead(
        8, HeadConfig(norm="ln", norm_shared=True, norm_last_layer=True), shared=True
    )
    kept = projection_layers(head, 3)
    assert (
        all(p.requires_grad for p in kept.parameters())
        and not head.last_layer.weight_g.requires_grad
    )
    assert not {id(p) for p in kept.parameters()} & {id(p) for p in head.parameters()}
    x = torch.randn(2, 8)
    torch.testing.assert_close(projection_layers(head, 1)(x), head.mlp[:3](x))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "no projection head"),
        (HeadConfig(layers=2), "it has 2"),
        (HeadConfig(layers=1), "it has 1"),
        (HeadConfig(norm="bn"), "batch norm"),
    ],
)
def test_a_head_without_the_layers_is_refused(config, why):
    head = None if config is None else ProjectionHead(8, config, shared=True)
    with pytest.raises(WeightsError, match="3 leading layers") as refused:
        projection_layers(head, 3)
    assert why in str(refused.value)


class Colors:
    """Noise around the colour of the class."""

    def __init__(self, count, seed):
        self.count, self.seed = count, seed

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{index}.png"

    def label(self, index):
        return index % 5

    def read(self, index):
        noise = np.random.default_rng((self.seed, index)).normal(0, 40, (32, 32, 3))
        color = np.array(
            [[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60], [60, 200, 200]]
        )[index % 5]
        return (noise + color).clip(0, 255).astype(np.uint8)


def test_training_learns_and_keeps_the_best_epoch(tmp_path):
    sets = Colors(80, 0), Colors(40, 1)
    settings = FinetuneSettings(
        epochs=6,
        batch=16,
        lr=3e-3,
        warmup_epochs=1,
        mixup=0,
        cutmix=0,
        auto_augment="",
        drop_path=0,
    )
    classifier = network(settings, classes=5, init="xavier")
    seen = []
    got = run(
        sets,
        tmp_path,
        settings,
        classifier,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 30) for i in range(30)]
    assert got.scores[0].train_loss > 1.4 > got.scores[-1].train_loss
    assert got.scores[-1].top1 > 60 and got.scores[-1].top5 == 100
    assert got.scores[got.best_epoch].top1 == max(score.top1 for score in got.scores)
    for logits, epoch in ((got.best_logits, got.best_epoch), (got.last_logits, 5)):
        assert 100 * (logits.argmax(1) == got.labels).double().mean() == pytest.approx(
            got.scores[epoch].top1
        )
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {CHECKPOINT, f"epoch_{got.best_epoch:08d}.pt", "epoch_00000005.pt"}
    best = torch.load(got.best_weights, weights_only=True)["model"]
    assert best.keys() == classifier.state_dict().keys() and not classifier.training
    again = run(sets, tmp_path, settings, network(settings, classes=5, init="xavier"))
    assert again.scores == got.scores and torch.equal(again.best_logits, got.best_logits)


def naive_step(classifier, sets, settings, step_lr):
    """The first optimizer step without drop path, mixing and micro-batches: AdamW's first step is
    known in closed form.

    With zero moments, the update of every parameter is lr * (sign of the gradient, softened by eps)
    and decay.
    """
    from ibot.eval.tune.augment import TrainingViews, deal, finetune_transform
    from ibot.rng import permutation

    views = TrainingViews(sets[0], finetune_transform(settings, 32), 0)
    order = permutation(0, 0, len(sets[0]))
    samples = [views[(0, int(i), 0)] for part in range(4) for i in deal(order, 1, part, 4)[0][:4]]
    logits = classifier(torch.stack([s.view for s in samples]))
    target = torch.tensor([s.label for s in samples])
    torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1).backward()
    wanted = {}
    for name, p in classifier.named_parameters():
        layer = 0 if "patch_embed" in name or "_token" in name or "pos_embed" in name else 3
        layer = int(name.split(".")[2]) + 1 if "blocks" in name else layer
        decay = 0.05 if p.ndim == 2 or "proj.weight" in name else 0.0
        lr = step_lr * settings.layer_decay ** (3 - layer)
        wanted[name] = p.detach() * (1 - lr * decay) - lr * p.grad / (p.grad.abs() + 1e-8)
    return wanted


class StopError(Exception):
    """Cuts a training off."""


def stop_at(step):
    def progress(done, total):
        if done == step:
            raise StopError

    return progress


def test_a_checkpoint_in_the_layout_of_before_is_resumed_bit_by_bit(sets, tmp_path):
    """Every name below stands in files that lie on disks: none may change."""
    whole = run(sets, tmp_path / "whole")
    with pytest.raises(StopError):
        run(sets, tmp_path / "cut", progress=stop_at(5))
    now, classifier = stored(tmp_path / "cut"), network()
    start, labels = hashlib.sha256(), hashlib.sha256()
    for name, tensor in classifier.state_dict().items():
        start.update(name.encode() + tensor.flatten().view(torch.uint8).numpy().tobytes())
    for part in sets:
        labels.update(np.array([part.label(i) for i in range(len(part))], np.int64).tobytes())
    settings = asdict(SMALL)
    del settings["checkpoint_steps"]
    states = dict(enumerate(now["optimizer"]["state"].values()))
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in states.values())
    assert len(now["ema"]) == len(list(classifier.parameters())) >= len(states)
    [score] = now["scores"]
    before = {
        "identity": {
            "seed": 0,
            "size": 32,
            "settings": settings,
            "cut": [4, 4],
            "initial weights": start.hexdigest()[:16],
            "labels": labels.hexdigest()[:16],
        },
        "model": {name: now["model"][name] for name in classifier.state_dict()},
        "optimizer": {"state": states, "param_groups": now["optimizer"]["param_groups"]},
        "scaler": None,
        "ema": list(now["ema"]),
        "step": 4,
        "loss_sum": torch.tensor(now["loss_sum"].item()),
        "scores": [{name: score[name] for name in ("epoch", "train_loss", "top1", "top5")}],
        "bad": [],
    }
    assert_same(now, before)
    epoch = torch.load(tmp_path / "cut" / "epoch_00000000.pt", weights_only=True)
    assert set(epoch) == {"index", "logits", "model"}
    (tmp_path / "old").mkdir()
    torch.save(before, tmp_path / "old" / "checkpoint.pt")
    torch.save(epoch, tmp_path / "old" / "epoch_00000000.pt")
    resumed = run(sets, tmp_path / "old")
    assert resumed.scores == whole.scores
    assert torch.equal(resumed.last_logits, whole.last_logits)
    assert torch.equal(resumed.best_logits, whole.best_logits)
    assert_same(stored(tmp_path / "old"), stored(tmp_path / "whole"))


def test_a_step_is_adamw_with_the_rates_of_the_layers_on_the_whole_batch(sets, tmp_path):
    settings = replace(
        SMALL,
        epochs=1,
        warmup_epochs=0,
        mixup=0,
        cutmix=0,
        drop_path=0,
        checkpoint_steps=1,
        init_scale=1.0,
    )
    wanted = naive_step(network(settings), sets, settings, 1e-3)

    with pytest.raises(StopError):
        run(sets, tmp_path, settings, progress=stop_at(1))
    state = stored(tmp_path)
    assert state["step"] == 1
    for name, value in wanted.items():
        # A gradient near eps turns float32 rounding of the batch's order into a part of lr.
        torch.testing.assert_close(
            state["model"][name], value, rtol=0, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    means = [0.9 * p + 0.1 * state["model"][n] for n, p in network(settings).named_parameters()]
    assert_same(state["ema"], means, rtol=0, atol=1e-6)


def test_unreadable_images_are_reported_and_left_out_of_the_score(sets, tmp_path):
    train, val = (Scenes(part.source, broken=(3, 4)) for part in sets)
    got = run((train, val), tmp_path, replace(SMALL, epochs=1))
    assert got.index.tolist() == [i for i in range(30) if i not in (3, 4)]
    assert got.last_logits.shape == (28, 10) and len(got.labels) == 28
    parts = {"train": train, "val": val}
    assert got.bad == tuple(
        (name, part.source.name(i), "corrupt") for name, part in parts.items() for i in (3, 4)
    )
    assert run((train, val), tmp_path, replace(SMALL, epochs=1)).bad == got.bad  # from the folder
    with pytest.raises(DataError, match="none of the 30 validation images"):
        run(
            (train, Scenes(val.source, broken=range(30))),
            tmp_path / "none",
            replace(SMALL, epochs=1),
        )
    with pytest.raises(DataError, match="50 training images in a row") as refused:
        run(
            (Scenes(train.source, broken=range(50)), val),
            tmp_path / "all",
            replace(SMALL, epochs=1),
        )
    assert ".png': corrupt" in refused.value.why


def test_workers_and_another_input_size_change_nothing_else(sets, tmp_path):
    settings = replace(SMALL, epochs=1)
    for workers in (0, 2):
        run(sets, tmp_path / str(workers), settings, size=48, workers=workers)
    a, b = stored(tmp_path / "0"), stored(tmp_path / "2")
    assert a["model"]["backbone.pos_embed"].shape == (1, 37, 32)
    assert_same(a, b)


def test_every_parameter_of_a_swin_moves(sets, tmp_path):
    settings = replace(SMALL, epochs=1, warmup_epochs=0, init_scale=1.0)
    config = ModelConfig(kind="swin", width=8, depths=(1, 2), stage_heads=(1, 2), patch=4, window=4)
    classifier = Classifier(build_backbone(config, (32, 32)), 10, settings)
    before = {name: p.detach().clone() for name, p in classifier.named_parameters()}
    run(sets, tmp_path, settings, classifier, size=40)
    assert not [name for name, p in classifier.named_parameters() if torch.equal(p, before[name])]


def test_repeated_augmentation_and_head_layers_train_together(sets, tmp_path):
    settings = replace(semi_supervised_settings(), epochs=1, batch=16, micro_batch=8)
    head = ProjectionHead(32, HeadConfig(out_dim=24, hidden_dim=20, bottleneck_dim=12), shared=True)
    classifier = Classifier(build_backbone(VIT, (32, 32)), 10, settings, head=head)
    got = run(sets, tmp_path, settings, classifier)
    assert len(got.scores) == 1 and np.isfinite(got.scores[0].train_loss)
    assert not torch.equal(stored(tmp_path)["model"]["projection.0.weight"], head.mlp[0].weight)


def test_a_diverged_loss_stops_and_leaves_the_checkpoint_before(sets, tmp_path):
    with pytest.raises(TrainingStopped, match="not finite at step"):
        run(
            sets,
            tmp_path,
            replace(SMALL, lr=1e30, init_scale=1.0, warmup_epochs=0, checkpoint_steps=1),
        )
    assert (
        not (tmp_path / CHECKPOINT).exists()
        or stored(tmp_path)["model"]["head.weight"].isfinite().all()
    )


def test_a_folder_of_another_run_or_a_damaged_checkpoint_is_refused(sets, tmp_path):
    settings = replace(SMALL, epochs=1)
    run(sets, tmp_path, settings)
    with pytest.raises(RunError, match=r"weight_decay was 0.05, now 0.1"):
        run(sets, tmp_path, replace(settings, weight_decay=0.1))
    with pytest.raises(RunError, match=r"seed was 0, now 1"):
        run(sets, tmp_path, settings, seed=1)
    with pytest.raises(RunError, match="initial weights was"):
        run(sets, tmp_path, settings, network(settings, width=16))
    with pytest.raises(RunError, match="labels was"):
        run((sets[0], sets[0]), tmp_path, settings)
    run(sets, tmp_path, replace(settings, checkpoint_steps=7))
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read") as refused:
        run(sets, tmp_path, settings)
    assert f"delete the folder '{tmp_path}'" in refused.value.fix


def child(data: Path, folder: Path, kill_after: int) -> None:
    """Fine-tune in a process of its own, which dies after `kill_after` steps (0: lives)."""
    processes = init_processes(CPU)

    def progress(done, total):
        if done == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    run(scenes(data), folder, processes=processes, progress=progress)
    shutdown()


@pytest.mark.usefixtures("one_thread")
def test_a_run_killed_by_sigkill_and_resumed_ends_bit_by_bit_the_same(tmp_path):
    sets = scenes(tmp_path / "scenes")
    whole = run(sets, tmp_path / "whole")
    done = start_script(__file__, tmp_path / "scenes", tmp_path / "other", 5).ended()
    assert done.returncode == -signal.SIGKILL, done
    folder = tmp_path / "other"
    assert stored(folder)["step"] == 4 and len(stored(folder)["scores"]) == 1  # step 5 is lost
    # What a kill in the middle of writing leaves behind.
    (folder / f".{CHECKPOINT}.tmp").write_bytes(b"half")
    resumed = run(sets, folder)
    assert resumed.scores == whole.scores
    assert torch.equal(resumed.last_logits, whole.last_logits) and torch.equal(
        resumed.best_logits, whole.best_logits
    )
    assert_same(stored(folder), stored(tmp_path / "whole"))
    assert not list(folder.glob(".*"))


@pytest.mark.distributed
@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_numbers_of_one(tmp_path):
    whole = run(scenes(tmp_path / "scenes"), tmp_path / "whole")
    done = [
        process.ended()
        for process in script_in_two(__file__, tmp_path / "scenes", tmp_path / "other", 0)
    ]
    assert [process.returncode for process in done] == [0, 0], done
    a, b = stored(tmp_path / "whole"), stored(tmp_path / "other")
    assert a["identity"] == b["identity"] and a["step"] == b["step"] == 6
    # Sums in another order; AdamW turns the rounding of small gradients into parts of the rate.
    assert_same(a["model"], b["model"], rtol=0, atol=2e-4)
    last = torch.load(tmp_path / "other" / "epoch_00000001.pt", weights_only=True)
    torch.testing.assert_close(last["logits"], whole.last_logits, rtol=1e-3, atol=2e-4)
    losses = [[score["train_loss"] for score in state["scores"]] for state in (a, b)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.02), ("float16", 0.02)]
)
def test_a_run_on_the_gpu_follows_the_one_on_the_cpu(sets, tmp_path, precision, tolerance):
    # Draws of stochastic depth differ between the devices.
    settings = replace(SMALL, drop_path=0, precision=precision)
    cpu = run(sets, tmp_path / "cpu", settings)
    gpu = run(sets, tmp_path / "gpu", settings, device=torch.device("cuda", 0), workers=2)
    for a, b in zip(cpu.scores, gpu.scores, strict=True):
        assert b.train_loss == pytest.approx(a.train_loss, rel=tolerance)


if __name__ == "__main__":
    torch.set_num_threads(1)
    child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
