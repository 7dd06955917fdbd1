"""What to say where images are no colour pictures, but can be read by their channels."""

from __future__ import annotations

from collections.abc import Iterable

EVERY_CHANNEL = "data.channels=all for a run, --channels all for other commands"
"""How they are read."""
OTHER_CHANNELS = ("unsupported TIFF layout", "data.channels=all")
"""In the reasons why files are no colour pictures that can be read by their channels."""


def are_other_channels(reason: str) -> bool:
    """Whether an image that gave no colours for this reason may be read by its channels."""
    return any(word in reason for word in OTHER_CHANNELS)


def fix_of(reasons: Iterable[str]) -> str:
    """What to do where no image of a sample could be read, by the reasons why."""
    if all(map(are_other_channels, reasons)):
        return f"read every channel: {EVERY_CHANNEL}"
    return "look at the files, or name another folder"
