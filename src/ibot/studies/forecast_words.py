"""A forecast in words, and as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ibot.recipes import beyond_paper, published_hours
from ibot.studies.forecast import SEEN, Forecast, micro_batches
from ibot.studies.stored import Stored
from ibot.system.accelerators import ACCELERATORS
from ibot.words import counted, counted_in_thousands, in_words, rate

GIB = 2**30
PER_CORE = {False: (416, 180), True: (3097, 2691)}
"""Images a second of one core with data.pixels=device and fast (docs/results.md, the input path):
photographs of 500 pixels for views of 224; if small, pictures of 32 pixels."""
SMALLEST = 0.005 * GIB
"""Bytes of a part that is named."""
PAPER = ACCELERATORS["v100"]
"""The device of the published hours."""
SMALL = 64
"""Pixels of a view, up to which images are small."""


def lines(forecast: Forecast) -> Iterator[str]:
    """The forecast, a keyword and a sentence a line."""
    config, derived, machine = forecast.config, forecast.derived, forecast.machine
    train = config.train
    yield f"recipe {config.recipe or '-'}: {config.model}, {config.head.out_dim} prototypes"
    yield f"data   {counted_in_thousands(forecast.images, 'image')}"
    micro = f" x {train.accumulate} micro-batches" if train.accumulate > 1 else ""
    of = counted(machine.count, "device" if machine.device.gpu else "process")
    yield (
        f"run    {derived.run_steps:,} of {counted_in_thousands(derived.total_steps, 'step')}, "
        f"{derived.steps_per_epoch:,} per epoch; batch {train.batch} = {of} x "
        f"{forecast.micro_batch}{micro}"
    )
    for note in derived.notes:
        yield f"note   {note}"
    if extra := beyond_paper(config):
        yield f"beyond the paper: {'; '.join(extra)}"
    yield f"device {device(forecast)}"
    yield f"work   {work(forecast)}"
    yield f"time   {time(forecast)}"
    yield f"share  {share(forecast)}"
    yield from memory(forecast)
    if machine.count > 1:
        yield f"links  {links(forecast)}"
    if machine.device.gpu:
        yield f"input  {feeding(forecast)}"
    stored = Stored.of(config, derived)
    yield f"disk   {stored.words(config, forecast.checkpoint / GIB)}"
    if machine.device.gpu or forecast.price:
        yield f"cost   {cost(forecast)}"
    if said := published(forecast):
        yield f"paper  {said}"
    if said := narrower(forecast):
        yield f"note   {said}"
    yield f"size   {forecast.parameters.trained:,} trained parameters"


def device(forecast: Forecast) -> str:
    """What is reckoned for, and by which figures."""
    machine = forecast.machine
    found, many = machine.device, f"{machine.devices} x " if machine.devices > 1 else ""
    nodes = f"{machine.nodes} machines with " if machine.nodes > 1 else ""
    peak = found.peak(forecast.precision)
    by = "as measured now" if found.measured else "by its data sheet"
    speed = f"{peak:.3g} TFLOP/s" if peak >= 1 else f"{1000 * peak:.0f} GFLOP/s"
    return (
        f"{nodes}{many}{found.name}, {found.memory:.0f} GiB; {speed} of {forecast.precision} {by}"
    )


def work(forecast: Forecast) -> str:
    """Operations of an image."""
    flops, published = forecast.flops, forecast.published.total
    heads = (flops.teacher_head + flops.student_head) / flops.total
    return (
        f"{operations(flops.total)} an image, {heads:.0%} of it in the heads; the published step "
        f"takes {operations(published)}"
    )


def operations(count: float) -> str:
    """In words."""
    return f"{count / 1e12:.3g} TFLOP" if count >= 1e12 else f"{count / 1e9:.3g} GFLOP"


def time(forecast: Forecast) -> str:
    """Of a step and of the run."""
    steps = counted_in_thousands(forecast.derived.run_steps, "step")
    return (
        f"{forecast.step_seconds:.3g} s a step, {rate(forecast.images_per_second)} images/s; "
        f"{in_words(forecast.hours)} for {steps} "
        f"({'estimate' if forecast.probe is None else 'measured'})"
    )


def share(forecast: Forecast) -> str:
    """On what the time rests."""
    reached = f"{forecast.share:.0%} of the rate of large products"
    if (probe := forecast.probe) is not None:
        steps, images = counted(probe.steps, "step"), counted(probe.images, "random image")
        return f"{reached}: {steps} of {images}, measured now; making views is not in it"
    found = forecast.machine.device
    if not found.gpu:
        return f"{reached}, a guess: on a processor a run takes up to five times as long"
    told = f"{reached}, an estimate that nothing here has measured"
    of_peak = forecast.share * forecast.rate / (found.peak(forecast.precision) * 1e12)
    if of_peak < SEEN[0]:
        return f"{told}: so small a network waits for memory and for kernels to start"
    if not forecast.half:  # those logs are of bfloat16 and float16
        return told
    slow, fast = (in_words(forecast.hours * of_peak / seen) for seen in SEEN)
    if slow == fast:
        return told
    return (
        f"{told}; public logs of DINOv3 and DINOv2 reach {SEEN[0]:.0%} to {SEEN[1]:.0%} of the "
        f"peak, where this is {of_peak:.0%}: {fast} to {slow.removeprefix('about ')}"
    )


def memory(forecast: Forecast) -> Iterator[str]:
    """What a device holds, what fits, and what to do where it does not."""
    micro, train = forecast.micro_batch, forecast.config.train
    needed = forecast.memory(micro)
    parts = ", ".join(
        f"{name} {size / GIB:.2f}" for name, size in needed.parts().items() if size >= SMALLEST
    )
    of = "a device" if forecast.machine.device.gpu else "a process"
    at = counted(micro, "image")
    yield f"memory {needed.peak / GIB:.1f} GiB {of} at {at}, by formula: {parts}"
    largest = forecast.largest
    would = f"{counted_in_thousands(largest, 'image')} would fit"
    each = would if largest else "not one image fits"
    yield f"fits   {each} on {of} of {forecast.machine.device.memory:.0f} GiB"
    if largest and micro > largest:
        parts_of = micro_batches(micro * train.accumulate, largest)
        yield (
            f"note   too many at a time: train.accumulate={parts_of} gives the same result in less "
            "memory"
        )


def links(forecast: Forecast) -> str:
    """What devices send each other for a step."""
    how = "weights gathered, gradients summed" if forecast.sharded else "gradients summed"
    hidden = "hidden behind the backward pass"
    if forecast.waited:
        hidden = f"{1000 * forecast.waited:.3g} ms of it waited for"
    return (
        f"{forecast.exchanged / 1e9:.2f} GB a step from each device ({how}), "
        f"{1000 * forecast.exchange_seconds:.3g} ms at {forecast.machine.link:.0f} GB/s, "
        f"an estimate: {hidden}"
    )


def feeding(forecast: Forecast) -> str:
    """How many cores the images take."""
    machine = forecast.machine
    per_machine = forecast.images_per_second / machine.nodes
    small = max(forecast.config.augment.global_size) <= SMALL
    made, kind = PER_CORE[small], "small pictures" if small else "photographs"
    cores = [math.ceil(per_machine / each) for each in made]
    each = "for each machine" if machine.nodes > 1 else "of the machine"
    return (
        f"{rate(per_machine)} images/s: {counted(cores[0], 'core')} {each} with "
        f"data.pixels=device, {cores[1]} with fast, if one makes {made[0]} and {made[1]} a second "
        f"of {kind} as here"
    )


def cost(forecast: Forecast) -> str:
    """Hours of all devices, and their price."""
    hours = forecast.device_hours
    text = f"{_hours(hours)} of a device"
    if forecast.price:
        return f"{text}: {hours * forecast.price:,.0f} at {forecast.price:g} an hour"
    return f"{text}; --price PER_HOUR gives a sum"


def published(forecast: Forecast) -> str:
    """What the published run took, and by how much this reckoning differs where it is of the same
    device; nothing for any other run.
    """
    hours = published_hours(forecast.config, forecast.images)
    if hours is None:
        return ""
    count = forecast.images * forecast.config.train.length.value
    of_peak = forecast.published.total * count / (hours * 3600 * PAPER.float16 * 1e12)
    text = (
        f"{hours:,.0f} V100 hours, by the published time of ViT-S/16: {of_peak:.0%} of the peak in "
        "float16"
    )
    if forecast.machine.device != PAPER:
        return text
    own = forecast.share * forecast.rate / (PAPER.peak(forecast.precision) * 1e12)
    return (
        f"{text}; here {forecast.device_hours:,.0f}, at {own:.0%} of that in {forecast.precision}, "
        "which nothing has measured"
    )


def narrower(forecast: Forecast) -> str:
    """What float16 would take, on a device where auto is float32 for want of bfloat16."""
    config, found = forecast.config, forecast.machine.device
    if forecast.half or found.bfloat16 or found.measured or not found.gpu:
        return ""
    half = replace(config, train=replace(config.train, precision="float16"))
    hours = replace(forecast, config=half).device_hours
    return (
        f"{found.name} has no bfloat16, so that this is float32: by the same reckoning "
        f"train.precision=float16 takes {_hours(hours)} of a device"
    )


def _hours(hours: float) -> str:
    return f"{hours:,.0f} hours" if hours >= 10 else f"{hours:.2g} hours"


def plain(forecast: Forecast) -> dict[str, Any]:
    """For JSON: SI units, GiB."""
    machine, derived = forecast.machine, forecast.derived
    needed = forecast.memory(forecast.micro_batch)
    stored = Stored.of(forecast.config, derived)
    return {
        "recipe": forecast.config.recipe,
        "device": machine.device.name,
        "devices": machine.devices,
        "nodes": machine.nodes,
        "precision": forecast.precision,
        "images": forecast.images,
        "steps": derived.run_steps,
        "steps_per_epoch": derived.steps_per_epoch,
        "batch": forecast.config.train.batch,
        "micro_batch": forecast.micro_batch,
        "parameters": forecast.parameters.trained,
        "flops_per_image": forecast.flops.total,
        "published_flops_per_image": forecast.published.total,
        "share_of_products": forecast.share,
        "share_is": "measured" if forecast.probe is not None else "estimated",
        "step_seconds": forecast.step_seconds,
        "images_per_second": forecast.images_per_second,
        "hours": forecast.hours,
        "device_hours": forecast.device_hours,
        "published_v100_hours": published_hours(forecast.config, forecast.images),
        "price": forecast.price * forecast.device_hours,
        "memory_gib": {name: size / GIB for name, size in needed.parts().items()},
        "peak_gib": needed.peak / GIB,
        "largest_micro_batch": forecast.largest,
        "link_bytes_per_step": forecast.exchanged,
        "link_seconds_per_step": forecast.exchange_seconds,
        "link_seconds_waited": forecast.waited,
        "checkpoint_gib": forecast.checkpoint / GIB,
        "checkpoints": stored.newest + stored.lasting,
    }
