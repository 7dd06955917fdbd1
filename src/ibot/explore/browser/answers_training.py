"""How the training of a run goes on, or went."""

from __future__ import annotations

from typing import Any

from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session
from ibot.report.history import Curve
from ibot.report.story import batch_of, plain, story
from ibot.report.summary import Summary


def training(session: Session) -> dict[str, Any]:
    """Curves, verdicts, results and settings of the run, as they are now. Raises Refused."""
    if session.run is None:
        raise Refused(404, "these weights are not a run", why="nobody kept how they were trained")
    if not session.run.is_dir():
        raise Refused(410, "the folder of the run is no longer there", why=str(session.run))
    told = story(session.run)
    summary, batch = Summary(told), batch_of(told.config) if told.config else None
    found = plain(told)
    for curve, shown in zip(told.curves, found["curves"], strict=True):
        _complete(curve, shown)
    for verdict, shown in zip(told.verdicts, found["verdicts"], strict=True):
        shown["images_seen"] = verdict.images
    steps = summary.total[0] if summary.total else None
    return {
        **found,
        "batch": batch,
        "epoch_images": summary.images,
        "total_steps": steps,
        "total_images": steps * batch if steps and batch else None,
    }


def _complete(curve: Curve, shown: dict[str, Any]) -> None:
    """What the page's curves show beyond numbers: the name of a level, intervals of points."""
    shown["level_name"] = curve.level_name
    for series, drawn in zip(curve.series, shown["series"], strict=True):
        for point, interval in zip(drawn["points"], series.spread, strict=False):
            point.extend(interval or ())
