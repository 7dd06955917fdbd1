"""Whether the input path feeds the training: images per second from files and from ready tensors,
and what making the views on the device takes of a step.

    python -m benchmarks.feed_gpu DIR [--recipe vit_s16] [--batch 256] [--json FILE] [settings]

"ready": the same views, on the device already, again and again. "files": the loader with its
processes, the device makes the views of the next step beside the present one. "views": those of a
batch, alone, from page-locked memory, as a share of a ready step. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Generator, Iterable
from itertools import repeat
from pathlib import Path

import torch

from benchmarks.rounds import append_row, interleaved, ratios, shown, verdict
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.loader import Loader
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_images
from ibot.engine.loop import mask_grid
from ibot.engine.random_steps import VALUES
from ibot.engine.start import with_pixels
from ibot.engine.transfer import ahead, to_device
from ibot.engine.trial import build_update
from ibot.recipes import recipe
from ibot.system.device import choose_device, describe_device
from ibot.types import Batch


def waited(device: torch.device) -> None:
    """Return when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Feed:
    """The ways of a round, on one device."""

    def __init__(self, config: Config, source: Images, device: torch.device, steps: int) -> None:
        self.config, self.source, self.device, self.steps = config, source, device, steps
        self.update = build_update(config, device)
        (self.read,) = next(iter(self._loader(1)))
        self.batch = to_device(self.read, device, config)
        self.fed = self._fed()
        self.workers = 0

    def _loader(self, end: int | None) -> Loader:
        loader = Loader(self.config, self.source, grid=mask_grid(self.config), end_step=end)
        self.workers = loader.workers
        return loader

    def _fed(self) -> Generator[Batch]:
        """Batches of the loader, for ever: its processes stay between the rounds."""
        for step in ahead(self._loader(None), self.config, self.device):
            yield from step.on_device()

    def ready(self) -> None:
        """Steps of one batch that is on the device."""
        self._train(repeat(self.batch, self.steps))

    def files(self) -> None:
        """Steps of batches as they come from the files."""
        self._train(batch for _, batch in zip(range(self.steps), self.fed, strict=False))

    def views(self) -> None:
        """Views of as many batches, alone."""
        for _ in range(self.steps):
            to_device(self.read, self.device, self.config)
        waited(self.device)

    def _train(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self.update.step([batch], VALUES, observe=False)
        waited(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("settings", nargs="*", help="section.key=value")
    parser.add_argument("--recipe", default="vit_s16")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", help="a file for the numbers")
    options = parser.parse_intermixed_args()
    source = open_images(options.data)
    given = [f"train.batch={options.batch}", f"system.device={options.device}", *options.settings]
    config = apply(recipe(options.recipe), given)
    device = choose_device(config.system.device)
    config = with_pixels(config, device)
    feed = Feed(config, source, device, options.steps)
    each: dict[str, Callable[[], object]] = {
        name: getattr(feed, name) for name in ("ready", "files", "views")
    }
    began = time.perf_counter()
    seconds = interleaved(each, options.rounds)
    feed.fed.close()
    rate = {
        name: options.batch * options.steps / statistics.median(taken)
        for name, taken in seconds.items()
    }
    row = {
        "recipe": options.recipe,
        "pixels": config.data.pixels,
        "batch": options.batch,
        "workers": feed.workers,
        "ready_images_per_second": rate["ready"],
        "files_images_per_second": rate["files"],
        "files_to_ready": statistics.median(ratios(seconds, "ready", "files")),
        "views_ms": 1e3 * statistics.median(seconds["views"]) / options.steps,
        "views_share_of_step": statistics.median(ratios(seconds, "views", "ready")),
        "seconds": seconds,
        "verdict": verdict(seconds),
        "device": describe_device(device),
    }
    for name, taken in seconds.items():
        print(f"{name:6} {rate[name]:9.1f} images/s; seconds {shown(taken)}")
    print(
        f"from files {100 * row['files_to_ready']:.0f} % of ready tensors with {feed.workers} "
        f"loader processes; views {row['views_ms']:.1f} ms a batch, "
        f"{100 * row['views_share_of_step']:.0f} % of a step; {row['device']}; "
        f"{row['verdict'] or 'rounds agree'}; {time.perf_counter() - began:.0f} s"
    )
    if options.json:
        append_row(Path(options.json), "feed_gpu", row)


if __name__ == "__main__":
    main()
