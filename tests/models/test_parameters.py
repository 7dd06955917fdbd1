import pytest
import torch

from ibot import apply, recipe
from ibot.method.memory import Parameters
from ibot.method.model import StudentTeacher
from ibot.recipes import RECIPES

OTHERS = {
    "own last layers": ["head.shared=false", "head.shared_teacher=false", "head.patch_out_dim=512"],
    "a shared teacher alone": ["head.shared=false"],
    "MLPs that part": [
        *("head.shared=false", "head.shared_teacher=false", "head.shared_layers=1"),
        "head.norm=ln",
    ],
    "one norm for all layers": ["head.norm=bn", "head.norm_shared=true"],
    "no bottleneck": ["head.bottleneck_dim=0", "head.shared=false", "head.shared_teacher=false"],
    "one layer": ["head.layers=1"],
    "fixed lengths, gains, registers": [
        *("head.norm_last_layer=true", "model.layer_scale=0.1", "model.registers=4"),
    ],
    "a table for other views": ["model.pos_size=64,48"],
    "three channels more": [
        "model.channels=a,b,c,d,e,f",
        *("model.mean=0,0,0,0,0,0", "model.std=1,1,1,1,1,1"),
    ],
}


def built(config):
    """The same numbers, of networks without memory."""
    with torch.device("meta"):
        model = StudentTeacher(config)
    student = list(model.student.parameters())
    return Parameters(
        student=sum(p.numel() for p in student),
        trained=sum(p.numel() for p in student if p.requires_grad),
        teacher=sum(p.numel() for p in model.teacher.parameters()),
    )


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if not name.endswith(("_rand", "_in22k"))]
)
def test_parameters_by_formula_are_those_of_the_networks(name):
    assert Parameters.of(recipe(name)) == built(recipe(name))


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
def test_parameters_follow_the_settings(settings):
    config = apply(recipe("tiny32"), settings)
    assert Parameters.of(config) == built(config)
