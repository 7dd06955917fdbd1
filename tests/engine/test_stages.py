"""Which stage limits: sets, renderers and steps that are slow by a known time are found out."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from ibot.config.override import apply
from ibot.data import loader as loading
from ibot.data.loader import Loader
from ibot.data.sets.arrays import ArrayImages
from ibot.engine.loop import mask_grid
from ibot.engine.meter import StageMeter
from ibot.engine.stages import Stages, limit_of, pace
from ibot.types import Batch, Made

IMAGES = 4
"""Of a step."""


class SlowImages(ArrayImages):
    """Pictures whose files take 20 ms each."""

    def read(self, index):
        time.sleep(0.02)
        return super().read(index)


def pictures(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 24, 24, 3), dtype=np.uint8)
    return kind("memory", "train", pixels, np.zeros(48, np.int32), ("any",))


def watched(config, source, step_seconds, steps=6):
    """What is measured of steps that sleep as long as is said for the wait before them; the first
    two are left out.
    """
    loader = Loader(config, source, grid=mask_grid(config), end_step=steps)
    meter, batches = StageMeter(workers=loader.workers), iter(loader)
    for step in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - asked
        with meter.measure("step"):
            time.sleep(step_seconds(waited) if step > 1 else 0.04)
        meter.observe(batch, time.perf_counter() - asked, waited)
        if step == 1:
            meter.read()
    return meter.read()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stage", ["decode", "render", "step"])
def test_the_slow_stage_is_named_with_the_workers_that_would_do(small, monkeypatch, stage, workers):
    config = apply(small, [f"train.batch={IMAGES}", f"system.workers={workers}"])
    if stage == "render":
        masks = loading.make_masks
        monkeypatch.setattr(
            loading, "make_masks", lambda *a, **k: time.sleep(0.08) or masks(*a, **k)
        )
    source = pictures(SlowImages if stage == "decode" else ArrayImages)
    slow = stage == "step"
    stages = watched(config, source, lambda waited: 0.02 + 30 * waited if slow else 0.036)
    assert stages.limit == stage and stages.images == IMAGES and stages.workers == workers
    found = limit_of(replace(stages, cores=16, others=0.0), config)
    if stage == "step":
        assert found is None and "the step sets it" in pace(stages, config)
        assert stages.wanted == 1 and stages.idle_share < 0.05
        return
    # 80 ms and a little to make what 36 ms use, with a tenth in reserve: 3, where nothing disturbs.
    least = math.ceil(1.1 * 0.08 / stages.training)
    assert found.stage == stage and stages.wanted in (least, least + 1)
    would = f"{stages.wanted} workers would do; {workers} {'is' if workers else 'are'} in use"
    assert would in found.advice and f"system.workers={stages.wanted}" in found.advice
    assert f"{stage} limits" in found.evidence
    assert ("wait for files" in found.advice) == (stage == "decode")


def of(*, workers=4, cores=16, device="cuda", **seconds):
    known = {"images": 64, "decode": 3.0, "draw": 1.0, "busy": 4.0, "step": 0.5, "total": 1.0}
    known |= {"waited": 0.5}
    return Stages.of(known | seconds, workers=workers, cores=cores, device=device)


def test_workers_for_which_there_are_no_cores_are_not_advised(small):
    exact = apply(small, ["data.pixels=exact"])
    found = limit_of(of(), exact)
    assert found.stage == "decode"
    assert found.advice == "9 workers would do; 4 are in use: system.workers=9"
    assert found.evidence == (
        "50% of the time goes into waiting for images; decode limits (75% of the work on them): "
        "4 workers make 64 images/s, the step would use 128"
    )
    few = of(cores=2, workers=1)
    assert limit_of(few, exact).advice == (
        "9 workers would do; this process has 2 cores: use data.pixels=device"
    )
    on_cpu = replace(few, device="cpu")
    assert limit_of(on_cpu, exact).advice.endswith("use data.pixels=fast")
    fast = apply(small, ["data.pixels=fast"])
    assert limit_of(on_cpu, fast).advice.endswith("store the images at a smaller size")
    windows = apply(fast, ["data.window=512"])
    assert limit_of(on_cpu, windows).advice.endswith("use a smaller data.window")
    busy = limit_of(of(workers=1, queued=2.2, busy=1.0), exact)
    assert busy.advice == (
        "The processes wait for one of 16 cores 55% of their time: use data.pixels=device"
    )
    drawing = replace(on_cpu, decode=1.0, draw=3.0)
    assert limit_of(drawing, fast).stage == "render"
    assert limit_of(drawing, fast).advice.endswith("use fewer local views (augment.num_local)")
    assert limit_of(replace(drawing, device="cuda"), fast).advice.endswith("use data.pixels=device")


def test_a_busy_machine_is_named_in_place_of_the_images(small):
    stages = replace(of(workers=1, cores=2, queued=2.2, busy=1.0), others=0.44)
    advice = limit_of(stages, small).advice
    assert advice == "Other processes take 44% of 2 cores: images come faster without them"
    assert replace(stages, others=0.1).load == ""
    at_work = replace(of(step=0.9, waited=0.1), others=0.44)
    assert limit_of(at_work, small) is None
    assert pace(at_work, small).endswith("images; other processes take 44% of 16 cores")


def test_a_little_waiting_is_not_worth_a_word(small):
    assert limit_of(of(step=0.87, waited=0.13), small) is None
    assert limit_of(of(step=0.84, waited=0.16), small) is not None


def test_files_that_are_waited_for_take_workers_but_no_cores(small):
    stages = of(cores=2, workers=1, busy=0.2)
    advice = limit_of(stages, small).advice
    assert "9 workers would do; 1 is in use: system.workers=9" in advice and "local disk" in advice


def test_processes_that_share_cores_are_not_taken_for_slow_files():
    crowded = of(workers=4, cores=2, busy=1.6, queued=2.4)
    assert crowded.making == pytest.approx(1.6)
    assert of(workers=4, cores=2, busy=1.6).making == pytest.approx(4.0)
    # Clocks that differ a little make no work less than what was computed.
    assert of(busy=1.6, queued=2.5).making == pytest.approx(1.6)


def test_a_host_that_waits_while_its_gpu_works_is_no_idle_gpu(small):
    stages = of(step=0.9, waited=0.7)
    assert stages.idle == pytest.approx(0.1)
    assert of(step=0.98, waited=0.7).limit == "step"


def test_loaders_that_make_enough_and_had_to_start_first_are_not_what_limits(small):
    starting = of(workers=9, waited=0.4)
    assert starting.makes > 1.1 * starting.uses and starting.idle_share == pytest.approx(0.4)
    assert limit_of(starting, small) is None and "40% of the time" in pace(starting, small)
    assert of(workers=8, waited=0.4).limit == "decode", "no more than the step uses"
    few_cores = of(workers=9, cores=4, busy=4.0, waited=0.4)
    assert few_cores.makes == pytest.approx(64) and few_cores.limit == "decode"


def test_what_a_gpu_does_beside_the_step_is_not_counted_twice():
    beside = of(step=0.9, render=0.95, transfer=0.2, waited=0.0)
    assert beside.training == beside.total == 1.0 and beside.uses == 64
    assert beside.limit == "step"
    assert replace(beside, render=1.2).limit == "render"


def test_moving_and_drawing_on_the_device_are_named_where_they_take_more_than_the_step(small):
    fast, device = (apply(small, [f"data.pixels={name}"]) for name in ("fast", "device"))
    moving = of(transfer=0.6, step=0.3, waited=0.0)
    found = limit_of(moving, fast)
    assert found.stage == "transfer" and "67% of its time" in found.evidence
    assert found.advice == "Use data.pixels=device"
    drawing = of(render=0.6, step=0.3, waited=0.0)
    assert limit_of(drawing, device).stage == "render"
    assert "num_local" in limit_of(drawing, device).advice
    assert limit_of(replace(drawing, device="cpu"), device).advice == "Use data.pixels=fast"


def test_a_training_s_pace_leaves_out_the_readings_in_which_loaders_start():
    meter = StageMeter(workers=2)
    assert meter.whole() is None
    for seconds, steps in ((9.0, 1), (1.0, 3), (2.0, 1)):
        for _ in range(steps):
            batch = Batch(None, None, None, np.arange(8), made=Made(decode=0.5, busy=0.25))
            meter.observe([batch, batch], seconds, seconds / 2)
        meter.read()
    whole = meter.whole()
    assert (whole.total, whole.waited) == pytest.approx((1.25, 0.625))
    assert (whole.images, whole.decode, whole.busy) == (16, 1.0, 0.5) and whole.workers == 2
