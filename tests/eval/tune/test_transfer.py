"""Which recipe a set gets: by name as published, by its size in clean mode."""

from dataclasses import replace

import pytest

from ibot.errors import ConfigError
from ibot.eval.tune import transfer
from ibot.eval.tune.settings import sane_settings, transfer_settings


@pytest.mark.parametrize(
    ("data", "row"),
    [
        ("cifar10:somewhere", "cifar10"),
        ("CIFAR100:C:/images", "cifar100"),
        ("flowers102:x", "flowers"),
        ("inat2018:x", "inat18"),
        ("inat2019", "inat19"),
        ("inat18:x", "inat18"),
    ],
)
def test_a_set_that_is_named_gets_its_published_row(context, data, row):
    published = replace(context, mode="published", data=data)
    assert transfer.defaults(published) == transfer_settings(row, "small")


def test_other_sets_have_a_recipe_in_clean_mode_only(context):
    named = replace(context, mode="published", data="photos:cifar10")
    with pytest.raises(ConfigError) as caught:
        transfer.defaults(named)
    assert "photos:cifar10" in caught.value.what and "cifar100" in caught.value.why
    for data in ("photos", "cifar10:x"):
        clean = replace(context, mode="clean", data=data)
        assert transfer.defaults(clean) == sane_settings("small", 100)


@pytest.mark.parametrize(
    ("width", "name"),
    [(511, "small"), (512, "base"), (895, "base"), (896, "large")],
)
def test_the_nearest_network_in_width_decides(width, name):
    assert transfer.nearest_architecture(width) == name


def test_the_record_carries_the_name_of_the_protocol(context, monkeypatch):
    asked = []
    monkeypatch.setattr(transfer, "tune", lambda *given: asked.append(given) or "record")
    settings = transfer.defaults(context)
    assert transfer.run(context, settings) == ["record"]
    assert asked == [(context, settings, "transfer")]
