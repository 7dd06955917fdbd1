"""Probes on the most attended patches, against loops and the plain mean."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot.errors import ConfigError, WeightsError
from ibot.eval.features.tokens import Feature
from ibot.eval.probes import logistic, part_linear
from ibot.eval.probes.settings import LogisticSettings, PartLinearSettings


@pytest.fixture
def quick(monkeypatch):
    """Logistic regressions of one strength."""
    settings = LogisticSettings(penalties=(0.1,), folds=2)
    monkeypatch.setattr(part_linear, "LogisticSettings", lambda: settings)
    return settings


@pytest.mark.parametrize("smallest", [False, True])
def test_part_means_are_those_of_a_loop(smallest):
    torch.manual_seed(0)
    patches, attention, counts = torch.randn(3, 10, 4), torch.rand(3, 10), [1, 4, 10]
    got = part_linear.part_means(patches, attention, counts, smallest)
    for image in range(3):
        order = sorted(range(10), key=lambda i: attention[image, i].item(), reverse=not smallest)
        for i, k in enumerate(counts):
            torch.testing.assert_close(
                got[image, i], patches[image, order[:k]].mean(dim=0), rtol=1e-5, atol=1e-6
            )
    for wrong in ([], [0], [11]):
        with pytest.raises(ValueError, match="between 1 and 10 patches"):
            part_linear.part_means(patches, attention, wrong)


@pytest.mark.parametrize("registers", [0, 2])
def test_tokens_and_attention_come_from_one_pass(lab, context, registers):
    network = lab.with_network(registers=registers).loaded.backbone
    views = lab.views(context.val)
    with torch.no_grad():
        tokens, heads = network.tokens_and_attention(views, norm=False)
        maps, plain = network.attention_maps(views), network.last_layers(views, 1, norm=False)[0]
    patches, attention = tokens.patches, heads.mean(dim=1)
    torch.testing.assert_close(attention, maps[:, :, 0, 1:17].mean(dim=1))
    assert torch.equal(patches, plain.patches)
    all_of_them = part_linear.part_means(patches, attention, [16])[:, 0]
    torch.testing.assert_close(all_of_them, plain.patches.mean(dim=1), rtol=1e-5, atol=1e-5)


def test_all_patches_score_as_the_plain_mean_of_the_patches(context, quick):
    records = part_linear.run(context, PartLinearSettings(shares=(0.0, 0.5, 1.0)))
    assert [record.settings["k"] for record in records] == [1, 8, 16]
    mean = Feature(1, 1)
    train, val = (
        context.features(images, name, (mean,))[mean]
        for images, name in ((context.train, "train"), (context.val, "val"))
    )
    want = logistic.probe(context, quick, train, val)
    assert records[2].value == pytest.approx(want.value) and records[2].protocol == "part_linear"
    assert records[0].row == "1 of 16 patches" and records[0].metric == "part_linear_top1"
    (whole,) = part_linear.run(context, PartLinearSettings(shares=(1.0,), smallest=True))
    assert whole.value == pytest.approx(want.value)


@pytest.mark.usefixtures("quick")
def test_parts_are_kept_in_the_cache_and_only_new_ones_are_computed(context, monkeypatch):
    first = part_linear.run(context, PartLinearSettings(shares=(0.5, 1.0)))
    kept = {path.parent for path in context.cache.glob("*/done")}
    about = [json.loads((path / "about.json").read_text())["feature"] for path in kept]
    assert sorted(about) == 2 * ["16 most attended patches"] + 2 * ["8 most attended patches"]
    asked, means = [], part_linear.part_means
    monkeypatch.setattr(
        part_linear,
        "part_means",
        lambda *given: asked.append((given[2], given[3])) or means(*given),
    )
    again = part_linear.run(context, PartLinearSettings(shares=(0.5, 1.0)))
    assert not asked and [record.value for record in again] == [record.value for record in first]
    both = part_linear.run(context, PartLinearSettings(shares=(0.25, 1.0)))
    assert both[1].value == first[1].value and {tuple(counts) for counts, _ in asked} == {(4,)}
    asked.clear()
    part_linear.run(context, PartLinearSettings(shares=(0.25, 1.0), smallest=True))
    assert {(tuple(counts), smallest) for counts, smallest in asked} == {((4, 16), True)}


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not show what is mapped")
@pytest.mark.usefixtures("quick")
def test_means_of_parts_are_mapped_from_files(context, monkeypatch):
    seen, probe = [], logistic.probe
    monkeypatch.setattr(logistic, "probe", lambda *given: seen.extend(given[2:]) or probe(*given))
    part_linear.run(context, PartLinearSettings(shares=(0.5, 1.0)))
    assert [features.rows.shape for features in seen] == 2 * [(100, 24), (60, 24)]
    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for features in seen:
        (file,) = (
            Path(mapping[-1])
            for mapping in mappings
            if features.rows.data_ptr()
            in range(*(int(border, 16) for border in mapping[0].split("-")))
        )
        assert file.name == "rows.npy" and file.is_relative_to(context.cache)


@pytest.mark.parametrize("mode", ["clean", "published"])
def test_the_sweep_chooses_on_what_the_mode_allows(context, mode):
    settings = PartLinearSettings(
        shares=(0.2, 1.0), probe="sweep", rates=(1e-9, 0.5), epochs=2, holdout=0.2
    )
    records = part_linear.run(replace(context, mode=mode), settings)
    assert [record.settings["k"] for record in records] == [3, 16]
    chosen_on = {record.extra["chosen_on"] for record in records}
    assert all(set(record.extra["rates"]) == {"1e-09", "0.5"} for record in records)
    few = any("only 20 held-out images" in note for note in records[0].notes)
    assert few == (mode == "clean")
    assert chosen_on == {
        "held-out training images" if mode == "clean" else "val, over epochs and rates"
    }
    if mode == "clean":
        assert all(record.chosen.endswith("epoch 2") for record in records)
        again = part_linear.run(replace(context, batch=9), settings)
        assert [record.value for record in again] == [record.value for record in records]


def test_part_linear_refuses_what_it_cannot_do(lab, context):
    swin = lab.with_network(kind="swin")
    with lab.refused(WeightsError, "is a Swin$"):
        part_linear.run(swin, PartLinearSettings())
    with lab.refused(ConfigError, "^shares of the patches"):
        part_linear.run(context, PartLinearSettings(shares=(1.5,)))
    with lab.refused(ConfigError, "^rates, epochs, batch and holdout"):
        part_linear.run(context, PartLinearSettings(probe="sweep", rates=()))
