import pytest

from ibot.config.override import apply
from ibot.config.resolve import check, derive, fitting_prototypes, warnings
from ibot.config.schema import Config
from ibot.errors import ConfigError
from ibot.recipes import RECIPES, recipe


def test_imagenet_has_the_published_number_of_steps():
    derived = derive(recipe("vit_s16"), 1_281_167, world_size=16)
    assert (derived.steps_per_epoch, derived.total_steps, derived.batch_per_process) == (
        1251,
        1251 * 800,
        64,
    )
    assert (
        derived.lr_actual == pytest.approx(2e-3)
        and derived.warmup_steps == 12510
        and not derived.notes
    )


def test_short_runs_clip_their_warm_ups_and_say_so():
    derived = derive(apply(recipe("vit_s16"), ["train.length=3 epochs"]), 10240)
    assert derived.total_steps == 30 and derived.warmup_steps == 15
    assert derived.temp_warmup_steps == 30
    assert len(derived.notes) == 2 and all("clipped" in note for note in derived.notes)
    assert "optim.warmup = 10 epochs" in derived.notes[0]


def test_a_warm_up_as_long_as_the_run_is_kept_as_published():
    derived = derive(
        apply(recipe("vit_s16"), ["train.length=10 epochs", "method.temp_warmup=10 epochs"]), 10240
    )
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
        ("data.window=-1", "data.window"),
        ("data.window_content=0.5", "data.window gives their side"),
        ("data.window=64 data.trim_border=true", "data.trim_border cuts off"),
        ("augment.turn=1.1", "augment.turn"),
        ("augment.vertical_flip=-0.1", "augment.vertical_flip"),
        ("augment.flip=2", "augment.flip"),
        ("method.visible_weight=-1", "method.visible_weight"),
        ("method.visible_weight=1 method.patch_match=position", "method.visible_weight needs"),
        ("method.visible_weight=1 method.patch_target=color", "method.visible_weight needs"),
        ("method.patch_balance=all", "method.patch_balance=all needs method.targets=sinkhorn"),
        ("method.patch_target_norm=false method.patch_match=feature", "patch_target_norm=false"),
        ("method.patch_target_norm=false model.mean_pooling=true", "patch_target_norm=false"),
        ("mask.min_block=-1", "mask.min_block=-1 must not be negative"),
        ("mask.min_block=2 mask.shape=random", "mask.min_block is of blocks"),
        ("mask.min_block=99", "mask.ratio hides 98 of 196 patches at most"),
        (
            "method.visible_target=other method.visible_weight=1 augment.num_global=3",
            "visible_target=other needs augment.num_global=2",
        ),
        (
            "method.visible_target=other method.visible_weight=1 mask.shape=attention",
            "a mask.shape that is drawn",
        ),
        ("method.patch_residual=true head.bottleneck_dim=0", "method.patch_residual=true needs"),
        ("mask.shape=attention model.mean_pooling=true", "a class token attends to"),
        ("mask.shape=attention mask.views=all", "mask.shape=attention needs"),
        ("mask.shape=attention method.patch_match=feature", "mask.shape=attention needs"),
        ("mask.shape=attention system.shard=fsdp", "leaves each process a part"),
        ("method.visible_weight=1 mask.views=all", "method.visible_weight needs"),
    ],
)
def test_settings_that_cannot_work_are_named(text, named):
    with pytest.raises(ConfigError, match=named):
        check(apply(recipe("vit_s16"), text.split()))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("augment.global_size=200", "multiples of 32"),
        ("model.depths=2,2", "model.stage_heads"),
        ("model.depths=2,2,0,2", "model.depths"),
        ("model.stage_heads=3,6,12,5", "5 heads of stage 4"),
        ("model.window=1", "model.window"),
        ("model.registers=4", "model.registers"),
        ("mask.shape=attention", "mask.shape=attention"),
        ("method.patch_target_norm=false", "method.patch_target_norm=false leaves out"),
    ],
)
def test_settings_that_cannot_work_in_a_swin_are_named(text, named):
    swin = ["model.kind=swin", "model.width=96", "model.patch=4"]
    check(apply(recipe("vit_s16"), swin))
    with pytest.raises(ConfigError, match=named):
        check(apply(recipe("vit_s16"), [*swin, text]))


@pytest.mark.parametrize(
    ("base", "works", "fails"),
    [
        ([], "train.batch=1", "train.batch=0"),
        ([], "train.accumulate=1", "train.accumulate=0"),
        ([], "train.length=1 steps", "train.length=0 epochs"),
        ([], "train.seed=0", "train.seed=-1"),
        ([], "train.max_steps=0", "train.max_steps=-1"),
        ([], "augment.num_global=1", "augment.num_global=0"),
        ([], "augment.num_local=0", "augment.num_local=-1"),
        (["augment.num_global=1"], "augment.num_local=1", "augment.num_local=0"),
        ([], "augment.global_size=16,32", "augment.global_size=32,15"),
        ([], "augment.local_size=16", "augment.local_size=15,96"),
        (["augment.turn=0.5"], "augment.global_size=32", "augment.global_size=32,48"),
        (["augment.turn=0.5"], "augment.local_size=32", "augment.local_size=32,48"),
        (["augment.turn=0.5", "augment.num_local=0"], "augment.local_size=32,48", "train.seed=-1"),
        (["data.window=64"], "data.trim_border=false", "data.trim_border=true"),
        ([], "augment.global_scale=0.01,1", "augment.global_scale=0,1"),
        ([], "augment.aspect=0.1,0.1", "augment.aspect=0,1"),
        ([], "augment.aspect=1,9", "augment.aspect=9,1"),
        ([], "augment.blur_sigma=0,1000", "augment.blur_sigma=0,1001"),
        ([], "augment.blur_sigma=1,1", "augment.blur_sigma=-1,1"),
        ([], "augment.global_scale=0.5,0.5", "augment.global_scale=0.5,1.01"),
        ([], "augment.local_scale=0.5,0.5", "augment.local_scale=0.5,0.4"),
        ([], "mask.ratio=0.2:0.2", "mask.ratio=0.2:0.21"),
        ([], "mask.ratio=0.8:0.2", "mask.ratio=0.8:0.21"),
        ([], "mask.ratio=0.3:0", "mask.ratio=0.3:-0.1"),
        ([], "mask.ratio=0:0", "mask.ratio="),
        ([], "model.drop_path=0", "model.drop_path=-0.1"),
        ([], "model.drop_path=0.99", "model.drop_path=1"),
        ([], "model.depth=1", "model.depth=0"),
        ([], "model.heads=1", "model.heads=0"),
        ([], "model.width=6", "model.width=0"),
        ([], "head.layers=1", "head.layers=0"),
        (["head.shared=false", "head.shared_teacher=false"], "head.out_dim=2", "head.out_dim=1"),
        (
            ["head.shared=false", "head.shared_teacher=false"],
            "head.patch_out_dim=2",
            "head.patch_out_dim=1",
        ),
        (
            ["head.shared=false", "head.shared_teacher=false"],
            "head.shared_layers=0",
            "head.shared_layers=4",
        ),
        (
            ["head.shared=false", "head.shared_teacher=false"],
            "head.shared_layers=3",
            "head.shared_layers=-2",
        ),
        (
            ["head.shared_teacher=false", "head.shared_layers=2"],
            "head.shared=false",
            "head.shared=true",
        ),
        (
            ["head.shared=false", "head.shared_layers=2"],
            "head.shared_teacher=false",
            "head.shared_teacher=true",
        ),
        (
            ["head.shared=false", "head.shared_teacher=false", "head.shared_layers=2"],
            "head.norm=ln",
            "head.norm=bn",
        ),
        (
            ["head.shared=false", "head.shared_teacher=false", "head.shared_layers=2"],
            "head.norm=none",
            "head.norm=syncbn",
        ),
        (
            ["head.shared=false", "head.shared_teacher=false", "head.shared_layers=1"],
            "head.layers=2",
            "head.layers=0",
        ),
        (
            ["head.shared=false", "head.shared_teacher=false", "head.shared_layers=0"],
            "head.layers=2",
            "head.layers=1",
        ),
        (
            ["head.shared=false", "head.shared_teacher=false", "head.shared_layers=2"],
            "head.bottleneck_dim=1",
            "head.bottleneck_dim=0",
        ),
        (
            ["head.out_dim=64", "head.shared=false"],
            "head.shared_teacher=false",
            "head.shared_teacher=true",
        ),
        (["head.out_dim=64", "head.shared_teacher=false"], "head.shared=false", "head.shared=true"),
        ([], "method.teacher_temp=0.99", "method.teacher_temp=1"),
        ([], "method.patch_temp_start=0.01", "method.patch_temp_start=0"),
        ([], "method.teacher_temp_start=0.01", "method.teacher_temp_start=-1"),
        ([], "method.patch_temp=0.99", "method.patch_temp=1"),
        ([], "method.momentum=0", "method.momentum=-0.1"),
        ([], "method.momentum=1", "method.momentum=1.01"),
        ([], "method.center_momentum=0", "method.center_momentum=-0.1"),
        ([], "method.center_momentum_patch=0", "method.center_momentum_patch=-0.1"),
        ([], "method.center_momentum=1", "method.center_momentum=1.1"),
        (["method.patch_match=feature"], "augment.num_global=2", "augment.num_global=3"),
        (
            ["method.patch_match=position"],
            "method.patch_target=online",
            "method.patch_target=color",
        ),
        ([], "optim.lr=0", "optim.lr=-1"),
        ([], "optim.min_lr=0", "optim.min_lr=-1"),
        ([], "optim.clip=0", "optim.clip=-1"),
        (
            ["model.kind=swin", "model.width=96", "model.patch=4"],
            "model.window=2",
            "model.window=1",
        ),
        (
            ["model.kind=swin", "model.width=96", "model.patch=4"],
            "model.width=192",
            "model.width=97",
        ),
        (
            ["model.kind=swin", "model.width=96", "model.patch=4", "model.stage_heads=1,1,1"],
            "model.depths=1,1,1",
            "model.depths=1,1",
        ),
        (
            ["model.kind=swin", "model.width=96", "model.patch=4"],
            "model.stage_heads=3,6,12,24",
            "model.stage_heads=3,6,0,24",
        ),
        (
            ["model.kind=swin", "model.width=96", "model.patch=4"],
            "model.layer_scale=0",
            "model.layer_scale=0.1",
        ),
        (
            ["model.kind=swin", "model.width=96", "model.patch=4"],
            "model.mean_pooling=false",
            "model.mean_pooling=true",
        ),
    ],
)
def test_each_limit_lies_where_the_setting_stops_to_work(base, works, fails):
    config = apply(recipe("vit_s16"), base)
    check(apply(config, [works]))
    with pytest.raises(ConfigError) as caught:
        check(apply(config, [fails]))
    name = fails.split("=")[0].rpartition(".")[2]
    words = {"stage_heads": "heads of stage", "bottleneck_dim": "bottleneck"}.get(name, name)
    assert words in f"{caught.value.what} {caught.value.why}"


@pytest.mark.parametrize(
    ("works", "warned"),
    [
        ("method.teacher_temp=0.1", "method.teacher_temp=0.11"),
        ("method.patch_temp=0.1", "method.patch_temp=0.11"),
        ("method.teacher_temp_start=0.07", "method.teacher_temp_start=0.08"),
        ("method.patch_temp_start=0.07", "method.patch_temp_start=0.08"),
        ("optim.lr=0.0025", "optim.lr=0.0026"),
        ("head.shared=true", "head.shared=false"),
    ],
)
def test_each_warning_begins_at_its_limit(works, warned):
    config = recipe("vit_s16")
    assert warnings(apply(config, [works])) == [] and len(warnings(apply(config, [warned]))) == 1
    quiet = apply(config, ["optim.lr=0.1", "optim.name=sgd"])
    assert warnings(quiet) == []


def test_a_center_that_nothing_uses_is_told():
    balanced = apply(recipe("vit_s16"), ["method.targets=sinkhorn"])
    assert warnings(balanced) == []
    assert (
        "method.targets=center does" in warnings(apply(balanced, ["method.center_momentum=1"]))[0]
    )


def test_what_follows_from_the_settings_is_counted_as_by_hand():
    """100 images, batches of 8: 12 steps an epoch; 10.5 epochs are 126 steps, of which 120 in whole
    epochs.
    """
    base = [
        "train.batch=8",
        "train.length=10.5 epochs",
        "optim.lr=0.32",
        "optim.warmup=20 steps",
        "method.temp_warmup=4 epochs",
        "optim.freeze_last_layer=1 epochs",
        "train.head_warmup=10 percent",
    ]
    derived = derive(apply(recipe("vit_s16"), base), 100, 2)
    assert (derived.steps_per_epoch, derived.total_steps, derived.run_steps) == (12, 126, 126)
    assert (derived.warmup_steps, derived.temp_warmup_steps, derived.freeze_steps) == (20, 48, 12)
    assert derived.head_warmup_steps == 13 and derived.lr_actual == pytest.approx(0.01)
    assert derived.batch_per_process == 4 and derived.notes == ()
    assert derive(apply(recipe("vit_s16"), base), 100).batch_per_process == 8
    assert derive(apply(recipe("vit_s16"), [*base, "train.max_steps=500"]), 100).run_steps == 126
    few = derive(apply(recipe("vit_s16"), ["train.batch=8", "train.length=2 epochs"]), 5)
    assert (few.steps_per_epoch, few.total_steps) == (1, 2)


@pytest.mark.parametrize(
    ("setting", "field", "longest", "instead"),
    [
        ("optim.warmup", "warmup_steps", 126, 63),
        ("method.temp_warmup", "temp_warmup_steps", 120, 120),
        ("optim.freeze_last_layer", "freeze_steps", 125, 31),
        ("train.head_warmup", "head_warmup_steps", 63, 12),
    ],
)
def test_a_warm_up_is_kept_up_to_its_longest_and_clipped_with_a_note_beyond(
    setting, field, longest, instead
):
    base = [
        "train.batch=8",
        "train.length=10.5 epochs",
        "optim.warmup=0 steps",
        "method.temp_warmup=0 steps",
        "optim.freeze_last_layer=0 steps",
    ]
    kept = derive(apply(recipe("vit_s16"), [*base, f"{setting}={longest} steps"]), 100)
    assert getattr(kept, field) == longest and kept.notes == ()
    clipped = derive(apply(recipe("vit_s16"), [*base, f"{setting}={longest + 1} steps"]), 100)
    assert getattr(clipped, field) == instead
    assert clipped.notes == (
        f"{setting} = {longest + 1} steps is longer than the run allows: clipped to {instead} of "
        "126 steps",
    )


def test_the_warm_up_of_temperatures_must_fit_behind_the_first_masks():
    late = [
        "train.batch=8",
        "train.length=10.5 epochs",
        "mask.start=3 epochs",
        "method.temp_warmup=9 epochs",
    ]
    assert derive(apply(recipe("vit_s16"), late), 100).temp_warmup_steps == (10 - 3) * 12
    never = [*late, "mask.start=11 epochs"]
    assert derive(apply(recipe("vit_s16"), never), 100).temp_warmup_steps == 0


@pytest.mark.parametrize(
    ("start", "step"),
    [("3 epochs", 36), ("20 percent", 25), ("80 images", 10), ("7 steps", 7), ("0 epochs", 0)],
)
def test_masks_start_in_any_unit(start, step):
    asked = ["train.batch=8", "train.length=10.5 epochs", f"mask.start={start}"]
    assert derive(apply(recipe("vit_s16"), asked), 100).mask_start == step


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError, match="2 settings") as caught:
        check(apply(recipe("vit_s16"), ["model.heads=5", "method.momentum=2"]))
    assert "model.heads" in caught.value.why and "momentum" in caught.value.why


def test_pixels_that_no_patch_covers_are_named():
    config = apply(recipe("tiny64"), ["model.patch=15", "augment.global_size=64,60"])
    views, local = warnings(config)
    assert "augment.global_size=64,60" in views and "the last 4 rows and 0 columns" in views
    assert "augment.local_size=32,32" in local and "the last 2 rows and 2 columns" in local
    assert len(warnings(apply(config, ["augment.num_local=0"]))) == 1


@pytest.mark.parametrize(("shard", "processes"), [("fsdp", 1), ("fsdp", 2), ("none", 1)])
def test_one_process_that_is_to_share_its_networks_is_told_that_it_holds_them(shard, processes):
    config = apply(Config(), [f"system.shard={shard}"])
    said = any("system.shard=fsdp" in note for note in derive(config, 10_000, processes).notes)
    assert said == (shard == "fsdp" and processes == 1)


def test_prototypes_follow_the_images_within_what_is_published():
    sizes = {1: 2, 9: 8, 40: 32, 92: 32, 1023: 32, 1024: 64, 50_000: 2048, 2_000_000: 8192}
    assert {images: fitting_prototypes(images) for images in sizes} == sizes


def test_regrettable_settings_are_warned_of():
    risky = ["method.teacher_temp=0.2", "optim.lr=0.05", "head.shared=false"]
    assert len(warnings(apply(recipe("vit_s16"), risky))) == 3
