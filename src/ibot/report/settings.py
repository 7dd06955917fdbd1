"""Settings of a run as they lie in its folder, and where they differ from its recipe."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ibot.config.override import from_plain, show, to_plain
from ibot.errors import ConfigError
from ibot.recipes import RECIPES, UNPUBLISHED, beyond_paper, recipe
from ibot.words import encodable

PUBLISHED = "vit_s16"
"""With which runs are compared that follow no recipe by name."""
OF_THE_DATA = ("data.path", "data.val_path")
"""No recipe names them."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a run."""

    key: str
    """section.key."""
    value: str
    """As it is given on the command line."""
    recipe: str | None
    """The recipe's value; None where the recipe knows no such setting."""
    asked: bool
    """Whether the command named it."""

    @property
    def differs(self) -> bool:
        """From the recipe."""
        return self.value != self.recipe and self.key not in OF_THE_DATA

    @property
    def changes_result(self) -> bool:
        """Rather than speed or records only."""
        return not self.key.startswith(UNPUBLISHED)


def compared_with(plain: Mapping[str, Any]) -> str:
    """The recipe with which the settings of a config.json are compared."""
    name = plain.get("recipe")
    return name if isinstance(name, str) and name in RECIPES else PUBLISHED


def settings_of_run(plain: Mapping[str, Any], command: str) -> list[Setting]:
    """All settings of a config.json, of whatever version, in its order.

    Those that change the result come first.
    """
    known = dict(_flat(to_plain(recipe(compared_with(plain)))))
    asked = _asked(command)
    found = [Setting(key, value, known.get(key), key in asked) for key, value in _flat(plain)]
    return sorted(found, key=lambda setting: not setting.changes_result)


def without_text(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The sections alone, without what was added to them in a config.json."""
    return {section: values for section, values in plain.items() if isinstance(values, dict)}


def beyond(plain: Mapping[str, Any]) -> list[str]:
    """Options in use that the paper does not have; none for settings of another version."""
    try:
        return beyond_paper(from_plain(without_text(plain)))
    except (ConfigError, TypeError, AttributeError):
        return []


def _flat(plain: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """section.key and value of plain data, in order."""
    for section, values in plain.items():
        if isinstance(values, dict):
            for name, value in values.items():
                yield encodable(f"{section}.{name}"), encodable(show(_as_tuple(value)))


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _asked(command: str) -> set[str]:
    """Keys that a command sets by name; short options are left to the command itself."""
    try:
        words = shlex.split(command)
    except ValueError:
        return set()
    return {word.partition("=")[0] for word in words if "=" in word}
