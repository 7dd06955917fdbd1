"""What a request asks, read strictly: whatever else stands there is refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ibot.explore.browser.refusal import Refused

_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
MAX_TEXT = 300


def number(text: str, name: str, least: int = 0, most: int = 10**9 - 1) -> int:
    """A whole number in decimal digits, least..most. Raises Refused."""
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        what = f"{name} is to be a whole number of {least} to {most}"
        raise Refused(400, what, why=f"it is '{text[:40]}'")
    return int(text)


class Asked:
    """The parameters of a request."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def number(self, name: str, default: int | None = None, least: int = 0, most: int = 0) -> int:
        """A whole number of least..most (0: whatever). Raises Refused, also for one missing."""
        text = self._given.get(name)
        if text is None or text == "":
            if default is None:
                raise Refused(400, f"{name} is missing")
            return default
        return number(text, name, least, most or 10**9 - 1)

    def several(self, name: str, most: int) -> list[str]:
        """At least one and at most so many words between commas. Raises Refused."""
        texts = self._given.get(name, "").split(",")
        if not texts[0] or len(texts) > most:
            raise Refused(400, f"{name} are to be 1 to {most}", why=f"they are {len(texts)}")
        return texts

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices, the first by default. Raises Refused."""
        text = self._given.get(name) or choices[0]
        if text not in choices:
            raise Refused(400, f"{name} is one of {', '.join(choices)}", why=f"it is '{text[:40]}'")
        return text

    def text(self, name: str) -> str:
        """Any text, empty by default. Raises Refused for a long one."""
        text = self._given.get(name, "")
        if len(text) > MAX_TEXT:
            raise Refused(400, f"{name} is too long", why=f"at most {MAX_TEXT} letters are read")
        return text

    def flag(self, name: str, default: bool = False) -> bool:
        """0 or 1."""
        return self.one_of(name, ("1", "0") if default else ("0", "1")) == "1"
