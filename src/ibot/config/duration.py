"""Lengths of a training and of its parts, in any unit: "10 epochs", "5 percent"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

DURATION_UNITS = ("images", "steps", "epochs", "percent")


@dataclass(frozen=True, slots=True)
class Duration:
    """So many images seen, optimizer steps, epochs, or per cent of the run."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read "10 epochs", "500 steps", "1e6 images", "5 percent" ("5%"), or raise ValueError."""
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z%]+)\s*", text.lower())
        if match:
            unit = "percent" if match[2] == "%" else match[2]
            unit = next((u for u in DURATION_UNITS if unit in (u, u.rstrip("s"))), None)
            if unit and math.isfinite(value := float(match[1])):
                return cls(value, unit)
        raise ValueError(
            f"'{text}' is not a duration; write for example '10 epochs', '500 steps' or '5 percent'"
        )

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"

    def steps(self, *, batch: int, steps_per_epoch: int, total_steps: int) -> int:
        """The same length in whole optimizer steps (rounded half to even)."""
        per_unit = {
            "images": 1 / batch,
            "steps": 1.0,
            "epochs": float(steps_per_epoch),
            "percent": total_steps / 100,
        }[self.unit]
        return round(self.value * per_unit)


def duration(text: str) -> Duration:
    """Shorthand of `Duration.parse` for defaults and recipes."""
    return Duration.parse(text)
