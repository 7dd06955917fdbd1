"""Images per second of `ibot index` next to plain feature extraction.

python -m benchmarks.index DATA [--weights RUN] [--rounds 5] [--workers 0]

The same images (a few thousand do), workers and batch, into fresh folders: "features" computes
class tokens into the cache, "tokens" those of the patches too, from which an index could be made
later, "pass" what an index holds of images, "index" all of `ibot index`: the projection before the
pass, and counting and sorting after it. Interleaved rounds in one process; seconds of the clock and
of processors, its workers included. Without weights: a random ViT-S/16 with the published head.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.rounds import interleaved, machine, ratios, shown, verdict
from ibot.config.override import to_plain
from ibot.eval.context import ImagesContext
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.opened import opened
from ibot.eval.request import Request
from ibot.method.model import Teacher
from ibot.recipes import recipe
from ibot.vocabulary.index import build, pass_over
from ibot.vocabulary.tokenizer import Checkpoint, temperatures_of, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="images")
    parser.add_argument("--weights", default="", help="run or file with a head")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        weights = options.weights or str(random_weights(Path(place) / "random.safetensors"))
        request = Request(
            weights=weights,
            data=options.data,
            cache=place,
            workers=options.workers,
            device=options.device,
        )
        with opened(ImagesContext, request, progress=False) as context:
            compare(context, Path(place), options.rounds)


def random_weights(file: Path) -> Path:
    """A ViT-S/16 with the published head of 8192 words, as a run exports it."""
    config = recipe("vit_s16")
    torch.manual_seed(0)
    save_file(Teacher(config).state_dict(), file, {"config": json.dumps(to_plain(config))})
    return file


def compare(context: ImagesContext, place: Path, rounds: int) -> None:
    """Print images/s of each way, and how much of plain extraction is left."""
    head = tokenizer(context)
    checkpoint = Checkpoint.read(context.weights, context.key)
    temperatures = temperatures_of(checkpoint.weights)

    def fresh() -> Path:
        return Path(tempfile.mkdtemp(dir=place))

    def features() -> None:
        replace(context, cache=fresh()).feature_sets(context.images, "images", [CLASS_TOKEN])

    def both_tokens(views: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        output = context.loaded.backbone(views)
        kinds = {"cls": output.cls, "patches": output.patches.flatten(1)}
        return {kind: kinds[kind].float() for kind in wanted}

    def tokens() -> None:
        away = replace(context, cache=fresh())
        away.feature_sets(context.images, "images", ["cls", "patches"], both_tokens)
        shutil.rmtree(away.cache)

    with_projection = build(context, place / "first", checkpoint)

    def only_pass() -> None:
        pass_over(context, head, temperatures, with_projection.projection, fresh())

    work: dict[str, list[float]] = {}

    def measured(name: str, way: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            before = processor_seconds()
            way()
            work.setdefault(name, []).append(processor_seconds() - before)

        return run

    ways = {
        "features": features,
        "tokens": tokens,
        "pass": only_pass,
        "index": lambda: build(context, fresh(), checkpoint),
    }
    clock = interleaved({name: measured(name, way) for name, way in ways.items()}, rounds)
    work = {name: values[1:] for name, values in work.items()}  # the first warmed up
    count = len(context.images)
    print(f"{machine()}; {context.workers} workers, batch {context.batch}")
    print(
        f"{context.loaded.config}, {len(with_projection.words)} of {count} images, {context.view}"
    )
    for title, seconds in (("clock", clock), ("processors", work)):
        for name, values in seconds.items():
            print(
                f"{title:10}  {name:8} {count / statistics.median(values):7.1f} images/s; "
                f"seconds {shown(values)}"
            )
        for plain, name in itertools.product(("features", "tokens"), ("pass", "index")):
            left = ratios(seconds, plain, name)
            # What else runs slows the clock of one way and not of the next, and processors alike.
            doubt = verdict(seconds if title == "clock" else {name: left})
            result = doubt or f"{statistics.median(left):.2f}"
            print(f"{title:10}  {name} / {plain}: {result}; rounds {shown(left)}")


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


if __name__ == "__main__":
    main()
