"""Settings of video segmentation (spec_evaluation 8.12), `key=value` on its command line.

Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ibot.errors import ConfigError

Features = Literal["network", "pixels"]
"""What a token is: the last block's, or the normalised pixels of its patch, as a baseline."""
Year = Literal["auto", "2016", "2017"]
"""How masks are read, and which list of DAVIS is taken: all that is not 0 as one object, or each
value as an object and 255 as nothing; auto: as one object where the first mask holds 0 and 255
alone, and the list of 2017 where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSettings:
    """Label propagation; the defaults are the published ones."""

    year: Year = "auto"
    size: int = 480
    """Pixels of the shorter side of a frame as the network sees it."""
    context_frames: int = 7
    """Frames before the current one whose soft maps are propagated, beside the first."""
    radius: int = 12
    """Tokens in each direction, around its own place in other frames, that a token looks at; 0: all
    of them."""
    topk: int = 5
    """Most alike tokens of all frames together that are kept."""
    temperature: float = 0.1
    features: Features = "network"

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be."""
        least = {"size": 1, "context_frames": 0, "radius": 0, "topk": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigError(
                    f"{name}={getattr(self, name)} cannot be", why=f"it is at least {smallest}"
                )
        if self.temperature <= 0:
            raise ConfigError(
                f"temperature={self.temperature:g} cannot be",
                why="it must be positive",
                fix="for example temperature=0.1",
            )
