"""Settings of the toy family."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BrightnessSettings:
    """How alike images are to their brightness."""

    power: float = 1.0
    """Exponent of the brightness."""
