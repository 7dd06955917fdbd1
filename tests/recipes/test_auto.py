"""Settings chosen from the data and the device."""

import shlex
from dataclasses import replace

import pytest

from ibot.cli.main import build_parser
from ibot.config.duration import duration
from ibot.config.reading import DataConfig
from ibot.config.resolve import check, derive, warnings
from ibot.data.survey import Survey
from ibot.recipes import recipe
from ibot.recipes.auto import Facts, adapting, choose
from ibot.recipes.fitting import for_few_images

PHOTOS = Survey(
    images=50_000,
    side=375,
    smallest=300,
    gray=0.0,
    variety=20.0,
    repeated=0.0,
    unreadable=0.0,
    looked_at=200,
    bordered=0.01,
    upside_down=8.0,
    lying=4.0,
)


def facts(gpu_memory=0.0, **changes) -> Facts:
    return Facts(replace(PHOTOS, **changes), gpu_memory)


@pytest.mark.parametrize("gpu", [0.0, 12.0, 24.0, 80.0])
@pytest.mark.parametrize("side", [16, 32, 64, 96, 375, 4000])
@pytest.mark.parametrize("images", [9, 200, 5_000, 50_000, 2_000_000])
def test_every_choice_is_valid_and_none_is_regretted(images, side, gpu):
    config, reasons = choose(facts(images=images, side=side, gpu_memory=gpu))
    check(config)
    assert warnings(config) == [] and config.recipe == "auto"
    derived = derive(config, images)
    assert (
        derived.notes == ()
        and derived.total_steps > 20
        and derived.steps_per_epoch * config.train.batch <= images
    )
    assert all("\n" not in reason for reason in reasons)


def test_small_sets_are_called_too_small_and_pointed_to_published_weights():
    assert (
        "too few images: 200" in choose(facts(images=200))[1][0]
        and "--init" in choose(facts(images=200))[1][0]
    )
    assert not any("too few" in reason for reason in choose(facts(images=50_000))[1])


def test_two_broken_files_of_six_hundred_are_not_no_files():
    reasons = choose(facts(images=608, unreadable=2 / 608))[1]
    assert any(reason.startswith("0.33 % of the sampled images cannot") for reason in reasons)


def test_the_command_that_is_offered_first_reads_the_same_images_in_the_same_way():
    data = DataConfig(path="my photos", val_path="others", channels="all", trim_border=True)
    found = adapting(data)
    assert found == (
        "ibot pretrain adapt data.channels=all --init ibot:vit_s16 --data 'my photos' "
        "--val-data others"
    )
    build_parser().parse_args(shlex.split(found)[1:])
    small = replace(PHOTOS, images=200)
    (first, *_) = choose(Facts(small, 0.0, images_from=data))[1]
    assert found in first and first.endswith("Training goes on as asked")
    assert "too few" not in " ".join(choose(Facts(small, 0.0, from_weights=True))[1])


def test_views_follow_the_images_and_the_device():
    sizes = {
        (side, gpu): choose(facts(side=side, gpu_memory=gpu))[0].augment.global_size[0]
        for side in (32, 96, 375)
        for gpu in (0.0, 24.0)
    }
    assert sizes == {
        (32, 0.0): 32,
        (96, 0.0): 64,
        (375, 0.0): 64,
        (32, 24.0): 32,
        (96, 24.0): 96,
        (375, 24.0): 224,
    }


@pytest.mark.parametrize("gpu", [0.0, 40.0])
def test_a_start_from_weights_names_no_network_of_its_own(gpu):
    said = " ".join(choose(replace(facts(gpu), from_weights=True))[1])
    assert "those of the weights" in said and "ViT" not in said and "patches of" not in said
    assert "ViT" in " ".join(choose(facts(gpu))[1])


def test_gray_images_get_no_colour_jitter():
    config, reasons = choose(facts(gray=1.0))
    assert config.augment.jitter_strength[2:] == (0.0, 0.0) and any(
        "gray" in reason for reason in reasons
    )
    assert choose(facts(gray=0.1))[0].augment.jitter_strength[2] > 0


@pytest.mark.parametrize("gpu", [0.0, 24.0])
@pytest.mark.parametrize("processes", [1, 3, 4, 6])
@pytest.mark.parametrize("images", [1, 4, 7, 92, 5_000, 300_000])
def test_no_batch_is_chosen_that_the_images_do_not_fill_or_the_processes_cannot_share(
    images, processes, gpu
):
    train = choose(replace(facts(images=images, gpu_memory=gpu), processes=processes))[0].train
    assert (
        train.batch <= max(images, processes) and train.batch % (processes * train.accumulate) == 0
    )


def test_the_images_of_each_prototype_are_what_is_said():
    said = {images: " ".join(choose(facts(images=images))[1]) for images in (4, 92, 50_000)}
    assert "batch 4: 4 images" in said[4] and "4 prototypes: about 1 image for each" in said[4]
    assert "batch 8: at most an eighth of 92 images" in said[92]
    assert "32 prototypes: about 2.9 images for each" in said[92]
    assert "1024 prototypes: about 49 images for each" in said[50_000]
    shared = choose(replace(facts(gpu_memory=24.0), processes=3))[1]
    assert "batch 192: equal shares of 3 processes" in shared


def test_a_length_and_a_batch_that_were_asked_for_are_what_the_clocks_follow():
    """92 images in batches of 8: 11 steps an epoch."""
    asked = replace(facts(images=92), length=duration("20 epochs"))
    config, reasons = choose(asked)
    assert config.train.length == duration("20 epochs") and config.method.momentum == 0.9455
    assert "20 epochs, as asked" in reasons
    assert "teacher momentum 0.9455: a memory of 18 steps in a run of 220 steps" in reasons
    config, reasons = choose(replace(asked, length=duration("1 epochs"), batch=46))
    assert "1 epoch, as asked" in reasons and "batch 46, as asked" in reasons
    assert any("in a run of 2 steps" in reason for reason in reasons)
    assert choose(facts(images=92))[0].method.momentum == 0.98
    on_a_gpu = choose(facts(gpu_memory=24.0, images=92))[0]
    steps = derive(on_a_gpu, 92).total_steps
    assert on_a_gpu.method.momentum == pytest.approx(1 - 31 / steps, abs=1e-4)


def test_adapting_to_few_images_takes_a_batch_and_a_teacher_that_suit_them():
    adapt = recipe("adapt")
    config, notes = for_few_images(adapt, 92, 1)
    assert config.train.batch == 8 and config.method.momentum == round(1 - 10 / 220, 4)
    assert ["train.batch=8 in place of 256" in notes[0], "of 220 steps" in notes[1]] == [True, True]
    assert for_few_images(adapt, 92, 3)[0].train.batch == 6
    assert (
        for_few_images(adapt, 2048, 1)
        == for_few_images(adapt, 92, 1, ["train.batch"])
        == (adapt, [])
    )
    kept, notes = for_few_images(adapt, 92, 1, ["method.momentum"])
    assert kept.method.momentum == adapt.method.momentum and len(notes) == 1


@pytest.mark.parametrize("gpu", [0.0, 24.0])
def test_images_without_an_up_are_turned_over_and_said_to_be_so(gpu):
    plain, reasons = choose(facts(gpu_memory=gpu))
    assert plain.augment.vertical_flip == plain.augment.turn == 0 and not plain.data.trim_border
    assert not any("turn" in reason or "border" in reason for reason in reasons)
    cells = facts(gpu_memory=gpu, upside_down=1.1, lying=0.9)
    config, reasons = choose(cells)
    check(config)
    assert (config.augment.vertical_flip, config.augment.turn) == (0.5, 0.75)
    assert any("no up" in reason and "1.1 times" in reason for reason in reasons)
    layers = choose(facts(gpu_memory=gpu, upside_down=1.1, lying=6.0))[0].augment
    assert (layers.vertical_flip, layers.turn) == (0.5, 0.0)
    few = choose(facts(gpu_memory=gpu, upside_down=1.1, lying=0.9, looked_at=99))[0].augment
    assert few.vertical_flip == few.turn == 0


def test_borders_that_many_images_have_are_cut_off_but_not_of_windows():
    config, reasons = choose(facts(bordered=0.84))
    assert config.data.trim_border and any("84% of the images" in reason for reason in reasons)
    assert not choose(facts(bordered=0.49))[0].data.trim_border
    assert not choose(replace(facts(bordered=0.84), whole=False))[0].data.trim_border


def test_doubtful_sets_are_named():
    reasons = choose(facts(variety=1.5, repeated=0.6))[1]
    assert any("alike" in reason for reason in reasons) and any(
        "near twin" in reason for reason in reasons
    )


def test_less_memory_means_more_micro_batches():
    counts = [
        choose(facts(images=500_000, gpu_memory=memory))[0].train.accumulate
        for memory in (80, 24, 8)
    ]
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_one_gpu_takes_the_paper_s_losses_and_a_cpu_names_what_is_beyond_them():
    assert choose(facts(gpu_memory=24))[0].method.targets == "center"
    assert any("beyond the paper" in reason for reason in choose(facts())[1])
