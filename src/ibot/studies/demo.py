"""The demo: generated images, one training, honest controls, one picture."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibot.config.override import apply
from ibot.config.resolve import derive
from ibot.config.schema import Config
from ibot.data import reef
from ibot.data.scenes import write_folder
from ibot.data.sets.open import find_labelled
from ibot.engine.loop import train
from ibot.engine.start import with_pixels
from ibot.method.model import StudentTeacher
from ibot.models.contract import Backbone
from ibot.recipes import recipe
from ibot.recipes.ablations import PUBLISHED_PATCHES
from ibot.rng import Purpose, torch_seed
from ibot.studies.closing import gained, means
from ibot.studies.comparison import (
    COLOURS,
    COLOURS_WHITENED,
    PIXELS,
    RANDOM,
    WHITENED,
    Sets,
    print_comparison,
    scores,
)
from ibot.studies.demo_patches import (
    SIDE,
    PatchScores,
    patch_images,
    patch_scores,
    pixels_of,
    tokens_of,
)
from ibot.studies.demo_picture import Seen, write_picture
from ibot.studies.pretraining import describe
from ibot.studies.probes import Evaluated, probes
from ibot.studies.settings import Say
from ibot.system.device import choose_device
from ibot.system.files import write_atomically
from ibot.system.progress import Progress, counter, no_progress
from ibot.types import ResultRecord
from ibot.weights.read import load_backbone

KEYS = {
    "random": RANDOM,
    "random_whitened": WHITENED,
    "raw_pixels": PIXELS,
    "colours": COLOURS,
    "colours_whitened": COLOURS_WHITENED,
}
"""Of `summary.json`, and what they are called on the screen."""
MEASURED = (
    "measured on three seeds (docs/results.md): KoLeo alone ends at 23 to 25, the patch loss as "
    "published at 67 to 69,\nthe class loss alone at 76 to 78. Plain pixels cut fish out better, "
    "but name fewer of them. --controls trains the controls"
)
"""Of the controls, which take longer than the demo."""
TRAIN_IMAGES, VAL_IMAGES = 10000, 2000

NO_PATCHES = (*PUBLISHED_PATCHES, "method.patch_weight=0")
AS_PUBLISHED = (*PUBLISHED_PATCHES, "method.patch_weight=1")
CONTROLS = {
    "KoLeo alone": ("method.cls_weight=0", *NO_PATCHES),
    "class loss alone": NO_PATCHES,
    "patch loss as published": AS_PUBLISHED,
    "without KoLeo": ("method.koleo_weight=0",),
    "paper's losses": ("method.targets=center", "method.koleo_weight=0", *AS_PUBLISHED),
}
"""Settings of the runs that `controls` adds; the second and third keep Sinkhorn-Knopp and KoLeo."""


def demo(
    folder: Path, *, seed: int = 0, paper: bool = False, controls: bool = False, quiet: bool = False
) -> None:
    """Draw shoals, pre-train, print a comparison with what has learnt nothing, and draw a picture.

    Figures also go to `summary.json` in the folder: `seconds` of this call, from the first image to
    the picture, `knn`, `patches`, and with `controls` theirs; accuracies in per cent. A signal
    saves the training and ends the demo; the call that goes on counts its own seconds alone.

    Args:
        folder: of the run; images and controls lie beside it.
        seed: of images and training.
        paper: the paper's losses alone, without options beyond it.
        controls: also train what might explain the gain instead.
        quiet: print results only.
    """
    began = time.perf_counter()
    say: Say = (lambda text: None) if quiet else partial(print, flush=True)
    config, sets = _scenes(folder, seed, paper, quiet)
    networks = _train(config, sets, folder, quiet)
    if networks is None:
        return
    seen = f"{TRAIN_IMAGES + VAL_IMAGES:,} images"
    say(f"measuring the network before and after, colours and pixels by k-NN: 4 x {seen}")
    compared = print_comparison(*networks, sets, config, _shown("measuring", quiet))
    print(f"gained {gained(compared.found)}")
    print(f"means  {means(compared.found)}", flush=True)
    say("measuring patches of further images, then drawing the picture")
    picture = folder / "pictures" / "training.png"
    patches = _patches(config, networks, sets, compared.levels, picture, folder, quiet)
    summary = {
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "knn": {
            "trained": compared.found.now.value,
            **{key: compared.levels[name] for key, name in KEYS.items()},
        },
        "patches": {name: asdict(scores) for name, scores in patches.items()},
    }
    _keep(folder, summary)
    if not (paper or controls):
        say(f"\n{MEASURED}")
    print(f"picture: {picture}")
    print(f"weights: {folder}    took {summary['seconds']:.0f} s")
    if controls:
        summary["controls"] = run_controls(config, folder, sets, say)
        _keep(folder, summary)
    say(f"next:    ibot pretrain auto --data DIR    ibot features {folder} --data DIR --out FILE")


def _patches(
    config: Config,
    networks: tuple[Backbone, Backbone],
    sets: Sets,
    levels: dict[str, float],
    picture: Path,
    run: Path,
    quiet: bool,
) -> dict[str, PatchScores]:
    """Print what patches show of further images, and draw the picture."""
    bank, shoals = patch_images(config.train.seed)
    encoders = {
        "random": tokens_of(networks[0].cpu()),
        "trained": tokens_of(networks[1].cpu()),
        "raw_pixels": pixels_of(config.model.patch),
    }
    shown, judged = _shown("patches", quiet), {}
    for name, encode in encoders.items():
        judged[name] = patch_scores(encode, bank, shoals)
        shown(len(judged), len(encoders))
    side, grid = SIDE, SIDE // config.model.patch
    print(
        f"\n{len(shoals)} further images of {side} pixels, {grid} x {grid} patches, by the nearest "
        f"of {len(bank) * grid**2:,} labelled patches, %"
    )
    print(f"{'':16}{'as they are':>20}{'whitened':>20}")
    print(f"{'':16}" + 2 * f"{'fish IoU':>10}{'species':>10}")
    names = {"random": "random network", "trained": "pre-trained", "raw_pixels": "raw pixels"}
    for name, (found, _) in judged.items():
        print(found.line(names[name]))
    seen = Seen(
        sets=sets,
        shoals=shoals,
        networks=networks,
        found=(judged["random"][1], judged["trained"][1]),
        levels=levels,
    )
    if not quiet:
        print(f"drawing {picture}", flush=True)
    write_picture(picture, config, seen, run)
    return {name: found for name, (found, _) in judged.items()}


def _shown(name: str, quiet: bool) -> Progress:
    """Progress of a part of the end, which takes a minute and more."""
    return no_progress if quiet else counter(name)


def _keep(folder: Path, summary: dict[str, Any]) -> None:
    text = json.dumps(summary, indent=1) + "\n"
    write_atomically(folder / "summary.json", lambda path: path.write_text(text))


def _scenes(folder: Path, seed: int, paper: bool, quiet: bool) -> tuple[Config, Sets]:
    """Settings of the demo, and its images in a folder beside the run."""
    data = folder.parent / f"{folder.name}-shoals-{seed}"
    if not quiet:
        print(
            f"drawing {TRAIN_IMAGES + VAL_IMAGES} shoals of {len(reef.SPECIES)} species of fish "
            f"into {data}",
            "(stopped by Ctrl-C, the same command goes on)",
        )
    config = apply(recipe("demo"), [f"data.path={data}", f"train.seed={seed}"])
    if paper:
        config = apply(config, CONTROLS["paper's losses"])
    shown = None if quiet else counter("drawing")
    write_folder(
        data,
        train=TRAIN_IMAGES,
        val=VAL_IMAGES,
        seed=seed,
        size=reef.SIDE,
        kind=reef.SHOALS,
        progress=shown,
    )
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


def run_controls(config: Config, folder: Path, sets: Sets, say: Say) -> dict[str, float]:
    """Train what might explain the gain instead, with the same seed and length; print its k-NN.

    Returns the plain ones in per cent. A signal ends it after a save.
    """
    steps, found = derive(config, len(sets[0])).run_steps, {}
    for name, settings in CONTROLS.items():
        other = folder.parent / f"{folder.name}-{name.replace(' ', '-').replace(chr(39), '')}"
        state = train(apply(config, settings), other, command="ibot demo --controls", quiet=True)
        if state.step < steps:
            say(
                f"{name}: stopped at step {state.step} of {steps}, saved; the same command "
                "resumes it"
            )
            return found
        measured = scores(load_backbone(other), sets, config)
        found[name] = measured.plain
        print(measured.line(name), flush=True)
    return found
