"""Where weights are that have a name: asked by whatever reads weights, so that names stay names in
settings and records.
"""

from __future__ import annotations

from pathlib import Path

from ibot.weights.fetched import fetched
from ibot.weights.forms import parts_of
from ibot.weights.hub import from_hub_named, from_timm

_KNOWN_BY = {"hf": from_hub_named, "timm": from_timm, "ibot": fetched}


def located(weights: str | Path) -> Path:
    """The file that a name means, downloaded if it is not on this machine; a path as it is.

    Raises:
        WeightsError: there is no such name, or what comes is no weights file.
        UserError: it cannot be had here; what to copy where is said. MissingExtra: the library that
            knows these names is not installed.
    """
    parts = parts_of(weights)
    if parts is None:
        return Path(weights)
    scheme, name = parts
    return _KNOWN_BY[scheme](name)
