"""What makes the pixels of a run, kept with it; that it goes on by other libraries is said."""

from __future__ import annotations

import torch
from PIL import __version__ as pillow

from ibot.config.schema import Config
from ibot.data import decode_fast, pixels_fast
from ibot.engine.run import RunFolder
from ibot.system.jsonl import read_jsonl

EVENT = "pixels"
"""Of events.jsonl, one for each start."""


def makers(config: Config, device: torch.device) -> dict[str, str]:
    """By what JPEG files are decoded and views are made, with versions where pixels hang on them.

    config: `data.pixels` is resolved.
    """
    by_pillow, pixels = f"Pillow {pillow}", config.data.pixels
    if pixels not in ("fast", "device"):
        return {"JPEG": by_pillow, "views": by_pillow}
    views = f"torch on {device.type}" if pixels == "device" else pixels_fast.maker()
    return {"JPEG": decode_fast.reader() or by_pillow, "views": views}


def note_makers(run: RunFolder, config: Config, device: torch.device) -> list[str]:
    """Keep them in the run's events; returns in words what has changed since the start before."""
    now = makers(config, device)
    before = [row for row in read_jsonl(run.path / "events.jsonl") if row.get("event") == EVENT]
    run.event(EVENT, **now)
    last = before[-1] if before else now
    return [
        f"note   {what} by {maker} from here on, by {last[what]} before: levels may differ a "
        "little, so that this is no longer, bit by bit, the run that it was"
        for what, maker in now.items()
        if last.get(what, maker) != maker
    ]
