"""Classifiers on occluded and shuffled images, against images changed one by one."""

import json
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ibot.config.override import to_plain
from ibot.data.sets.class_folders import open_folder
from ibot.errors import ConfigError, DataError
from ibot.eval.features import score as passes
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.probes.logistic_fit import fit_logistic
from ibot.eval.robustness import backgrounds, corruptions, natural_adversarial, occlusion, shuffle
from ibot.eval.robustness import tested_classifier as head
from ibot.eval.robustness.occlude import at_ratio, drop_patches, random_patches
from ibot.eval.robustness.settings import (
    BackgroundSettings,
    CorruptionSettings,
    NaturalAdversarialSettings,
    OcclusionSettings,
    ShuffleSettings,
)
from ibot.models.attention import foreground
from ibot.system.processes import Processes


def test_without_a_stored_classifier_a_logistic_regression_is_fitted_and_named(context):
    classifier = head.classifier_for(context)
    features = context.features(context.train, "train")[CLASS_TOKEN]
    want = fit_logistic(features.unit(), features.labels, 10, 0.1 / 100)
    torch.testing.assert_close(classifier.weight, want.float())
    assert classifier.unit and not classifier.bias.any()
    (note,) = head.head_notes(context, classifier)
    assert "logistic regression" in note and "0.1/n" in note and "give the file" in note


def test_a_stored_classifier_is_the_one_that_is_tested(lab, context):
    stored = lab.store(context)
    classifier = head.classifier_for(stored)
    found = head.logits_of(stored, classifier, context.val, "val")
    with torch.no_grad():
        want = context.loaded.backbone(lab.views(context.val)).cls @ classifier.weight.T
    torch.testing.assert_close(found.rows, want, rtol=1e-4, atol=1e-4)
    assert found.labels.tolist() == context.val.labels.tolist() and not head.head_notes(
        stored, classifier
    )


def test_a_stored_classifier_of_other_classes_is_refused(lab, context):
    stored = lab.store(context, classes=("cat", "dog"))
    with lab.refused(DataError, r"^the classifier .* has other classes than .*") as caught:
        head.classifier_for(stored)
    assert "2 and 10 classes" in caught.value.why


def turned(folder, target):
    """The images of a folder lying on their side, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in folder.glob("**/*.png"):
        (target / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(
            target / file.relative_to(folder), exif=exif
        )


ROOTS = [
    (backgrounds, BackgroundSettings()),
    (natural_adversarial, NaturalAdversarialSettings()),
    (corruptions, CorruptionSettings(corruptions=("fog",), severities=(1,))),
]
INSIDE = {backgrounds: "original", natural_adversarial: ".", corruptions: "fog/1"}
"""Where class folders lie in a root."""


@pytest.mark.parametrize(("protocol", "settings"), ROOTS)
def test_images_of_a_root_are_turned_upright_unless_that_is_to_be_ignored(
    lab, tmp_path, monkeypatch, protocol, settings
):
    lab.write_noise(tmp_path / "plain" / INSIDE[protocol])
    turned(tmp_path / "plain", tmp_path / "turned")
    context = lab.store(lab.with_classes([f"{label:03d}_x" for label in range(9)]))
    logits, seen = LinearClassifier.logits, []

    def watched(classifier, views):
        seen.append(views)
        return logits(classifier, views)

    def views(root, exif_orientation):
        seen.clear()
        protocol.run(
            replace(context, exif_orientation=exif_orientation),
            replace(settings, root=str(tmp_path / root)),
        )
        return torch.cat(seen)

    monkeypatch.setattr(LinearClassifier, "logits", watched)
    upright = views("plain", "apply")
    assert torch.equal(views("turned", "apply"), upright)
    lying = views("turned", "ignore")
    assert torch.equal(lying[-18:], upright[-18:].rot90(1, (2, 3))) and not torch.equal(
        lying, upright
    )


@pytest.mark.parametrize(("protocol", "settings"), ROOTS)
def test_images_of_a_root_are_refused_above_the_size_that_is_allowed(
    lab, tmp_path, protocol, settings
):
    lab.write_noise(tmp_path / "root" / INSIDE[protocol])
    context = lab.store(lab.with_classes([f"{label:03d}_x" for label in range(9)]))
    settings = replace(settings, root=str(tmp_path / "root"))
    assert protocol.run(replace(context, max_pixels=32 * 32), settings)
    with lab.refused(DataError, "^none of the 18 images") as caught:
        protocol.run(replace(context, max_pixels=32 * 32 - 1), settings)
    assert "too many pixels" in caught.value.why


def test_rows_keep_the_order_of_the_set_and_bad_images_are_named(lab, context, tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (90 * i, 0, 0)).save(tmp_path / "data" / name / "1.png")
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"x")
    images = open_folder(tmp_path / "data")
    found = head.score_labelled(
        replace(context, batch=2), images, lambda views, index: views.mean((1, 2, 3)), "x"
    )
    assert (
        found.index.tolist() == [1, 2]
        and found.labels.tolist() == [0, 1]
        and found.rows[0] < found.rows[1]
    )
    assert found.bad == [("a/0.png", "not an image")]
    (tmp_path / "data" / "a" / "1.png").write_bytes(b"x")
    (tmp_path / "data" / "b" / "1.png").write_bytes(b"x")
    with lab.refused(DataError, "none of the 3 images"):
        head.score_labelled(context, images, lambda views, index: views, "x")


def test_rows_do_not_depend_on_the_number_of_processes(context, monkeypatch):
    classifier = head.classifier_for(context)
    alone = head.logits_of(context, classifier, context.val, "val")
    parts, met, found = {}, threading.Barrier(3), {}

    def gather(own):
        rank = int(threading.current_thread().name)
        parts[rank] = own
        met.wait()
        everyone = [parts[i] for i in range(3)]
        met.wait()
        return everyone

    monkeypatch.setattr(passes, "gather", gather)

    def work(rank):
        one = replace(context, processes=Processes(rank, 3))
        found[rank] = head.logits_of(one, classifier, context.val, "val")

    threads = [threading.Thread(target=work, args=(rank,), name=str(rank)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(3):
        assert torch.equal(found[rank].rows, alone.rows) and torch.equal(
            found[rank].labels, alone.labels
        )


def test_dropping_nothing_is_clean_and_dropping_all_leaves_one_answer(lab, context):
    records = lab.by_metric(occlusion.run(context, OcclusionSettings(masses=(0.0, 0.5, 1.0))))
    classifier, views = head.classifier_for(context), lab.views(context.val)
    clean = lab.accuracy(classifier, views, context.val)
    blank = lab.accuracy(classifier, torch.zeros_like(views), context.val)
    salient, other = (
        records["occlusion_S.5"].extra["curve"],
        records["occlusion_NS.5"].extra["curve"],
    )
    assert salient["ratio"][0] == 0 and salient["ratio"][2] == 1
    assert salient["accuracy"][0] == clean and salient["accuracy"][2] == blank
    assert other["ratio"][0] == 1 and other["ratio"][2] == 0
    assert other["accuracy"][0] == blank and other["accuracy"][2] == clean
    assert records["occlusion_R.5"].extra["curve"]["accuracy"][0] == clean
    whole = records["occlusion_top1"]
    assert (
        whole.value == pytest.approx(clean) and whole.row == "no patches dropped" and whole.interval
    )
    assert clean > 20 > blank + 1


def test_curves_are_those_of_images_dropped_one_by_one(lab, context):
    settings = OcclusionSettings(steps=4, masses=(0.3, 0.8, 1.0))
    records = lab.by_metric(occlusion.run(context, settings))
    classifier, views = head.classifier_for(context), lab.views(context.val)
    index = np.arange(len(context.val))
    with torch.no_grad():
        attention = context.loaded.backbone.attention_maps(views)[:, :, 0, 1:].mean(dim=1)
    want = {
        "R": [random_patches(index, 16, count, 0) for count in (0, 4, 8, 12)],
        "S": [foreground(attention, mass) for mass in settings.masses],
        "NS": [~foreground(attention, mass) for mass in settings.masses],
    }
    for name, drops in want.items():
        record = records[f"occlusion_{name}.5"]
        curve = record.extra["curve"]
        accuracies = [
            lab.accuracy(classifier, drop_patches(views, drop, (4, 4), 8), context.val)
            for drop in drops
        ]
        assert curve["accuracy"] == pytest.approx(accuracies)
        assert curve["ratio"] == pytest.approx([drop.double().mean().item() for drop in drops])
        assert record.value == pytest.approx(at_ratio(curve["ratio"], accuracies))
        assert record.interval[0] <= record.value <= record.interval[1]


def test_the_head_and_a_second_network_change_what_is_salient(lab, context, tmp_path):
    def ratios(**chosen):
        records = lab.by_metric(
            occlusion.run(context, OcclusionSettings(masses=(0.2, 0.6, 1.0), **chosen))
        )
        return records["occlusion_S.5"].extra["curve"]["ratio"]

    assert ratios() != ratios(head=1) != ratios(head=2)
    other = lab.with_network(patch=16, heads=1)
    about = {"model": to_plain(other.loaded.config), "augment": {"global_size": [32, 32]}}
    save_file(
        other.loaded.backbone.state_dict(),
        tmp_path / "other.safetensors",
        {"config": json.dumps(about)},
    )
    with torch.no_grad():
        attention = other.loaded.backbone.attention_maps(lab.views(context.val))[:, 0, 0, 1:]
    want = [foreground(attention, mass).double().mean().item() for mass in (0.2, 0.6, 1.0)]
    assert ratios(saliency=str(tmp_path / "other.safetensors")) == pytest.approx(want)
    with lab.refused(ConfigError, "^head=3, but the network has 3 heads"):
        ratios(head=3)


def test_a_swin_is_occluded_at_random_only_and_says_so(lab):
    swin = lab.with_network(kind="swin")
    _, record = occlusion.run(swin, OcclusionSettings())
    assert record.metric == "occlusion_R.5" and any("Swin" in note for note in record.notes)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"masses": ()}, {"masses": (0.5, 1.5)}])
def test_occlusion_refuses_settings_out_of_range(lab, context, wrong):
    with lab.refused(ConfigError, "^occlusion needs") as caught:
        occlusion.run(context, OcclusionSettings(**wrong))
    assert "steps=10" in caught.value.fix


def test_a_curve_that_does_not_reach_one_half_is_refused(lab, context):
    with lab.refused(ConfigError, "^the random curve does not reach half of the patches"):
        occlusion.run(context, OcclusionSettings(steps=1))
    with lab.refused(ConfigError, "^the salient curve does not reach"):
        occlusion.run(context, OcclusionSettings(masses=(0.0,)))


def test_one_block_is_the_clean_image_and_blocks_that_do_not_divide_are_left_out(lab, context):
    settings = ShuffleSettings(grids=((2, 2), (3, 3), (1, 1), (32, 32)))
    records = shuffle.run(context, settings)
    assert [record.row for record in records] == ["1 x 1", "2 x 2", "32 x 32"]
    classifier = head.classifier_for(context)
    assert records[0].value == lab.accuracy(classifier, lab.views(context.val), context.val)
    assert any("left out: 3 x 3" in note for note in records[0].notes)
    assert records[2].settings["blocks"] == 1024 and records[2].value < records[0].value
    with lab.refused(ConfigError, "^grids have at least one row"):
        shuffle.run(context, ShuffleSettings(grids=((4, 0),)))


def test_in_clean_mode_nothing_depends_on_the_batch(context):
    def values(batch):
        one = replace(context, batch=batch)
        records = occlusion.run(one, OcclusionSettings()) + shuffle.run(one, ShuffleSettings())
        return {record.row: record.value for record in records}

    assert values(7) == pytest.approx(values(60))


def test_in_published_mode_neighbours_share_draws_and_resizing_is_bilinear(context, monkeypatch):
    seen = []
    published = replace(context, mode="published")

    def watched(index, *rest):
        seen.append(index)
        return random_patches(index, *rest)

    monkeypatch.setattr(occlusion, "random_patches", watched)
    monkeypatch.setattr(head, "PUBLISHED_BATCH", 20)
    record = occlusion.run(published, OcclusionSettings(steps=2))[0]
    # Two points per batch of 16 images, each with its own call.
    assert np.concatenate(seen[::2]).tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert record.settings["interpolation"] == "bilinear" and record.mode == "published"


def test_records_are_json(context):
    for record in occlusion.run(context, OcclusionSettings()) + shuffle.run(
        context, ShuffleSettings()
    ):
        assert json.loads(json.dumps(asdict(record)))["row"]
