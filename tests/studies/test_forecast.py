"""Figures of a forecast that can be reckoned by hand, and how they hang together."""

import subprocess
import sys
from dataclasses import replace

import pytest

from ibot import apply, recipe
from ibot.config.resolve import derive
from ibot.method.memory import Parameters
from ibot.method.traffic import exchanged
from ibot.studies.forecast import Forecast, Machine, Probe, micro_batches
from ibot.studies.forecast_words import lines as in_words
from ibot.studies.stored import Stored
from ibot.studies.within import calibrated, hours_of, lines, ways
from ibot.system.accelerators import ACCELERATORS

H200 = ACCELERATORS["h200"]
IMAGENET = 1_281_167


def forecast(name="vit_s16", settings=(), device="h200", **machine):
    config = apply(recipe(name), settings)
    found = Machine(device=ACCELERATORS[device], **machine)
    return Forecast(config=config, machine=found, images=IMAGENET)


@pytest.mark.parametrize(
    ("name", "share"), [("vit_s16", 0.45), ("vit_b16", 0.55), ("vit_l16", 0.60)]
)
def test_an_h200_reaches_the_shares_that_the_estimate_is_anchored_at(name, share):
    assert forecast(name).share == pytest.approx(share, abs=0.02)


def test_dinov2s_time_of_vit_l_on_a100_is_near_what_is_forecast():
    # 93 images a second and GPU: the README's day for 125,000 steps.
    found = forecast("vit_l16", device="a100-80", devices=8)
    assert found.images_per_second / 8 == pytest.approx(93, rel=0.1)


def test_hours_and_cost_follow_from_steps_and_devices():
    found = replace(forecast(devices=8, nodes=2), price=3.0)
    assert found.derived.run_steps == 800 * 1251 and found.micro_batch == 64
    assert found.hours == pytest.approx(found.derived.run_steps * found.step_seconds / 3600)
    assert found.device_hours == pytest.approx(16 * found.hours)
    one = forecast()
    assert one.hours / found.hours == pytest.approx(16, rel=0.02), "nothing is waited for"


def test_gradients_pass_a_ring_twice_and_wait_for_slow_links():
    found = forecast(devices=8)
    assert found.exchanged == 2 * 4 * found.parameters.trained * 7 / 8
    assert found.waited == 0
    slow = replace(H200, link=0.1)
    waiting = replace(found, machine=Machine(device=slow, devices=8))
    assert waiting.step_seconds > waiting.exchange_seconds > found.step_seconds
    assert forecast().exchanged == 0


def test_sharded_weights_are_gathered_for_every_pass():
    config = recipe("vit_s16")
    count = Parameters.of(config)
    whole = {"devices": 10**9, "sharded": True}
    each = count.teacher + 2 * count.student + count.trained
    assert exchanged(config, packed=True, **whole) == pytest.approx(4 * each)
    assert exchanged(config, **whole) == pytest.approx(4 * (2 * each - count.teacher))


def test_a_forecast_of_shards_knows_whether_views_are_packed():
    count = Parameters.of(recipe("vit_s16"))
    sent = {
        name: forecast(settings=settings, devices=8).exchanged / (4 * count.student * 7 / 8)
        for name, settings in {
            "none": [],
            "packed": ["system.shard=fsdp"],
            "plain": ["system.shard=fsdp", "system.kernels=reference"],
            "mean": ["system.shard=fsdp", "model.mean_pooling=true"],
        }.items()
    }
    assert sent == pytest.approx({"none": 2, "packed": 4, "plain": 7, "mean": 7}, rel=0.01)


def test_the_largest_batch_fits_and_one_image_more_does_not():
    found = forecast("vit_l16", device="l4")
    assert found.memory(found.largest).peak <= found.room < found.memory(found.largest + 1).peak
    assert 1 < found.largest < 100


def test_what_fits_on_no_device_is_told():
    huge = ["model.width=8192", "model.heads=64", "model.depth=48"]
    assert forecast("vit_l16", huge, device="rtx4090").largest == 0


def test_a_gpu_without_bfloat16_computes_in_float32_unless_told():
    assert forecast(device="v100").precision == "float32"
    assert forecast(settings=["train.precision=float16"], device="v100").half
    assert forecast().precision == "bfloat16"


def test_small_steps_take_as_long_as_their_kernels_need_to_start():
    one, two = (forecast("tiny32", [f"train.batch={size}"]) for size in (2, 4))
    assert one.compute_seconds == pytest.approx(two.compute_seconds, rel=0.01)


def test_the_share_is_that_of_the_step_which_may_wait_for_kernels_to_start():
    few, many = (forecast("tiny32", [f"train.batch={size}"]) for size in (2, 4096))
    assert few.share < 0.01 * many.share


def test_equal_micro_batches_are_as_few_as_fit():
    assert [micro_batches(96, most) for most in (96, 95, 20, 1)] == [1, 2, 6, 96]
    assert micro_batches(7, 3) == 7


def test_a_probe_takes_the_place_of_the_formula():
    found = replace(forecast(), probe=Probe(images=8, step_seconds=2.0, steps=7))
    assert found.step_seconds == pytest.approx(0.25 * 1024)
    other = calibrated(found)
    assert other.image_seconds == pytest.approx(0.25) and other.probe is None


@pytest.mark.parametrize(
    ("text", "hours"), [("12h", 12), ("90min", 1.5), ("2 d", 48), ("30m", 0.5)]
)
def test_times_are_read(text, hours):
    assert hours_of(text) == hours


@pytest.mark.parametrize("text", ["12", "h", "0h", "-1h", "1 week", "1..2h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="write 12h"):
        hours_of(text)


def test_more_time_goes_into_larger_networks():
    names = [ways(forecast("one_gpu"), hours)[0].name for hours in (1, 12, 300)]
    assert names == ["ViT-T", "ViT-S", "ViT-B"]


def test_the_chosen_way_keeps_to_the_time_and_is_the_first():
    found = ways(forecast("one_gpu"), 12)
    assert len(found) == 9 and len({(way.name, way.views) for way in found}) == 9
    assert all(way.hours <= 12.001 for way in found)
    assert found[0].hours == pytest.approx(12)


def test_the_time_that_is_given_is_said_as_it_is():
    assert next(lines(ways(forecast("one_gpu"), 1.5), 1.5, [])).startswith("within 1.5 hours,")


def test_ways_that_are_equally_fast_say_why():
    found = [way for way in ways(forecast("tiny32"), 1) if way.name == "ViT-T"]
    assert len({way.forecast.images_per_second for way in found}) == 1 < len(found)
    (said,) = [line for line in lines(found, 1, []) if line.startswith("note")]
    assert "ViT-T: the start of kernels limits" in said
    for other in (forecast("tiny32", ["train.batch=4096"]), forecast("one_gpu")):
        assert not any("start of kernels" in line for line in lines(ways(other, 1), 1, []))


def test_a_way_that_needs_more_memory_accumulates():
    found = ways(forecast("vit_l16", device="l4"), 1000)
    assert max(way.forecast.config.train.accumulate for way in found) > 1
    assert all(way.forecast.largest >= way.forecast.micro_batch for way in found if way.fits)


def test_a_forecast_needs_no_torch():
    code = (
        "import sys; from ibot.cli.main import main; "
        "main(['plan', 'vit_s16', '--device', 'h200', '--images', '1000000']); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "46% of the rate of large products" in done.stdout


def test_a_published_recipe_says_its_published_hours_beside_those_that_are_reckoned():
    def said(name="vit_s16", settings=(), device="v100", images=IMAGENET):
        found = replace(forecast(name, settings, device, devices=8, nodes=2), images=images)
        return [line for line in in_words(found) if line.startswith("paper ")]

    (half,) = said(settings=["train.precision=float16"])
    assert "3,095 V100 hours" in half and "12% of the peak" in half and "here 680, at 42%" in half
    assert "here 4,275, at 53% of that in float32" in said()[0]
    (other,) = said("vit_b16", device="h100")
    assert "4,994 V100 hours" in other and "; here" not in other
    assert not said("one_gpu") and not said(images=9999) and not said(settings=["model.depth=3"])
    assert not said(settings=["train.length=3 epochs"])


def test_a_float32_forecast_for_want_of_bfloat16_says_what_float16_takes():
    def said(device, *settings):
        told = in_words(forecast("vit_s16", settings, device))
        return [line for line in told if "float16 takes" in line]

    hours = forecast(settings=["train.precision=float16"], device="v100").device_hours
    assert f"train.precision=float16 takes {hours:,.0f} hours of a device" in said("v100")[0]
    assert not said("v100", "train.precision=float16")
    assert not said("h100") and not said("h100", "train.precision=float32")


@pytest.mark.parametrize(
    ("settings", "newest", "lasting"),
    [
        ([], 4, 19),  # of 800 epochs every 40th; the last is among the newest
        (["checkpoint.keep_every=0 epochs"], 4, 0),
        (["checkpoint.keep_every=10 epochs", "checkpoint.keep=1"], 2, 79),
        (["checkpoint.every=3 epochs"], 4, 6),  # only those that are saved: every 120th
        (["checkpoint.every=0 epochs"], 1, 0),
        (["train.length=2 epochs"], 2, 0),
    ],
)
def test_checkpoints_that_are_never_deleted_count_on_the_disk(settings, newest, lasting):
    config = apply(recipe("vit_s16"), ["train.batch=10", *settings])
    found = Stored.of(config, derive(config, 100))
    assert (found.newest, found.lasting) == (newest, lasting)
    assert f"{(newest + lasting) * 0.5:.1f} GiB in all" in found.words(config, 0.5)
