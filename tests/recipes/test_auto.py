"""Settings chosen from the data and the device."""

from dataclasses import replace

import pytest

from ibot.config.resolve import check, derive, warnings
from ibot.data.survey import Survey
from ibot.recipes.auto import Facts, choose

PHOTOS = Survey(images=50_000, side=375, smallest=300, gray=0.0, variety=20.0, repeated=0.0, unreadable=0.0)


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
    assert derived.notes == () and derived.total_steps > 20 and derived.steps_per_epoch * config.train.batch <= images
    assert all("\n" not in reason for reason in reasons)


def test_small_sets_are_called_too_small_and_pointed_to_published_weights():
    assert "too few images: 200" in choose(facts(images=200))[1][0] and "--init" in choose(facts(images=200))[1][0]
    assert not any("too few" in reason for reason in choose(facts(images=50_000))[1])


def test_views_follow_the_images_and_the_device():
    sizes = {
        (side, gpu): choose(facts(side=side, gpu_memory=gpu))[0].augment.global_size[0]
        for side in (32, 96, 375) for gpu in (0.0, 24.0)
    }  # fmt: skip
    assert sizes == {(32, 0.0): 32, (96, 0.0): 64, (375, 0.0): 64, (32, 24.0): 32, (96, 24.0): 96, (375, 24.0): 224}


def test_gray_images_get_no_colour_jitter():
    config, reasons = choose(facts(gray=1.0))
    assert config.augment.jitter_strength[2:] == (0.0, 0.0) and any("gray" in reason for reason in reasons)
    assert choose(facts(gray=0.1))[0].augment.jitter_strength[2] > 0


def test_doubtful_sets_are_named():
    reasons = choose(facts(variety=1.5, repeated=0.6))[1]
    assert any("alike" in reason for reason in reasons) and any("near twin" in reason for reason in reasons)


def test_less_memory_means_more_micro_batches():
    counts = [choose(facts(images=500_000, gpu_memory=memory))[0].train.accumulate for memory in (80, 24, 8)]
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_one_gpu_takes_the_paper_s_losses_and_a_cpu_names_what_is_beyond_them():
    assert choose(facts(gpu_memory=24))[0].method.targets == "center"
    assert any("beyond the paper" in reason for reason in choose(facts())[1])
