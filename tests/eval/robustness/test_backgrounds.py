"""The backgrounds challenge on folders of noise and classifiers with known answers."""

import numpy as np
import pytest
import torch

from ibot.errors import DataError
from ibot.eval.robustness import backgrounds
from ibot.eval.robustness import tested_classifier as head
from ibot.eval.robustness.imagenet_subsets import IMAGENET_9
from ibot.eval.robustness.settings import BackgroundSettings


@pytest.fixture
def challenge(lab, tmp_path):
    for seed, name in enumerate(("original", "mixed_same", "mixed_rand", "only_bg_t")):
        lab.write_noise(tmp_path / "bg" / name / "val", seed=seed)
    return tmp_path / "bg"


def test_a_thousand_classes_are_mapped_to_nine_and_others_count_as_wrong(lab, challenge):
    thousand = lab.with_classes([f"class {i}" for i in range(1000)])
    for answer, expected in ((IMAGENET_9["insect"][3], 100 / 9), (999, 0.0)):
        stored = lab.store_constant(thousand, answer, 151)
        records = lab.by_metric(backgrounds.run(stored, BackgroundSettings(root=str(challenge))))
        assert records["backgrounds_original_top1"].value == pytest.approx(expected)
        assert records["backgrounds_original_top1"].extra["balanced"] == pytest.approx(expected)
    notes = records["backgrounds_gap"].notes
    assert any("left out: only_fg, mixed_next, no_fg, only_bg_b" in note for note in notes)
    assert records["backgrounds_gap"].value == 0


def test_nine_classes_are_compared_by_order_and_the_gap_is_a_difference(lab, context, challenge):
    nine = lab.with_classes([f"n{i}" for i in range(9)])
    stored = lab.store(nine)
    records = lab.by_metric(backgrounds.run(stored, BackgroundSettings(root=str(challenge))))
    classifier = head.classifier_for(stored)
    want = {}
    for name in ("mixed_same", "mixed_rand"):
        images = backgrounds.open_folder(challenge / name / "val")
        want[name] = lab.accuracy(classifier, lab.views(images), images)
        assert records[f"backgrounds_{name}_top1"].value == pytest.approx(want[name])
    assert records["backgrounds_gap"].value == pytest.approx(
        want["mixed_same"] - want["mixed_rand"]
    )
    with lab.refused(DataError, "^the classes of the classifier and of .* differ$"):
        backgrounds.run(context, BackgroundSettings(root=str(challenge)))


@pytest.mark.parametrize("foreground", [1, 0])
def test_the_challenge_pastes_foregrounds_on_all_backgrounds(lab, challenge, foreground):
    nine = lab.with_classes([f"n{i}" for i in range(9)])
    stored = lab.store(nine)
    for label in range(9):  # one of the two originals of each class has a mask
        (challenge / "fg_mask" / "val" / f"{label:03d}_x").mkdir(parents=True)
        mask = np.full((32, 32), bool(foreground))
        np.save(challenge / "fg_mask" / "val" / f"{label:03d}_x" / "1.npy", mask)
    settings = BackgroundSettings(root=str(challenge), challenge=True)
    record = lab.by_metric(backgrounds.run(stored, settings))["backgrounds_challenge"]
    classifier = head.classifier_for(stored)
    original, behind = (
        backgrounds.open_folder(challenge / name / "val") for name in ("original", "only_bg_t")
    )
    with torch.no_grad():
        if (
            foreground
        ):  # nothing of the background is seen: vulnerable are those that are wrong anyway
            fooled = classifier.logits(lab.views(original)).argmax(1)[1::2] != torch.arange(9)
        else:  # nothing of the foreground is seen
            answers = classifier.logits(lab.views(behind)).argmax(1)
            fooled = torch.stack([(answers != label).any() for label in range(9)])
    assert (
        record.value == pytest.approx(100 * fooled.double().mean().item()) and record.num_val == 9
    )


def test_a_challenge_without_masks_or_with_a_broken_one_is_refused(lab, challenge, monkeypatch):
    monkeypatch.setattr(
        backgrounds,
        "score_labelled",
        lambda *_: pytest.fail("images are read before masks are"),
    )
    stored = lab.store(lab.with_classes([f"n{i}" for i in range(9)]))
    settings = BackgroundSettings(root=str(challenge), challenge=True)
    with lab.refused(DataError, "^the challenge needs masks"):
        backgrounds.run(stored, settings)
    masks = challenge / "fg_mask" / "000_x"
    masks.mkdir(parents=True)
    np.save(masks / "0.npy", np.ones((32, 32), bool))
    for content in (b"", b"x"):
        (masks / "1.npy").write_bytes(content)
        with lab.refused(DataError, "^the mask .*1.npy' cannot be read$"):
            backgrounds.run(stored, settings)
    np.save(masks / "1.npy", np.array(["x"]))
    with lab.refused(DataError, "^the mask .*1.npy' cannot be read$"):
        backgrounds.run(stored, settings)
    (challenge / "only_bg_t").rename(challenge / "gone")
    with lab.refused(DataError, "^the challenge needs the variant 'only_bg_t'"):
        backgrounds.run(stored, settings)


def test_variants_of_other_classes_are_refused(lab, context, challenge):
    (challenge / "mixed_same" / "val" / "000_x").rename(challenge / "mixed_same" / "val" / "zebra")
    with lab.refused(
        DataError, "^the variants 'original' and 'mixed_same' have different classes$"
    ):
        backgrounds.run(context, BackgroundSettings(root=str(challenge)))
