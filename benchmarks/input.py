"""Images per second of the input path on one core, next to the published order of work.

    python -m benchmarks.input DIR [--recipe vit_s16] [--images 64] [--rounds 5] [--json FILE]

All ways read the same files on one thread, views and masks included: "published" as
`published_input` says; "exact", "fast" and "device" are the loader's micro-batches in this process.
With "device" that is what is left to the core, decoding and packing; what the device then takes is
measured on the one that is there and shown beside. Peak memory is that of a process of its own,
above what it had before.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.published_input import published_input
from benchmarks.rounds import interleaved, machine, ratios, shown, spread, verdict, write_record
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.loader import MicroBatches
from ibot.data.sets.files import FileImages
from ibot.data.sets.open import open_images
from ibot.data.sets.subsets import SubsetImages
from ibot.engine.loop import mask_grid
from ibot.engine.transfer import to_device
from ibot.errors import UserError
from ibot.recipes import recipe
from ibot.system.device import choose_device, describe_device

PUBLISHED = "published"
PIXELS = ("exact", "fast", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured of one way."""

    path: str
    images_per_second: float
    """Median over the rounds."""
    ratio: float
    """To the published order of work, median over the rounds."""
    ratio_to_exact: float
    peak_mib: float
    """Of one process that does nothing else, above what it had before."""
    spread: float
    """Of the seconds of the rounds, as a share of their median."""
    seconds: list[float]
    """Of each round."""
    device_ms: float | None = None
    """What the device takes for an image, in milliseconds."""
    device: str = ""


def ways(source: SubsetImages, config: Config) -> dict[str, Callable[[], object]]:
    """One pass over the images, by the name of the way; further calls draw other views."""
    paths = [files(source).path(int(i)) for i in source.indices]

    def published() -> None:
        for path in paths:
            published_input(path, config)

    found: dict[str, Callable[[], object]] = {PUBLISHED: published}
    for pixels in PIXELS:
        found[pixels] = one_after_another(micro_batches(source, config, pixels))
    return found


def one_after_another(batches: MicroBatches) -> Callable[[], object]:
    """What makes the next micro-batch at every call."""
    numbers = itertools.count()
    return lambda: made(batches, next(numbers))


def files(source: SubsetImages) -> FileImages:
    """The files behind a subset. Raises UserError for images that are no files by themselves."""
    if not isinstance(source.base, FileImages) or source.base.archives is not None:
        raise UserError(f"'{source.root}' is no folder of files", fix="name a folder of images")
    return source.base


def micro_batches(source: SubsetImages, config: Config, pixels: str) -> MicroBatches:
    """The loader's own, without processes."""
    return MicroBatches(apply(config, [f"data.pixels={pixels}"]), source, mask_grid(config), 0, 1)


def made(batches: MicroBatches, number: int) -> Any:
    """A micro-batch. Raises what the loader found."""
    batch = batches[number]
    if isinstance(batch, Exception):
        raise batch
    return batch


def peak(way: Callable[[], object]) -> float:
    """MiB that a process needs for a pass above what it had; nan where the system does not tell."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(way, sending))
    process.start()
    found = receiving.recv()
    process.join()
    return found


def _report_peak(way: Callable[[], object], sending: Connection) -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        before = _status("VmRSS")
        way()
        sending.send((_status("VmHWM") - before) / 1024)
    except OSError:
        sending.send(float("nan"))


def _status(name: str) -> int:
    """KiB of an entry of this process's status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def device_seconds(
    source: SubsetImages, config: Config, device: torch.device, rounds: int
) -> float:
    """What the device takes for a micro-batch, median: from pictures in memory to its views."""
    batch = made(micro_batches(source, config, "device"), 0)
    if device.type == "cuda":
        batch = batch.pin_memory()
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        to_device(batch, device, config)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measure(source: SubsetImages, config: Config, rounds: int, device: torch.device) -> list[Row]:
    """All ways, in interleaved rounds."""
    each, count = ways(source, config), len(source)
    peaks = {name: peak(way) for name, way in each.items()}  # before this process grows
    seconds = interleaved(each, rounds)
    on_device = 1e3 * device_seconds(source, config, device, rounds) / count
    rows = []
    for name, taken in seconds.items():
        own = {"device_ms": on_device, "device": describe_device(device)}
        rows.append(
            Row(
                path=name,
                images_per_second=count / statistics.median(taken),
                ratio=statistics.median(ratios(seconds, PUBLISHED, name)),
                ratio_to_exact=statistics.median(ratios(seconds, "exact", name)),
                peak_mib=peaks[name],
                spread=spread(taken),
                seconds=taken,
                **own if name == "device" else {},
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--recipe", default="vit_s16")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto", help="that makes the views of 'device'")
    parser.add_argument("--json", help="a file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = open_images(options.data)
    count = min(options.images, len(base))
    source = SubsetImages(base, np.linspace(0, len(base) - 1, count).astype(np.int64))
    config = apply(recipe(options.recipe), [f"train.batch={count}", "train.accumulate=1"])
    rows = measure(source, config, options.rounds, choose_device(options.device))
    judged = verdict({row.path: row.seconds for row in rows})
    print(f"{machine()}\n{options.recipe}, {count} images of {options.data}, one core")
    for row in rows:
        print(
            f"{row.path:9} {row.images_per_second:8.1f} images/s, {row.ratio:5.2f} times published"
            f", {row.ratio_to_exact:5.2f} times exact, peak {row.peak_mib:5.0f} MiB; seconds "
            f"{shown(row.seconds)}"
        )
        if row.device_ms is not None:
            print(f"{'':9} and {row.device_ms:.3f} ms an image on {row.device}")
    print(judged or "rounds agree")
    if options.json:
        told = {"recipe": options.recipe, "images": count, "verdict": judged}
        write_record(Path(options.json), "input", [{**asdict(row), **told} for row in rows])


if __name__ == "__main__":
    main()
