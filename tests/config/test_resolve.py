import pytest

from ibot.config.override import apply
from ibot.config.resolve import check, derive, warnings
from ibot.config.schema import Config
from ibot.errors import ConfigError
from ibot.recipes import RECIPES, recipe


def test_imagenet_has_the_published_number_of_steps():
    derived = derive(recipe("vit_s16"), 1_281_167, world_size=16)
    assert (derived.steps_per_epoch, derived.total_steps, derived.batch_per_process) == (1251, 1251 * 800, 64)
    assert derived.lr_actual == pytest.approx(2e-3) and derived.warmup_steps == 12510 and not derived.notes


def test_short_runs_clip_their_warm_ups_and_say_so():
    derived = derive(apply(recipe("vit_s16"), ["train.length=3 epochs"]), 10240)
    assert derived.total_steps == 30 and derived.warmup_steps == 15
    assert derived.temp_warmup_steps == 30
    assert len(derived.notes) == 2 and all("clipped" in note for note in derived.notes)
    assert "optim.warmup = 10 epochs" in derived.notes[0]


def test_a_warm_up_as_long_as_the_run_is_kept_as_published():
    derived = derive(apply(recipe("vit_s16"), ["train.length=10 epochs", "method.temp_warmup=10 epochs"]), 10240)
    assert derived.warmup_steps == 100 and derived.temp_warmup_steps == 100 and not derived.notes


def test_steps_bound_the_run_and_leave_the_schedules():
    derived = derive(apply(recipe("vit_s16"), ["train.max_steps=7"]), 10240)
    assert derived.run_steps == 7 and derived.total_steps == 8000


def test_lengths_may_be_given_in_images_and_fractions_of_epochs():
    assert derive(apply(Config(), ["train.length=20480 images"]), 10240).total_steps == 20
    assert derive(apply(Config(), ["train.length=0.5 epochs"]), 10240).total_steps == 5


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_the_checks(name):
    check(recipe(name))
    assert warnings(recipe(name)) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("augment.num_global=0", "num_global"),
        ("augment.global_size=8", "global_size"),
        ("augment.global_scale=0.9,0.2", "global_scale"),
        ("model.heads=5", "model.heads"),
        ("mask.ratio=0.1:0.2", "mask.ratio"),
        ("head.out_dim=100", "patch_out_dim"),
        ("method.teacher_temp=0", "teacher_temp"),
        ("method.momentum=1.5", "momentum"),
        ("train.length=5%", "train.length"),
    ],
)
def test_settings_that_cannot_work_are_named(text, named):
    with pytest.raises(ConfigError, match=named):
        check(apply(recipe("vit_s16"), [text]))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("augment.global_size=200", "multiples of 32"),
        ("model.depths=2,2", "model.stage_heads"),
        ("model.depths=2,2,0,2", "model.depths"),
        ("model.stage_heads=3,6,12,5", "5 heads of stage 4"),
        ("model.window=1", "model.window"),
        ("model.registers=4", "model.registers"),
    ],
)
def test_settings_that_cannot_work_in_a_swin_are_named(text, named):
    swin = ["model.kind=swin", "model.width=96", "model.patch=4"]
    check(apply(recipe("vit_s16"), swin))
    with pytest.raises(ConfigError, match=named):
        check(apply(recipe("vit_s16"), [*swin, text]))


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError, match="2 settings") as caught:
        check(apply(recipe("vit_s16"), ["model.heads=5", "method.momentum=2"]))
    assert "model.heads" in caught.value.why and "momentum" in caught.value.why


def test_regrettable_settings_are_warned_of():
    risky = ["method.teacher_temp=0.2", "optim.lr=0.05", "head.shared=false"]
    assert len(warnings(apply(recipe("vit_s16"), risky))) == 3
