"""What the recipe `auto` chooses for some usual sets of images and machines."""

from __future__ import annotations

from ibot.config.schema import Config
from ibot.data.survey import Survey
from ibot.recipes.auto import Facts, choose

CASES = {
    "600, CPU": (600, 375, 0.0),
    "50000, CPU": (50_000, 375, 0.0),
    "50000, GPU": (50_000, 375, 24.0),
    "50000 small, GPU": (50_000, 32, 24.0),
}
"""Number of images, their shorter side in pixels, GiB of the GPU."""


def examples() -> dict[str, Config]:
    """Configuration of each case: of colour photographs that stand upright and differ."""
    return {
        name: choose(Facts(_photos(images, side), gpu_memory=memory))[0]
        for name, (images, side, memory) in CASES.items()
    }


def _photos(images: int, side: int) -> Survey:
    return Survey(
        images=images,
        side=side,
        smallest=side,
        gray=0.0,
        variety=20.0,
        repeated=0.0,
        unreadable=0.0,
        looked_at=min(images, 200),
        bordered=0.0,
        upside_down=8.0,
        lying=4.0,
    )
