"""Calibration of a classifier, on validation images and on hard ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ibot.errors import ConfigError, DataError
from ibot.eval.robustness import backgrounds, calibration, natural_adversarial
from ibot.eval.robustness import tested_classifier as head
from ibot.eval.robustness.calibration_error import (
    aurra,
    confidence_and_correct,
    rms_calibration_error,
)
from ibot.eval.robustness.imagenet_subsets import IMAGENET_A
from ibot.eval.robustness.settings import (
    BackgroundSettings,
    CalibrationSettings,
    NaturalAdversarialSettings,
)


def test_calibration_is_that_of_the_classifier_s_confidence(lab, context):
    records = lab.by_metric(calibration.run(context, CalibrationSettings()))
    classifier = head.classifier_for(context)
    with torch.no_grad():
        logits = classifier.logits(lab.views(context.val))
    confidence, correct = confidence_and_correct(
        logits, torch.from_numpy(context.val.labels).long()
    )
    assert list(records) == ["calibration_top1", "calibration_rms", "calibration_aurra"]
    assert records["calibration_top1"].value == pytest.approx(100 * correct.double().mean().item())
    assert records["calibration_rms"].settings["bin_size"] == 6
    assert records["calibration_rms"].value == pytest.approx(
        100 * rms_calibration_error(confidence, correct, 6), rel=1e-4
    )
    assert records["calibration_aurra"].value == pytest.approx(
        100 * aurra(confidence, correct), rel=1e-4
    )
    curve = records["calibration_rms"].extra["curve"]
    gaps = [
        (c - a) ** 2 * n
        for c, a, n in zip(curve["confidence"], curve["accuracy"], curve["images"], strict=True)
    ]
    assert (sum(gaps) / 60) ** 0.5 == pytest.approx(records["calibration_rms"].value)
    assert records["calibration_aurra"].extra["curve"]["accuracy"][-1] == pytest.approx(
        records["calibration_top1"].value
    )


def test_published_mode_also_prints_the_error_without_the_last_bin(lab, context):
    records = lab.by_metric(
        calibration.run(replace(context, mode="published"), CalibrationSettings(bin_size=5))
    )
    assert 0 < records["calibration_rms_published"].value < records["calibration_rms"].value
    with lab.refused(ConfigError, "^bin_size=0"):
        calibration.run(context, CalibrationSettings(bin_size=0))


def test_of_a_thousand_classes_the_two_hundred_compete(lab, tmp_path):
    lab.write_noise(tmp_path / "a", count=1, classes=200)
    thousand = lab.with_classes([f"class {i}" for i in range(1000)])
    # 0 and 1 are no classes of ImageNet-A; 11 is its second.
    stored = lab.store_constant(thousand, 0, 1, 11)
    records = lab.by_metric(
        natural_adversarial.run(stored, NaturalAdversarialSettings(root=str(tmp_path / "a")))
    )
    assert IMAGENET_A[1] == 11 and records["natural_adversarial_top1"].value == 0.5
    weight = np.exp(1.0)
    confidence = weight / (weight + 199)
    assert records["natural_adversarial_rms"].extra["curve"]["confidence"][0] == pytest.approx(
        100 * confidence
    )
    assert records["natural_adversarial_rms"].data["root"] == str(tmp_path / "a")


def test_on_own_data_the_folders_or_a_list_of_names_compete(lab, context, scenes, tmp_path):
    kept = context.val.classes[1:4]
    for name in kept:
        (tmp_path / "hard" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "hard" / name).symlink_to(scenes / "val" / name)
    run = natural_adversarial.run
    (three, *_), (ten, *_) = (
        run(context, NaturalAdversarialSettings(root=str(tmp_path / "hard"), classes=classes))
        for classes in ((), context.val.classes)
    )
    labels = torch.from_numpy(context.val.labels).long()
    rows = (labels >= 1) & (labels <= 3)
    with torch.no_grad():
        logits = head.classifier_for(context).logits(lab.views(context.val))[rows]
    assert three.value == pytest.approx(
        100 * (logits[:, 1:4].argmax(1) + 1 == labels[rows]).double().mean().item()
    )
    assert ten.value == pytest.approx(
        100 * (logits.argmax(1) == labels[rows]).double().mean().item()
    )
    assert three.num_val == int(rows.sum())
    with lab.refused(DataError, r"has the class '.*', which does not compete$"):
        run(context, NaturalAdversarialSettings(root=str(tmp_path / "hard"), classes=kept[:2]))
    with lab.refused(DataError, "^'cat' is none of the classifier's 10 classes$"):
        run(
            context, NaturalAdversarialSettings(root=str(tmp_path / "hard"), classes=(*kept, "cat"))
        )


@pytest.mark.parametrize(
    ("protocol", "settings"),
    [(natural_adversarial, NaturalAdversarialSettings), (backgrounds, BackgroundSettings)],
)
def test_a_root_that_is_not_given_or_not_there_is_named(lab, context, protocol, settings):
    with lab.refused(ConfigError, "^root is not set$"):
        protocol.run(context, settings())
    with lab.refused(DataError, "nowhere"):
        protocol.run(context, settings(root="nowhere"))
