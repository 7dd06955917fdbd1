"""Words for people."""

from __future__ import annotations


def encodable(text: str) -> str:
    """Text that any file and terminal takes: bytes of names that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def counted(number: float, noun: str) -> str:
    """A number with its noun in the singular or the plural."""
    plural = (
        noun[:-1] + "ies"
        if noun.endswith("y")
        else noun + ("es" if noun.endswith(("s", "tch")) else "s")
    )
    digits = repr(number).removesuffix(".0") if isinstance(number, float) else str(number)
    return f"{digits} {noun if number == 1 else plural}"
