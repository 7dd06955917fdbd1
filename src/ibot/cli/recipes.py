"""`ibot recipes`."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import Any

from ibot.cli.parser import Commands
from ibot.config.advice import CHANGE
from ibot.config.meaning import meanings
from ibot.config.override import diff, items
from ibot.config.override import show as shown
from ibot.config.schema import Config
from ibot.errors import ConfigError
from ibot.recipes import OWN, RECIPES, beyond_paper, recipe, source_of
from ibot.recipes.paper import PUBLISHED, SOURCES, v100_hours

MARKS = "R README, D default of the published code, P paper, T third party, i inferred"
COLUMNS = {
    "parameters": 12,
    "epochs": 8,
    "batch": 7,
    "k-NN": 7,
    "linear": 8,
    "tuned": 7,
    "V100 hours": 12,
}
AUTO = "auto"
LINE = 80
"""Letters of a line of what is printed about a recipe."""
SPEED_ONLY = ("system.", "log.", "checkpoint.")


def declare(commands: Commands) -> None:
    """Declare `ibot recipes` with its actions."""
    actions = commands.add_group(
        "recipes",
        summary="list, show and compare recipes",
        description="Named configurations.",
        title="actions",
        metavar="ACTION",
    )
    actions.add("list", "all recipes, what each is for", list_all)
    shown = actions.add("show", "every setting of a recipe with its source", show)
    shown.add_argument("name", metavar="RECIPE|RUN")
    compared = actions.add("diff", "settings in which two recipes or runs differ", compare)
    compared.add_argument("first", metavar="A")
    compared.add_argument("second", metavar="B")
    summary = "what a setting means, when to change it, and its value in every recipe"
    actions.add("why", summary, why).add_argument("key", metavar="section.key")


def list_all(options: argparse.Namespace) -> None:
    """Published recipes with what they are, reached and cost; then ours with their docstrings."""
    columns = (f"{title:>{width}}" for title, width in COLUMNS.items())
    print(f"{'published':15}{''.join(columns)}")
    for name, model in PUBLISHED.items():
        config = recipe(name)
        scores = (model.knn, model.linear, model.finetune)
        knn, linear, tuned = ("-" if score is None else f"{score:.1f}" for score in scores)
        print(
            f"{name:15}{model.parameters:12,}{config.train.length.value:8g}{config.train.batch:7}"
            f"{knn:>7}{linear:>8}{tuned:>7}{v100_hours(name, config):12,.0f}"
        )
    print("accuracies: published, ImageNet-1K, %; hours: from the paper's time of ViT-S/16")
    print("\nours")
    for name, function in RECIPES.items():
        if name not in PUBLISHED:
            text = f"{name:15}{' '.join((function.__doc__ or '').split())}"
            print(textwrap.fill(text, LINE, subsequent_indent=" " * 15, break_on_hyphens=False))
    print("\nibot recipes show NAME: every setting with its source")
    print("ibot recipes why KEY: what a setting means")


def why(options: argparse.Namespace) -> None:
    """Meaning, unit, default and source of one setting, and its value in every recipe."""
    known = meanings()
    if options.key not in known:
        nearest = difflib.get_close_matches(options.key, known, 3, 0.5)
        nearest += [key for key in known if key.endswith(f".{options.key}")]
        raise ConfigError(
            f"unknown setting '{options.key}'",
            fix=f"did you mean {' or '.join(dict.fromkeys(nearest))}?"
            if nearest
            else "list all: ibot recipes show vit_s16",
        )
    print(f"{options.key}: {known[options.key]}")
    if advice := CHANGE.get(options.key):
        print(f"change it when {advice}")
    print(f"  default {shown(dict(items(Config()))[options.key])}")
    for name in (*PUBLISHED, *(name for name in RECIPES if name not in PUBLISHED)):
        config = recipe(name)
        value = shown(dict(items(config))[options.key])
        print(f"  {name:15}{value:24}{source_of(config, options.key)}".rstrip())
    chosen = _chosen_by_auto()
    values = {name: shown(values[options.key]) for name, values in chosen.items()}
    if len(set(values.values())) > 1:
        print("auto:", *(f"{value} ({name})" for name, value in values.items()), sep="  ")
    print(f"{MARKS}, {OWN} own")


def _chosen_by_auto() -> dict[str, dict[str, Any]]:
    """Settings that auto chooses, by case."""
    from ibot.studies.auto_examples import examples

    return {name: dict(items(config)) for name, config in examples().items()}


def _show_auto() -> None:
    """The settings that auto chooses by the images and the machine, in some usual cases."""
    chosen = _chosen_by_auto()
    print(
        "# auto is chosen from the images and the machine; photographs of 375 (small: 32) pixels,"
    )
    print("# a GPU of 24 GiB. For your own: ibot plan auto --data DIR, which says why as well.")
    print("# Settings that differ between these cases:")
    print(f"{'':26}{''.join(f'{name:22}' for name in chosen)}".rstrip())
    for key in next(iter(chosen.values())):
        values = [shown(values[key]) for values in chosen.values()]
        if len(set(values)) > 1:
            print(f"{key:26}{''.join(f'{value:22}' for value in values)}".rstrip())
    print("# The others: ibot recipes show one_gpu (with a GPU) or tiny32 (without)")


def show(options: argparse.Namespace) -> None:
    """Every setting with the mark of its source."""
    if options.name == AUTO:
        _show_auto()
        return
    config = recipe(options.name)
    print(
        f"# {MARKS}" + ("" if options.name in SOURCES else f"\n# {OWN} own: no publication has it")
    )
    for key, value in items(config):
        print(f"{key + '=' + shown(value):56}{source_of(config, key)}".rstrip())
    for text in beyond_paper(config):
        print(f"# beyond the paper: {text}")


def compare(options: argparse.Namespace) -> None:
    """Only what differs, what changes the result first."""
    rows = diff(recipe(options.first), recipe(options.second))
    print(f"{'':32}{options.first:24}{options.second}")
    for speed, title in ((False, "changes the result"), (True, "changes speed or records only")):
        chosen = [row for row in rows if row[0].startswith(SPEED_ONLY) == speed]
        if chosen:
            print(title)
        for key, first, second in chosen:
            print(f"  {key:30}{shown(first):24}{shown(second)}")
    if not rows:
        print("no difference")
