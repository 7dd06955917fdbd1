"""Words for people."""

from __future__ import annotations

import re
from collections.abc import Sequence


def encodable(text: str) -> str:
    """Text that any file and terminal takes: bytes of names that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def counted(number: float, noun: str) -> str:
    """A number with its noun in the singular or the plural."""
    plural = (
        noun[:-1] + "ies"
        if noun.endswith("y") and noun[-2] not in "aeiou"
        else noun + ("es" if noun.endswith(("s", "x", "tch")) else "s")
    )
    digits = repr(number).removesuffix(".0") if isinstance(number, float) else str(number)
    return f"{digits} {noun if number == 1 else plural}"


def counted_in_thousands(number: int, noun: str) -> str:
    """As `counted`, with commas: 100,000 images."""
    return counted(number, noun).replace(str(number), f"{number:,}", 1)


def in_words(hours: float) -> str:
    """A time in the unit that suits it."""
    minutes = round(hours * 60)
    if minutes == 0:
        return "less than a minute"
    if hours < 1.5:
        return f"about {counted(minutes, 'minute')}"
    return f"about {hours:.0f} hours" if hours < 72 else f"about {hours / 24:,.0f} days"


def rate(images: float) -> str:
    """Images per second: of a large network on a CPU, below one."""
    return f"{images:,.0f}" if images >= 10 else f"{images:.1f}"


def sides(shape: Sequence[int]) -> str:
    """The sides of an array, as in `48 x 40 x 3`."""
    return " x ".join(map(str, shape)) or "a single value"


def by_numbers(text: str) -> list[tuple[bool, int, str]]:
    """Sorts texts by the numbers in them: `frame 2` before `frame 10`."""
    parts = re.findall("[0-9]+|[^0-9]+", text)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
