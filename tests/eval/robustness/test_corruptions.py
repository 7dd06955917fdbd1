"""Errors on corrupted images, generated and stored."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.data.sets.open import open_labelled
from ibot.errors import ConfigError, DataError
from ibot.eval.features.views import View
from ibot.eval.robustness import corruptions
from ibot.eval.robustness import tested_classifier as head
from ibot.eval.robustness.corrupt import ALEXNET_ERRORS, COMMON_CORRUPTIONS, CORRUPTIONS, corrupt
from ibot.eval.robustness.corrupted_images import CorruptedImages, image_seed
from ibot.eval.robustness.settings import CorruptionSettings

FEW = CorruptionSettings(corruptions=("contrast", "gaussian_noise"), severities=(2, 5))


@pytest.fixture
def library():
    return pytest.importorskip("imagecorruptions", reason="pip install imagecorruptions-imaug")


@pytest.fixture
def stored(lab, tmp_path):
    """All corruptions and severities, every folder the same four images; and its context."""
    lab.write_noise(tmp_path / "set" / "val", count=2, classes=2)
    lab.write_noise(tmp_path / "set" / "train", count=3, classes=2, seed=1)
    for name in CORRUPTIONS:
        (tmp_path / "stored" / name).mkdir(parents=True)
        for severity in range(1, 6):
            (tmp_path / "stored" / name / str(severity)).symlink_to(tmp_path / "set" / "val")
    train, val = open_labelled(str(tmp_path / "set"))
    return str(tmp_path / "stored"), lab.store(replace(lab.context, train=train, val=val))


def test_generated_images_repeat_by_seed_and_have_one_seed_each(context, library):
    def image(seed, index=3, severity=2):
        return CorruptedImages(context.val, context.view, "gaussian_noise", severity, seed).read(
            index
        )

    assert np.array_equal(image(0), image(0)) and not np.array_equal(image(0), image(1))
    want = corrupt(context.val.read(3), "gaussian_noise", 2, image_seed(0, 3))
    assert np.array_equal(image(0), want)
    seeds = {image_seed(seed, index) for seed in range(3) for index in range(100)}
    assert len(seeds) == 300 and min(seeds) >= 0 and max(seeds) < 2**32


def test_errors_of_generated_images_are_those_of_the_views_one_by_one(lab, context, library):
    records = lab.by_metric(corruptions.run(context, FEW))
    classifier = head.classifier_for(context)
    clean = 100 - lab.accuracy(classifier, lab.views(context.val), context.val)
    assert records["corruptions_clean_error"].value == pytest.approx(clean)
    means = []
    for name in ("gaussian_noise", "contrast"):
        sets = [CorruptedImages(context.val, context.view, name, s, 0) for s in (2, 5)]
        errors = [100 - lab.accuracy(classifier, lab.views(images), images) for images in sets]
        record = records[f"corruptions_{name}"]
        assert record.extra["errors"] == pytest.approx(errors) and record.value == pytest.approx(
            np.mean(errors)
        )
        assert record.interval[0] <= record.value <= record.interval[1]
        assert record.extra["above_clean"] == pytest.approx(record.value - clean)
        means.append(record.value)
    assert records["corruptions_mean"].value == pytest.approx(np.mean(means))
    assert records["corruptions_mean"].row == "mean of 2, error"
    assert records["corruptions_mean_above_clean"].value == pytest.approx(np.mean(means) - clean)
    assert (
        records["corruptions_mean"].settings["source"] == "generated"
        and "corruptions_mce" not in records
    )
    assert any(note.startswith("generated:") for note in records["corruptions_mean"].notes)


def test_generated_errors_do_not_depend_on_batch_or_workers(context, library):
    settings = replace(FEW, severities=(3,))
    wanted = [record.value for record in corruptions.run(context, settings)]
    changed = replace(context, batch=7, workers=2)
    assert [record.value for record in corruptions.run(changed, settings)] == pytest.approx(wanted)


def test_stored_images_give_the_two_means_by_name(lab, stored):
    root, context = stored
    records = lab.by_metric(corruptions.run(context, CorruptionSettings(root=root)))
    clean = records["corruptions_clean_error"].value
    assert {records[f"corruptions_{name}"].value for name in CORRUPTIONS} == {clean}
    assert (
        records["corruptions_mean_15"].value
        == records["corruptions_mean_19"].value
        == pytest.approx(clean)
    )
    assert records["corruptions_mean_19_above_clean"].value == pytest.approx(0)
    assert "corruptions_mean" not in records and "corruptions_mce" not in records
    assert records["corruptions_mean_15"].settings["source"] == "stored"


def test_every_stored_head_has_a_state_of_its_own(lab, context):
    def name(weight, bias):
        stored = lab.store(
            context, weight=torch.full((10, 24), weight), bias=torch.full((10,), bias)
        )
        return corruptions._state_file(stored, head.classifier_for(stored)).name

    assert name(0.0, 0.0) == name(0.0, 0.0)
    assert len({name(0.0, 0.0), name(1.0, 0.0), name(0.0, 1.0)}) == 3


def test_a_state_in_the_layout_of_before_is_gone_on_from(lab, stored, monkeypatch):
    root, context = stored
    settings = CorruptionSettings(root=root, corruptions=("fog",), severities=(1,))
    file = corruptions._state_file(context, head.classifier_for(context))
    fingerprint = context.val.fingerprint()
    wrong = torch.tensor([True, False, False, False])
    torch.save({f"clean {fingerprint}": (wrong, ["1 image cannot be read: a.png: cut"])}, file)
    score, scored = corruptions.score_labelled, []
    monkeypatch.setattr(
        corruptions, "score_labelled", lambda *given: scored.append(given[-1]) or score(*given)
    )
    records = lab.by_metric(corruptions.run(context, settings))
    assert scored == ["fog 1"] and records["corruptions_clean_error"].value == 25
    assert "1 image cannot be read: a.png: cut" in records["corruptions_fog"].notes
    assert not file.exists()


def test_the_mce_is_given_where_the_classes_are_imagenet_s(lab, stored, monkeypatch):
    root, context = stored
    for part in ("train", "val"):
        for number in range(2):
            folder = context.val.root.parent / part
            (folder / f"00{number}_x").rename(folder / f"n0000000{number}")
    train, val = open_labelled(str(context.val.root.parent))
    # A constant answer: half of the images are wrong at every severity.
    context = lab.store_constant(replace(context, train=train, val=val), 0)
    settings = CorruptionSettings(root=root, corruptions=COMMON_CORRUPTIONS)
    assert "corruptions_mce" not in lab.by_metric(corruptions.run(context, settings))
    monkeypatch.setattr(corruptions, "NUM_CLASSES", 2)
    records = lab.by_metric(corruptions.run(context, settings))
    want = np.mean([100 * 50 / ALEXNET_ERRORS[name] for name in COMMON_CORRUPTIONS])
    assert records["corruptions_mce"].value == pytest.approx(want)
    assert "corruptions_mce" not in lab.by_metric(
        corruptions.run(context, replace(settings, severities=(1, 2)))
    )


def test_corruptions_that_are_absent_are_left_out_with_a_note(lab, stored, tmp_path):
    root, context = stored
    (tmp_path / "stored" / "fog" / "3").unlink()
    records = lab.by_metric(corruptions.run(context, CorruptionSettings(root=root)))
    assert "corruptions_fog" not in records and "corruptions_mean_15" not in records
    assert records["corruptions_mean"].row == "mean of 18, error"
    assert any("left out: fog" in note for note in records["corruptions_mean"].notes)


def test_stored_images_may_lack_classes_as_the_validation_images_do(lab, stored, tmp_path):
    root, context = stored
    shutil.rmtree(tmp_path / "set" / "val" / "000_x")
    train, val = open_labelled(str(tmp_path / "set"))
    context = lab.store_constant(replace(context, train=train, val=val), 1)
    records = lab.by_metric(
        corruptions.run(context, CorruptionSettings(root=root, corruptions=("fog",)))
    )
    assert records["corruptions_clean_error"].value == records["corruptions_fog"].value == 0


def write_results(file, records, **changes):
    rows = [asdict(record) for record in records]
    for row in rows:
        row["extra"] = {**row["extra"], **({k: v for k, v in changes.items() if k in row["extra"]})}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_errors_are_relative_to_those_of_a_baseline_run(lab, stored, tmp_path):
    root, context = stored
    context = lab.store_constant(context, 0)  # errors of 50 %
    settings = CorruptionSettings(root=root, corruptions=("fog", "snow"))
    first = corruptions.run(context, settings)
    file = write_results(
        tmp_path / "results.jsonl", first, per_corruption={"fog": 25.0, "snow": 100.0}
    )
    record = lab.by_metric(corruptions.run(context, replace(settings, baseline=file)))[
        "corruptions_relative"
    ]
    assert record.value == pytest.approx((200 + 50) / 2)
    assert not any("other images" in note for note in record.notes)


def test_a_baseline_that_cannot_be_compared_is_refused(lab, stored, tmp_path):
    root, context = stored
    settings = CorruptionSettings(root=root, corruptions=("fog", "snow"))
    records, file = corruptions.run(context, settings), tmp_path / "results.jsonl"
    compared = replace(settings, baseline=str(file))
    with lab.refused(DataError, "results.jsonl' cannot be read$"):
        corruptions.run(context, compared)
    file.write_text('{"protocol": "knn"}\n')
    with lab.refused(DataError, "holds no result of this protocol$"):
        corruptions.run(context, compared)
    write_results(file, records, source="generated")
    with lab.refused(DataError, "was measured otherwise$"):
        corruptions.run(context, compared)
    write_results(file, records, per_corruption={"fog": 10.0, "snow": 0.0})
    with lab.refused(DataError, "has no error above zero for snow$"):
        corruptions.run(context, compared)


def test_what_cannot_be_corrupted_is_refused(lab, context, library, tmp_path):
    for wrong in ({"corruptions": ("rain",)}, {"corruptions": ()}):
        with lab.refused(ConfigError, "^corruptions="):
            corruptions.run(context, CorruptionSettings(**wrong))
    with lab.refused(ConfigError, "^severities="):
        corruptions.run(context, CorruptionSettings(severities=(0,)))
    with lab.refused(ConfigError, "^views of 16 x 16 pixels are too small to corrupt$"):
        corruptions.run(replace(context, view=View((16, 16))), FEW)
    with lab.refused(DataError, "holds none of the corruptions$"):
        corruptions.run(context, CorruptionSettings(root=str(tmp_path)))
    for name in "ab":
        (tmp_path / "fog" / "1" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "fog" / "1" / name / "0.png")
    with lab.refused(DataError, "have different classes .*fog/1'") as caught:
        corruptions.run(
            context, CorruptionSettings(root=str(tmp_path), corruptions=("fog",), severities=(1,))
        )
    assert "only in validation: 'a', 'b'" in caught.value.why
