"""How weights are named beside paths: `hf:OWNER/NAME`, `timm:NAME`, `ibot:vit_s16`.

Imports nothing heavy. What a name means here and now says `ibot.weights.named`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ibot.weights.published import FOLDERS, FULL

NAMES = "hf:OWNER/NAME, timm:NAME, ibot:vit_s16"
"""What a user may write, as messages and help texts say it; the last stands for all of `ibot
weights list`."""
_NAME = re.compile(r"(hf|timm|ibot):(.*)", re.DOTALL)


def parts_of(weights: str | Path) -> tuple[str, str] | None:
    """Who knows a name ("hf", "timm", "ibot"), and the rest of it; None for a path."""
    found = _NAME.match(as_text(weights))
    return None if found is None else (found[1], found[2])


def is_named(weights: str | Path) -> bool:
    """Whether it is a name, not a path."""
    return parts_of(weights) is not None


def is_published(weights: str | Path) -> bool:
    """Whether it is a name of the published iBOT weights."""
    parts = parts_of(weights)
    return parts is not None and parts[0] == "ibot"


def as_text(weights: str | Path) -> str:
    """A path or a name as it is written: a name that was a path for a while has the slashes of the
    system.
    """
    return weights.as_posix() if isinstance(weights, Path) else weights


def plain_name(weights: str | Path) -> str:
    """A name for a folder of what was made with the weights; different for different names."""
    if is_named(weights):
        return re.sub(r"[^\w.-]+", "-", as_text(weights))
    return Path(weights).stem or "weights"


def meant(path: Path) -> str:
    """What to do about a path that is not there: it may be a name without its beginning."""
    text = as_text(path)
    if text.removesuffix(FULL) in FOLDERS:
        return f"did you mean ibot:{text}?   all: ibot weights list"
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and not path.parent.exists():
        return f"check the path; on the Hugging Face hub it would be hf:{text}"
    if re.fullmatch(r"(vit|deit3?|swin)_\w*patch\w+(\.\w+)?", text):
        return f"check the path; in timm it would be timm:{text}"
    return f"check the path, or name published weights: {NAMES}"
