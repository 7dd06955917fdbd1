"""What a record of fine-tuning says, and what the file of the tuned network holds."""

from dataclasses import replace

import pytest
import torch

from ibot.config.override import apply
from ibot.errors import ConfigError
from ibot.eval.features.views import View
from ibot.eval.linear_classifier import load_classifier
from ibot.eval.tune import finetune as protocol
from ibot.eval.tune.settings import FinetuneSettings, imagenet_settings, sane_settings
from ibot.eval.tune.training import EpochScore, FinetuneResult
from ibot.models.head import ProjectionHead
from ibot.recipes import recipe

SCORES = (
    EpochScore(0, 2.0, 20.0, 60.0),
    EpochScore(1, 1.5, 50.0, 70.0),
    EpochScore(2, 1.0, 40.0, 80.0),
)


@pytest.fixture
def training(context, monkeypatch):
    """Stands in for a training of three epochs; notes what it was given."""
    given = {}

    def train(classifier, train, val, settings, **options):
        given.update(options, classifier=classifier, train=train, val=val, settings=settings)
        random = torch.Generator().manual_seed(0)
        weights = {name: torch.ones_like(value) for name, value in classifier.state_dict().items()}
        torch.save({"model": weights}, context.out / "best.pt")
        return FinetuneResult(
            scores=SCORES,
            best_epoch=1,
            last_logits=torch.randn(59, 10, generator=random),
            best_logits=torch.randn(59, 10, generator=random),
            labels=torch.randint(0, 10, (59,), generator=random),
            index=torch.arange(59),
            best_weights=context.out / "best.pt",
            notes=("the batch is smaller",),
            bad=(("val", "a.png", "broken"), ("train", "b.png", "cut")),
        )

    monkeypatch.setattr(protocol, "finetune", train)
    return given


@pytest.mark.parametrize("mode", ["clean", "published"])
@pytest.mark.parametrize("name", ["finetune", "transfer", "semi"])
def test_the_last_epoch_is_reported_or_as_published_the_best(context, training, mode, name):
    counted = []
    # The file must say for which size the positions are, whatever the weights said.
    loaded = replace(context.loaded, config=replace(context.loaded.config, pos_size=None))
    context = replace(
        context,
        loaded=loaded,
        mode=mode,
        seed=4,
        workers=3,
        counter=lambda part: counted.append(part) or "bar",
    )
    settings = FinetuneSettings(epochs=3, test_interpolation="bicubic", keep_size=False)
    record = protocol.tune(context, settings, name)
    result = training["classifier"]
    random = torch.Generator().manual_seed(0)
    logits = [torch.randn(59, 10, generator=random) for _ in range(2)]
    labels = torch.randint(0, 10, (59,), generator=random)
    right = (logits[mode == "published"].argmax(1) == labels).double().mean().item()
    assert record.value == pytest.approx(100 * right) and record.num_val == 59
    shown = "finetune" if name == "semi" else name
    assert (record.protocol, record.metric) == (shown, f"{shown}_top1")
    assert record.row == "3 epochs"
    assert record.extra["epochs"] == [[2.0, 20.0], [1.5, 50.0], [1.0, 40.0]]
    chosen = ("epoch 2", "val, over epochs")
    if mode == "clean":
        chosen = ("epoch 3", "nothing: the last epoch")
    assert (record.chosen, record.extra["chosen_on"]) == chosen
    file = record.extra["classifier"]
    assert list(record.notes) == [
        "the batch is smaller",
        "2 images cannot be read, the first: a.png: broken",
        f"the classifier is in {file}; use it: ibot predict {file} IMAGES",
    ]
    stored = load_classifier(file)
    ones = all((value == 1).all() for value in stored.backbone.state_dict().values())
    assert ones == (stored.weight == 1).all() == (mode == "published")
    if mode == "clean":
        torch.testing.assert_close(stored.weight, result.head.weight)
        torch.testing.assert_close(stored.bias, result.head.bias)
    view = View((32, 32), interpolation="bicubic", resize=36, keep=False)
    assert stored.view == view and not stored.unit and stored.config.pos_size == (32, 32)
    assert stored.classes == context.train.classes and stored.about == {"protocol": name}
    assert training["train"] is context.train and training["val"] is context.val
    assert training["settings"] is settings and training["size"] == 32
    assert (training["seed"], training["workers"], training["progress"]) == (4, 3, "bar")
    assert counted == ["steps"] and training["processes"] is context.processes
    identity = context.identity(name, protocol.plain(settings))
    assert training["folder"] == context.out / f"{name}-{identity}"
    assert training["classifier"].backbone is not context.loaded.backbone


def test_layers_of_the_projection_head_are_part_of_the_classifier(context, training, monkeypatch):
    config = apply(recipe("tiny32"), ["head.hidden_dim=16", "head.out_dim=8"]).head
    head, asked = ProjectionHead(24, config, shared=True), []
    monkeypatch.setattr(protocol, "load_weights", lambda *given: asked.append(given) or "weights")
    monkeypatch.setattr(protocol, "projection_head", lambda *given: asked.append(given) or head)
    record = protocol.tune(context, FinetuneSettings(head_layers=1), "semi")
    assert asked == [("random.safetensors", "teacher"), ("weights", 24, "teacher")]
    tuned, stored = training["classifier"].eval(), load_classifier(record.extra["classifier"])
    assert tuned.head.in_features == 16 and len(stored.hidden) == len(tuned.projection) > 0
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(stored.logits(images), tuned(images))


def test_only_square_crops_are_tuned(context, training):
    for view, what in ((View((32, 40)), "32x40"), (View((32, 32), "pad"), "--fit pad")):
        with pytest.raises(ConfigError) as caught:
            protocol.run(replace(context, view=view), FinetuneSettings())
        assert what in caught.value.what
    assert not training


def test_recipes_follow_the_mode_the_width_and_the_images(context):
    assert protocol.defaults(replace(context, mode="published")) == imagenet_settings("small")
    assert protocol.defaults(context) == sane_settings("small", 100)
