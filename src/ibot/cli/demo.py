"""`ibot demo`: generated images, one training, honest controls, one picture."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.cli.train import describe, knn_probe
from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.config.schema import Config
from ibot.recipes import recipe
from ibot.types import ResultRecord

if TYPE_CHECKING:
    from torch import nn

    from ibot.data.sets.images import LabelledImages
    from ibot.eval.features.tokens import Features
    from ibot.models.backbone import BackboneModule

TRAIN_IMAGES, VAL_IMAGES = 12000, 2000
EXAMPLES = 10
WHITENED_DIMS = (8, 16, 32, 64)

CONTROLS = {
    "KoLeo alone": ["method.cls_weight=0", "method.patch_weight=0"],
    "class loss alone": ["method.patch_weight=0", "method.koleo_weight=0"],
    "paper's losses": ["method.targets=center", "method.koleo_weight=0"],
}
"""Settings of the runs that `--controls` adds."""


def run(options: argparse.Namespace) -> int:
    """Draw scenes, evaluate the random network, pre-train, evaluate again, print both and write a
    picture.
    """
    from ibot.data.scenes import CLASSES, write_folder
    from ibot.data.sets.open import find_labelled
    from ibot.engine.loop import train
    from ibot.system.device import choose_device
    from ibot.system.jsonl import read_jsonl
    from ibot.weights.read import load_backbone

    began = time.perf_counter()
    folder = Path(options.out)
    say = (lambda text: None) if options.quiet else print
    data = folder.parent / f"{folder.name}-images-{options.seed}"
    say(
        f"drawing {TRAIN_IMAGES + VAL_IMAGES} scenes of {len(CLASSES)} classes "
        f"({', '.join(CLASSES)}) into {data}"
    )
    config = apply(recipe("demo"), [f"data.path={data}", f"train.seed={options.seed}"])
    if options.paper:
        config = apply(config, CONTROLS["paper's losses"])
    write_folder(
        data,
        train=TRAIN_IMAGES,
        val=VAL_IMAGES,
        seed=options.seed,
        size=config.augment.global_size[0],
    )
    sets = find_labelled(str(data))
    assert sets is not None
    derived = derive(config, len(sets[0]))
    describe(config, derived, sets[0], folder, 1, say)
    probe = knn_probe(config, choose_device(config.system.device), say)
    initial: list[BackboneModule] = []

    def evaluate(backbone: nn.Module, step: int) -> list[ResultRecord]:
        if step == 0:
            initial.append(copy.deepcopy(backbone))  # pyright: ignore[reportArgumentType]
        return probe(backbone, step) if probe is not None else []

    state = train(config, folder, command="ibot demo", evaluate=evaluate, quiet=options.quiet)
    if state.step < derived.run_steps:  # a signal came: it was saved, and told
        return 0
    after = load_backbone(folder)
    before = initial[0] if initial else untrained(config)
    controls = print_comparison(before, after, sets, config)
    metrics = read_jsonl(folder / "metrics.jsonl")
    knn = [
        (row["extra"]["step"] * config.train.batch, row["value"])
        for row in read_jsonl(folder / "results.jsonl")
        if row["metric"] == "knn_top1" and "step" in row["extra"]
    ]
    picture = folder / "pictures" / "training.png"
    write_picture(picture, metrics, knn, controls, (before, after), sets[1], config)
    say(
        "measured on three seeds (docs/results.md): the paper's losses alone end near 20 here, "
        "KoLeo alone near 55;"
    )
    say(
        "what the losses add shows after whitening to 8 or 16 dimensions. --controls trains both, "
        "--paper the former"
    )
    print(f"picture: {picture}")
    print(f"weights: {folder}    took {time.perf_counter() - began:.0f} s")
    if options.controls:
        run_controls(config, folder, sets, say)
    say(f"next:    ibot pretrain auto --data DIR    ibot features {folder} --data DIR --out FILE")
    return 0


def untrained(config: Config) -> BackboneModule:
    """The backbone with which the run of these settings began."""
    import torch

    from ibot.method.model import StudentTeacher
    from ibot.rng import Purpose, torch_seed

    torch.manual_seed(torch_seed(config.train.seed, 0, 0, Purpose.INIT))
    return StudentTeacher(config).teacher.backbone


def print_comparison(
    before: BackboneModule,
    after: BackboneModule,
    sets: tuple[LabelledImages, LabelledImages],
    config: Config,
) -> dict[str, float]:
    """k-NN of both networks, plain and whitened, with the effective rank; returns the levels for
    the picture.
    """
    rows = {"random network": _row(before, sets, config), "pre-trained": _row(after, sets, config)}
    pixels = pixel_accuracy(sets, config)
    dims = [d for d in WHITENED_DIMS if d <= config.model.width]
    chance = 100 / len(sets[0].classes)
    print(
        f"\nk-NN accuracy, %, k = {config.evaluate.k} (chance {chance:.0f}, raw pixels "
        f"{pixels:.1f})"
    )
    print(f"{'':16}{'plain':>7}" + "".join(f"{f'white {d}':>10}" for d in dims) + f"{'rank':>8}")
    for name, (plain, white, rank) in rows.items():
        print(
            f"{name:16}{plain:7.1f}" + "".join(f"{white[d]:10.1f}" for d in dims) + f"{rank:8.1f}"
        )
    best = max(rows["random network"][1].values())
    print(
        f"gain over the random network {rows['pre-trained'][0] - rows['random network'][0]:+.1f}, "
        f"over its best whitening {rows['pre-trained'][0] - best:+.1f}"
    )
    return {"random network": rows["random network"][0], "random, whitened": best}


def _row(
    backbone: BackboneModule, sets: tuple[LabelledImages, LabelledImages], config: Config
) -> tuple[float, dict[int, float], float]:
    from ibot.eval.features.spectrum import effective_rank, whiten
    from ibot.eval.features.tokens import extract_features

    bank, queries = (
        extract_features(backbone, part, size=config.augment.global_size) for part in sets
    )
    white = {}
    for dims in WHITENED_DIMS:
        if dims <= config.model.width:
            first, second = whiten(bank.cls, queries.cls, dims)
            white[dims] = accuracy(replace(bank, cls=first), replace(queries, cls=second), config)
    return accuracy(bank, queries, config), white, effective_rank(queries.cls)


def accuracy(bank: Features, queries: Features, config: Config) -> float:
    """Top-1 of the vote among the features as they are, l2-normalised."""
    from ibot.eval.neighbours.vote import knn_accuracy

    k, temperature = config.evaluate.k, config.evaluate.temperature
    return knn_accuracy(bank, test=queries, ks=k, temperature=temperature)[k].top1


def pixel_accuracy(sets: tuple[LabelledImages, LabelledImages], config: Config) -> float:
    """The same vote among raw pixels, standardised one by one."""
    import numpy as np
    import torch

    from ibot.eval.features.tokens import Features

    pixels = []
    for part in sets:
        images = np.stack([part.read(i) for i in range(len(part))])
        pixels.append((torch.from_numpy(images).flatten(1).float(), part))
    mean, std = pixels[0][0].mean(0), pixels[0][0].std(0).clamp(min=1e-6)
    bank, queries = (
        Features((x - mean) / std, None, torch.from_numpy(part.labels).long(), [])  # pyright: ignore[reportArgumentType]
        for x, part in pixels
    )
    return accuracy(bank, queries, config)


def run_controls(
    config: Config,
    folder: Path,
    sets: tuple[LabelledImages, LabelledImages],
    say: Callable[[str], None],
) -> None:
    """Train what might explain the gain instead, with the same seed and length, and print its k-NN.

    A signal ends it after a save.
    """
    from ibot.engine.loop import train
    from ibot.weights.read import load_backbone

    steps = derive(config, len(sets[0])).run_steps
    for name, settings in CONTROLS.items():
        other = folder.parent / f"{folder.name}-{name.replace(' ', '-').replace(chr(39), '')}"
        state = train(apply(config, settings), other, command="ibot demo --controls", quiet=True)
        if state.step < steps:
            say(
                f"{name}: stopped at step {state.step} of {steps}, saved; the same command "
                "resumes it"
            )
            return
        plain, white, rank = _row(load_backbone(other), sets, config)
        print(
            f"{name:18}{plain:7.1f}"
            + "".join(f"{value:10.1f}" for value in white.values())
            + f"{rank:8.1f}"
        )


def write_picture(
    out: Path,
    metrics: list[dict[str, Any]],
    knn: list[tuple[int, float]],
    controls: dict[str, float],
    networks: tuple[BackboneModule, BackboneModule],
    source: LabelledImages,
    config: Config,
) -> None:
    """Curves, and some validation images with a mask and the attention of both networks."""
    import numpy as np
    import torch

    from ibot.data.masks import make_masks
    from ibot.data.pixels import normalize
    from ibot.engine.loop import mask_grid
    from ibot.show.attention import class_attention
    from ibot.show.training import Example, training_picture

    index = np.linspace(0, len(source) - 1, EXAMPLES).astype(np.int64)
    images = np.stack([source.read(int(i)) for i in index])
    grid = mask_grid(config)
    always = replace(config.mask, ratio=((0.3, 0.1),))
    masks = make_masks(always, grid, 1, 0, 0, index).map[0].reshape(-1, *grid).numpy()
    tensor = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), config.model.statistics)
    maps = [class_attention(net.cpu().eval(), tensor).mean(dim=1).numpy() for net in networks]
    examples = [Example(images[i], masks[i], maps[0][i], maps[1][i]) for i in range(len(index))]
    out.parent.mkdir(parents=True, exist_ok=True)
    title = (
        f"iBOT on generated scenes: {config.train.length}, {config.model.depth} blocks of "
        f"width {config.model.width}"
    )
    training_picture(metrics, knn, controls, examples, out, title)
