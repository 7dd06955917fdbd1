"""How the training of a run goes on, or went."""

from __future__ import annotations

from typing import Any

from ibot.explore.refusal import Refused
from ibot.explore.session import Session
from ibot.report import story


def training(session: Session) -> dict[str, Any]:
    """Curves, verdicts, results and settings of the run, as they are now. Raises Refused."""
    if session.run is None:
        raise Refused(404, "these weights are not a run", why="nobody kept how they were trained")
    return story.training(session.run)
