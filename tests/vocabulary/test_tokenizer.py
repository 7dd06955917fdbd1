"""What is known of a tokenizer beside its tensors."""

import pytest

from ibot.config.override import apply, to_plain
from ibot.recipes import recipe
from ibot.vocabulary.assign import Temperatures
from ibot.vocabulary.tokenizer import temperatures_of
from ibot.weights.read import Weights

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
