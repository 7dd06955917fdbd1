"""What is known of a tokenizer beside its tensors."""

import pytest
from random_weights import VIT, write_random

from ibot.config.override import apply, to_plain
from ibot.recipes import recipe
from ibot.vocabulary.assign import Temperatures
from ibot.vocabulary.tokenizer import head_hash, temperatures_of
from ibot.weights.head import projection_head
from ibot.weights.read import Weights, load_weights

OURS = ["method.teacher_temp=0.05", "method.patch_temp=0.06", "method.patch_temp_start=0.01"]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (to_plain(apply(recipe("tiny32"), OURS)), (0.05, 0.06)),
        ({"teacher_temp": 0.04, "teacher_patch_temp": 0.02, "arch": "vit_small"}, (0.04, 0.02)),
        ({"teacher_temp": 0.04, "warmup_teacher_temp": 0.03}, (0.04, 0.07)),
        ({}, (0.07, 0.07)),
        ({"teacher_temp": None, "teacher_patch_temp": 0}, (0.07, 0.07)),
    ],
)
def test_temperatures_are_those_that_the_training_ended_with(settings, wanted):
    weights = Weights(backbone={}, head={}, settings=settings, source="file.pth")
    assert temperatures_of(weights) == Temperatures(*wanted)


def test_the_head_of_a_teacher_knows_of_what_its_words_are(tmp_path):
    hashes = set()
    for said in ("false", "true"):
        file = write_random(tmp_path / f"{said}.safetensors", *VIT, f"method.patch_residual={said}")
        weights = load_weights(file)
        head = projection_head(weights, 24, "teacher")
        assert head.residual == (said == "true")
        assert not projection_head(weights, 24, "student").residual, "it predicts without"
        hashes.add(head_hash(head))
    assert len(hashes) == 2, "of equal tensors"
