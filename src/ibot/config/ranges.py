"""Which numbers a dataclass of settings takes, told in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from ibot.errors import ConfigError

Range = tuple[tuple[str, ...], str, Callable[[float], bool]]
"""Names of settings, what they must be in words, and whether a number is that."""


def check_ranges(settings: Any, ranges: Sequence[Range], use: str) -> None:
    """Raise ConfigError for the first number out of its range.

    Of a tuple each number counts; None, which stands for what follows from others, always fits.

    Args:
        settings: a dataclass.
        ranges: of its fields.
        use: what cannot be done with such a number, as in "x=0 cannot be `use` with".
    """
    for names, wanted, fits in ranges:
        for name in names:
            given = getattr(settings, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not fits(value):
                    default = next(f.default for f in fields(settings) if f.name == name)
                    raise ConfigError(
                        f"{name}={value} cannot be {use} with",
                        why=f"it must be {wanted}",
                        fix=f"for example {name}={default}" if default is not None else "",
                    )
