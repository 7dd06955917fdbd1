"""The demo: generated images, one training, honest controls, one picture."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.config.schema import Config
from ibot.data.masks import make_masks
from ibot.data.pixels import normalize
from ibot.data.scenes import CLASSES, write_folder
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.open import find_labelled
from ibot.engine.loop import mask_grid, train
from ibot.engine.start import with_pixels
from ibot.method.model import StudentTeacher
from ibot.models.contract import Backbone
from ibot.recipes import recipe
from ibot.rng import Purpose, torch_seed
from ibot.show.attention import class_attention
from ibot.show.training import Example, training_picture
from ibot.studies.closing import gained, means
from ibot.studies.comparison import Sets, print_comparison, scores
from ibot.studies.measured import knn_by_step
from ibot.studies.pretraining import describe
from ibot.studies.probes import Evaluated, probes
from ibot.studies.settings import Say
from ibot.system.device import choose_device
from ibot.system.files import write_named
from ibot.system.jsonl import read_jsonl
from ibot.types import ResultRecord
from ibot.weights.read import load_backbone

TRAIN_IMAGES, VAL_IMAGES = 12000, 2000
EXAMPLES = 10

CONTROLS = {
    "KoLeo alone": ["method.cls_weight=0", "method.patch_weight=0"],
    "class loss alone": ["method.patch_weight=0", "method.koleo_weight=0"],
    "paper's losses": ["method.targets=center", "method.koleo_weight=0"],
}
"""Settings of the runs that `controls` adds."""


def demo(
    folder: Path, *, seed: int = 0, paper: bool = False, controls: bool = False, quiet: bool = False
) -> None:
    """Draw scenes, pre-train, print a comparison with the random network, and draw a picture.

    A signal saves the training and ends the demo.

    Args:
        folder: of the run; images and controls lie beside it.
        seed: of images and training.
        paper: the paper's losses alone, without options beyond it.
        controls: also train what might explain the gain instead.
        quiet: print results only.
    """
    began = time.perf_counter()
    say: Say = (lambda text: None) if quiet else print
    config, sets = _scenes(folder, seed, paper, say)
    networks = _train(config, sets, folder, quiet)
    if networks is None:
        return
    compared = print_comparison(*networks, sets, config)
    print(f"gained {gained(compared.found)}")
    print(f"means  {means(compared.found)}")
    picture = folder / "pictures" / "training.png"
    write_picture(picture, config, sets[1], networks, compared.levels, run=folder)
    say(
        "measured on three seeds (docs/results.md): the paper's losses alone end near 20 here, "
        "KoLeo alone near 55, raw pixels near 52;"
    )
    say(
        "what the losses add shows after whitening to 8 or 16 dimensions. --controls trains both, "
        "--paper the former"
    )
    print(f"picture: {picture}")
    print(f"weights: {folder}    took {time.perf_counter() - began:.0f} s")
    if controls:
        run_controls(config, folder, sets, say)
    say(f"next:    ibot pretrain auto --data DIR    ibot features {folder} --data DIR --out FILE")


def _scenes(folder: Path, seed: int, paper: bool, say: Say) -> tuple[Config, Sets]:
    """Settings of the demo, and its scenes in a folder beside the run."""
    data = folder.parent / f"{folder.name}-images-{seed}"
    say(
        f"drawing {TRAIN_IMAGES + VAL_IMAGES} scenes of {len(CLASSES)} classes "
        f"({', '.join(CLASSES)}) into {data}"
    )
    config = apply(recipe("demo"), [f"data.path={data}", f"train.seed={seed}"])
    if paper:
        config = apply(config, CONTROLS["paper's losses"])
    size = config.augment.global_size[0]
    write_folder(data, train=TRAIN_IMAGES, val=VAL_IMAGES, seed=seed, size=size)
    sets = find_labelled(str(data))
    assert sets is not None
    return config, sets


def _train(
    config: Config, sets: Sets, folder: Path, quiet: bool
) -> tuple[Backbone, Backbone] | None:
    """The network before and after the training; None where a signal ended it."""
    say: Say = (lambda text: None) if quiet else print
    device = choose_device(config.system.device)
    config = with_pixels(config, device, folder)
    derived = derive(config, len(sets[0]))
    describe(config, derived, sets[0], folder=folder, world_size=1, say=say)
    probe = probes(config, Evaluated(sets[0], sets), device, say)
    initial: list[Backbone] = []

    def evaluate(backbone: nn.Module, step: int) -> list[ResultRecord]:
        if step == 0:
            initial.append(copy.deepcopy(backbone))  # pyright: ignore[reportArgumentType]
        return probe(backbone, step) if probe is not None else []

    state = train(config, folder, command="ibot demo", evaluate=evaluate, quiet=quiet)
    if state.step < derived.run_steps:  # a signal came: it was saved, and told
        return None
    after = load_backbone(folder)
    return initial[0] if initial else untrained(config), after


def untrained(config: Config) -> Backbone:
    """The backbone with which the run of these settings began."""
    torch.manual_seed(torch_seed(config.train.seed, 0, 0, Purpose.INIT))
    return StudentTeacher(config).teacher.backbone


def run_controls(config: Config, folder: Path, sets: Sets, say: Say) -> None:
    """Train what might explain the gain instead, with the same seed and length; print its k-NN.

    A signal ends it after a save.
    """
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
        print(scores(load_backbone(other), sets, config).line(name, width=18))


def write_picture(
    out: Path,
    config: Config,
    source: LabelledImages,
    networks: tuple[Backbone, Backbone],
    levels: dict[str, float],
    *,
    run: Path,
) -> None:
    """Draw curves, and some validation images with a mask and the attention of both networks.

    Args:
        out: the file.
        config: settings of the run.
        source: validation images.
        networks: before and after the training.
        levels: name -> accuracy, beside the curve of k-NN.
        run: its folder.
    """
    index = np.linspace(0, len(source) - 1, EXAMPLES).astype(np.int64)
    images = np.stack([source.read(int(i)) for i in index])
    grid = mask_grid(config)
    always = replace(config.mask, ratio=((0.3, 0.1),))
    masks = make_masks(always, grid, 1, 0, 0, index).map[0].reshape(-1, *grid).numpy()
    tensor = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), config.model.statistics)
    maps = [class_attention(net.cpu().eval(), tensor).mean(dim=1).numpy() for net in networks]
    examples = [Example(images[i], masks[i], maps[0][i], maps[1][i]) for i in range(len(index))]
    title = (
        f"iBOT on generated scenes: {config.train.length}, {config.model.depth} blocks of "
        f"width {config.model.width}"
    )
    metrics = read_jsonl(run / "metrics.jsonl")
    knn = [(found.step * config.train.batch, found.knn) for found in knn_by_step(run)]
    write_named(out, lambda path: training_picture(metrics, knn, levels, examples, path, title))
