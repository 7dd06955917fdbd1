"""Time and memory of a training step on a GPU, with each of its fast paths on and off.

    python -m benchmarks.step_gpu [--out FILE] [--minutes 9] [--models vit_s16 swin_t7] [--batch 64]

ViT-S, B and L and Swin-T at the published crops, bfloat16, block masks of three micro-batches in
turn, so that numbers of masked patches change; up to 20 steps to warm up and 50 timed ones between
events, nothing read back inside. Rows are appended to FILE as they come, the most telling first;
none is begun after `--minutes`. `share` is that of the rate of a large bfloat16 product, measured
first. `--device cpu --smoke` runs all of it in miniature, to see that it works.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published_step import PublishedStep
from benchmarks.rounds import append_row, machine
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.depth import branch_factors
from ibot.data.masks import make_masks
from ibot.engine.blocks import prepare_blocks
from ibot.engine.optimizer import build_optimizer
from ibot.engine.random_steps import VALUES
from ibot.engine.transfer import to_device
from ibot.engine.update import Update
from ibot.kernels.choice import using
from ibot.method.model import StudentTeacher
from ibot.recipes import recipe
from ibot.system.device import autocast, describe_device
from ibot.types import Batch

BATCHES = {"vit_s16": 128, "vit_b16": 64, "vit_l16": 32, "swin_t7": 64}
"""Images of a step: so many fit into 40 GiB, Swin and ViT-L into 80."""
SMOKE = [
    *("augment.global_size=32", "augment.local_size=16", "augment.num_local=2"),
    *("head.hidden_dim=32", "head.bottleneck_dim=16", "head.out_dim=64", "head.patch_out_dim=64"),
]
SMOKE_MODEL = {
    "vit": ["model.width=24", "model.depth=2", "model.heads=2", "model.patch=8"],
    "swin": [
        *("model.width=16", "model.depths=(1,2)", "model.stage_heads=(2,2)", "model.window=2"),
        "model.patch=4",
    ],
}
COMPILED, PACKED = "compiled blocks", "packed views"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the step."""

    without: tuple[str, ...] = ()
    """Fast paths that are switched off, by their names in the log."""
    settings: tuple[str, ...] = ()
    published: bool = False


VARIANTS = {
    "reference": Variant(settings=("system.kernels=reference", "system.compile=off")),
    "all": Variant(),
    "published": Variant(published=True),
    "all but compiled": Variant(without=(COMPILED,)),
    "all but compiled and packed": Variant(without=(COMPILED, PACKED)),
    "all but losses": Variant(without=("losses",)),
    "all, selective": Variant(settings=("system.checkpoint_activations=selective",)),
    "all, blocks": Variant(settings=("system.checkpoint_activations=blocks",)),
}
"""In the order of what they tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and how long is measured."""

    device: torch.device
    smoke: bool
    rate: float
    """Of a large product in bfloat16, FLOP/s."""
    backend: str
    """Of torch.compile."""

    @property
    def seconds(self) -> float:
        """To warm up, and again to measure."""
        return 0.02 if self.smoke else 5.0


def config_of(name: str, smoke: bool) -> Config:
    """The recipe, or a miniature of it."""
    config = recipe(name)
    return apply(config, [*SMOKE, *SMOKE_MODEL[config.model.kind]]) if smoke else config


def make_batches(config: Config, size: int, device: torch.device, count: int = 3) -> list[Batch]:
    """Random views with block masks and stochastic depth, on the device."""
    augment, index = config.augment, np.arange(size)
    grid = tuple(side // config.model.stride for side in augment.global_size)
    views = [(2, augment.global_size), (augment.num_local, augment.local_size)]
    rates = StudentTeacher(config).student.backbone.drop_rates
    made = []
    for i in range(count):
        g = torch.Generator().manual_seed(i)
        tensors = [
            torch.randint(0, 256, (n, size, 3, *side), generator=g, dtype=torch.uint8)
            for n, side in views
        ]
        masks = make_masks(config.mask, grid, 2, i, 0, index)
        drop = branch_factors(rates, 2 + augment.num_local, i, 0, index) if rates else None
        batch = Batch(
            tensors[0], tensors[1] if augment.num_local else None, masks, index, drop=drop
        )
        made.append(to_device(batch, device, config))
    return made


def make_step(
    config: Config, variant: Variant, bench: Bench
) -> tuple[Callable[[Batch], object], AbstractContextManager[object]]:
    """A function that runs one step, and the context in which it must run."""
    torch.manual_seed(0)
    precision = partial(autocast, bench.device, torch.bfloat16)
    if variant.published:
        with bench.device:
            published = PublishedStep(config)
        return lambda batch: published.step(batch, VALUES), precision()
    with bench.device:
        model = StudentTeacher(config)
    prepare_blocks(model, config.system, bench.device, backend=bench.backend)
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
        autocast=precision,
    )
    return lambda batch: update.step([batch], VALUES, observe=False), nullcontext()


def clocked(step: Callable[[int], object], device: torch.device, count: int) -> list[float]:
    """Seconds of each of `count` steps; a GPU is waited for at the end alone."""
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for i in range(count):
            step(i)
            marks.append(time.perf_counter())
        return [b - a for a, b in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for i, event in enumerate(events[1:]):
        step(i)
        event.record()
    torch.cuda.synchronize(device)
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(events)]


def measured(step: Callable[[Batch], object], batches: Sequence[Batch], bench: Bench) -> dict:
    """What steps take, after those that compile and warm up."""

    def run(i: int) -> None:
        step(batches[i % len(batches)])

    began = time.perf_counter()
    clocked(run, bench.device, len(batches))
    start = time.perf_counter() - began
    one = max(clocked(run, bench.device, 2))
    clocked(run, bench.device, min(20, int(bench.seconds / one)))
    memory = {}
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    seconds = clocked(run, bench.device, max(3, min(50, int(bench.seconds / one))))
    if bench.device.type == "cuda":
        memory = {
            "peak_gib": torch.cuda.max_memory_allocated(bench.device) / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved(bench.device) / 2**30,
        }
    return {
        "seconds": statistics.median(seconds),
        "slowest": max(seconds),
        "steps": len(seconds),
        "start_seconds": start,
        **memory,
    }


def flops_per_image(config: Config, device: torch.device) -> float:
    """Of the products of a step with the plain forms, by torch's counter."""
    with device:
        model = StudentTeacher(config)
    optimizer = build_optimizer(model.student, config.optim)
    update = Update(model=model, student=model.student, optimizer=optimizer, config=config)
    (batch,) = make_batches(config, 4, device, 1)
    with using("reference"), FlopCounterMode(display=False) as counter:
        update.step([batch], VALUES, observe=False)
    return counter.get_total_flops() / 4


def product_rate(device: torch.device, side: int) -> float:
    """FLOP/s of a square product in bfloat16."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    clocked(lambda _: a @ a, device, 5)
    return 2 * side**3 / statistics.median(clocked(lambda _: a @ a, device, 20))


def one_row(name: str, variant: str, size: int, bench: Bench, flops: float) -> dict:
    """Measure a variant of a model; what fails is a row that says so."""
    way = VARIANTS[variant]
    config = apply(config_of(name, bench.smoke), [f"train.batch={size}", *way.settings])
    if bench.smoke and config.system.compile == "auto":
        config = apply(config, ["system.compile=on"])
    row: dict = {"model": name, "variant": variant, "batch": size}
    torch._dynamo.reset()
    try:
        with using(config.system.kernels, way.without) as kernels:
            step, around = make_step(config, way, bench)
            with around:
                row |= measured(step, make_batches(config, size, bench.device), bench)
            row["kernels"] = kernels.text()
    except RuntimeError as error:  # out of memory, or what this GPU cannot do: others may
        return {**row, "error": str(error).splitlines()[0][:200]}
    finally:
        step = None
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    rate = flops * size / row["seconds"]
    row |= {"images_per_second": size / row["seconds"], "tflops": rate / 1e12}
    return {**row, "share": rate / bench.rate}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="benchmarks/results/step_gpu.jsonl")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--models", nargs="+", default=list(BATCHES), choices=BATCHES)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--batch", type=int, help="images of a step, instead of the models' own")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, few steps")
    options = parser.parse_args()
    began, device = time.monotonic(), torch.device(options.device)
    rate = product_rate(device, 64 if options.smoke else 8192)
    backend = "eager" if options.smoke else "inductor"
    bench = Bench(device=device, smoke=options.smoke, rate=rate, backend=backend)
    where = describe_device(device) if device.type == "cuda" else machine()
    print(f"{where}, torch {torch.__version__}: product of bfloat16 {rate / 1e12:.3g} TFLOP/s")
    flops = {
        name: flops_per_image(config_of(name, options.smoke), device) for name in options.models
    }
    reference: dict[str, float] = {}
    for variant, name in ((v, m) for v in options.variants for m in options.models):
        if time.monotonic() - began > 60 * options.minutes:
            print(f"{options.minutes:g} minutes are over; not measured: {variant} of {name} on")
            break
        size = options.batch or (4 if options.smoke else BATCHES[name])
        row = one_row(name, variant, size, bench, flops[name])
        if variant == "reference" and "seconds" in row:
            reference[name] = row["seconds"]
        if name in reference and "seconds" in row:
            row["ratio"] = reference[name] / row["seconds"]
        row |= {"device": where, "torch": torch.__version__, "product_tflops": rate / 1e12}
        print(line(row), flush=True)
        append_row(Path(options.out), "step_gpu", row)


def line(row: dict) -> str:
    """A row for the screen."""
    head = f"{row['model']:8} {row['variant']:28} batch {row['batch']:4}"
    if "error" in row:
        return f"{head}  failed: {row['error']}"
    memory = f"{row['peak_gib']:.1f} GiB" if "peak_gib" in row else ""
    ratio = f"reference : this {row['ratio']:.2f}" if "ratio" in row else ""
    return (
        f"{head}  {1000 * row['seconds']:8.1f} ms  {row['images_per_second']:7.0f} images/s  "
        f"{100 * row['share']:4.0f} % of the product rate  {ratio}  {memory}"
    )


if __name__ == "__main__":
    main()
