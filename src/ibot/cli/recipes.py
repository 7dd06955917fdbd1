"""`ibot recipes`."""

from __future__ import annotations

import argparse

from ibot.config.override import diff, items
from ibot.config.override import show as shown
from ibot.recipes import RECIPES, beyond_paper, recipe
from ibot.recipes.paper import SOURCES

SPEED_ONLY = ("system.", "log.", "checkpoint.")


def list_all(options: argparse.Namespace) -> None:
    """Every recipe with the first lines of its docstring."""
    for name, function in RECIPES.items():
        print(f"{name:14}{' '.join((function.__doc__ or '').split())}")


def show(options: argparse.Namespace) -> None:
    """Every setting, with the mark of its source for published recipes."""
    config = recipe(options.name)
    sources = SOURCES.get(options.name, {})
    if sources:
        print("# R README, D default of the published code, P paper, T third party, i inferred")
    for key, value in items(config):
        mark = ""
        if sources and not key.startswith((*SPEED_ONLY, "data.", "evaluate.")):
            mark = sources.get(key, "D")
        print(f"{key + '=' + shown(value):56}{mark}".rstrip())
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
