"""Recipes: complete configurations by name, as functions that say what they cost and give."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ibot.config.override import diff, from_run, items
from ibot.config.schema import Config
from ibot.errors import ConfigError
from ibot.recipes import paper, small

OWN = "o"
"""Mark of a value that no publication has."""
UNPUBLISHED = ("system.", "log.", "checkpoint.", "data.", "evaluate.")
"""Settings of which publications say nothing."""
RECIPES: dict[str, Callable[[], Config]] = {
    "demo": small.demo,
    "tiny32": small.tiny32,
    "tiny64": small.tiny64,
    "one_gpu": small.one_gpu,
    "adapt": small.adapt,
    "vit_s16": paper.vit_s16,
    "vit_b16": paper.vit_b16,
    "vit_b16_rand": paper.vit_b16_rand,
    "vit_l16": paper.vit_l16,
    "vit_l16_rand": paper.vit_l16_rand,
    "swin_t7": paper.swin_t7,
    "swin_t14": paper.swin_t14,
    "vit_b16_in22k": paper.vit_b16_in22k,
    "vit_l16_in22k": paper.vit_l16_in22k,
    "vit_s16_k1000": paper.vit_s16_k1000,
    "ablation_base": paper.ablation_base,
}

OF_THE_HOURS = (*UNPUBLISHED, "train.precision", "train.seed", "train.accumulate")
"""Settings that may differ where the hours of the published run are still said beside a run's."""


def recipe(name: str | Path, beside: Iterable[str] = ()) -> Config:
    """The configuration of a named recipe, of a run folder, or of a config.json of a run.

    Raises ConfigError for a file that cannot be read, and for an unknown name; the nearest one is
    suggested, of the recipes and of the names `beside` them that the caller knows.
    """
    name = str(name)
    if name in RECIPES:
        return replace(RECIPES[name](), recipe=name)
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if path.suffix == ".json" and path.is_file():
        try:
            plain = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"'{path}' cannot be read",
                why=str(error),
                fix="copy it from where the run was made, or begin a new run in another folder",
            ) from None
        return from_run(plain)
    known = [*beside, *RECIPES]
    nearest = difflib.get_close_matches(name, known, 1, 0.4)
    raise ConfigError(
        f"unknown recipe '{name}'",
        why=f"the recipes are {', '.join(known)}",
        fix=f"did you mean {nearest[0]}?" if nearest else "ibot recipes list says what each is for",
    )


def source_of(config: Config, key: str) -> str:
    """The mark of a setting's value: that of the published recipe that has it, else `OWN`.

    There is none for what no publication sets. Recipes that were not published are compared with
    `vit_s16`, from which they are made.
    """
    if key.startswith(UNPUBLISHED):
        return ""
    name = config.recipe if config.recipe in paper.SOURCES else "vit_s16"
    published = dict(items(recipe(name)))[key]
    return paper.SOURCES[name].get(key, "D") if dict(items(config))[key] == published else OWN


def published_hours(config: Config, images: int) -> float | None:
    """V100 hours of the published run that a configuration is, on as many images within 1 %; None
    for any other. `ibot recipes list` says on what they rest.
    """
    model = paper.PUBLISHED.get(config.recipe)
    if model is None or abs(images - model.images) > 0.01 * model.images:
        return None
    own = recipe(config.recipe)
    if any(not key.startswith(OF_THE_HOURS) for key, _, _ in diff(own, config)):
        return None
    return paper.v100_hours(config.recipe, own)


def beyond_paper(config: Config) -> list[str]:
    """Options in use that the paper does not have."""
    method, model, augment = config.method, config.model, config.augment
    patches = method.patch_weight > 0 or method.visible_weight > 0  # are in a loss
    options = {
        f"method.koleo_weight={method.koleo_weight:g} (KoLeo regulariser)": method.koleo_weight > 0,
        "method.targets=sinkhorn (Sinkhorn-Knopp instead of centering)": method.targets
        == "sinkhorn",
        "method.patch_balance=all (Sinkhorn-Knopp over all patches)": patches
        and method.patch_balance == "all",
        f"mask.min_block={config.mask.min_block} (cells of the smallest block of a mask)": (
            config.mask.min_block > 0
        ),
        "mask.shape=attention (hides what the teacher attends to)": config.mask.shape
        == "attention",
        "method.patch_target_norm=false (patch targets before the final norm)": (
            patches and not method.patch_target_norm
        ),
        "method.patch_residual=true (patch targets less the mean of their view)": (
            patches and method.patch_residual
        ),
        f"method.visible_weight={method.visible_weight:g} (a patch loss on visible patches)": (
            method.visible_weight > 0
        ),
        "method.visible_target=other (of the same part of the image in the other view)": (
            method.visible_weight > 0 and method.visible_target == "other"
        ),
        "method.temp_schedule=step (temperatures change at each step)": method.temp_schedule
        == "step"
        and method.temp_warmup.value > 0,
        f"model.registers={model.registers} (register tokens)": model.registers > 0,
        "model.init=xavier": model.init != "published",
        f"augment.vertical_flip={augment.vertical_flip:g} (flips top to bottom)": (
            augment.vertical_flip > 0
        ),
        f"augment.turn={augment.turn:g} (quarter turns)": augment.turn > 0,
        "data.trim_border (borders of one colour are cut off)": config.data.trim_border,
    }
    return [text for text, used in options.items() if used]
