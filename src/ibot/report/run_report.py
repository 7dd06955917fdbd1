"""The report of a run: one HTML file to be read without anything else."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import ibot
from ibot.engine.verdicts import FEW_REPORTS
from ibot.errors import IbotError, UserError
from ibot.report.html import END, escaped, head, is_ours, name
from ibot.report.origin import about_settings, about_source
from ibot.report.pictures import Gallery, of_the_run
from ibot.report.sections import about_pictures, about_results, about_verdicts, curves
from ibot.report.story import Story, story
from ibot.report.summary import Summary, lasting
from ibot.report.svg import brief
from ibot.system.files import write_named

if TYPE_CHECKING:
    from ibot.report.seen import Seen

TITLE = "ibot report of"
"""Start of the page's title, by which an earlier report is known."""
STYLE = Path(__file__).with_name("report.css")


def write_report(run: Path, out: Path, images: int = 0) -> Story:
    """Write the report of a run; returns what is known of it.

    Args:
        run: its folder, in whatever state.
        out: the HTML file; one of an earlier report is replaced.
        images: of how many validation images pictures are made now, where that can be done.

    Raises:
        UserError: the file is in the way, or cannot be written.
    """
    if out.exists() and not is_ours(out, f"<title>{TITLE} "):
        raise UserError(
            f"'{out}' is in the way",
            why="it was not written by ibot report",
            fix="name another file with --out",
        )
    told = story(run)
    seen, note = _seen(told, images)
    text = "".join(page(told, of_the_run(run), seen, note))
    write_named(out, lambda path: path.write_text(text, encoding="utf-8", newline=""), "--out")
    return told


def _seen(told: Story, images: int) -> tuple[Seen | None, str]:
    """What the network makes of a few images; else a line that says why not, and what does it."""
    config = Summary(told).config if images and told.checkpoints else None
    if config is None:
        return None, ""
    from ibot.report.seen import seen_by

    try:
        return seen_by(told.run, config, images), ""
    except (IbotError, OSError, ValueError) as error:
        why = error.what if isinstance(error, IbotError) else str(error)
        run = shlex.quote(str(told.run))
        return None, (
            f"Attention and colours of patches could not be drawn: {why}. "
            f"ibot show attention {run} IMAGES and ibot show features {run} IMAGES do it."
        )


def page(told: Story, gallery: Gallery, seen: Seen | None, note: str) -> Iterator[str]:
    """The report as HTML, in parts."""
    summary = Summary(told)
    title = told.run.resolve().name
    yield head(f"{TITLE} {title}", STYLE.read_text(encoding="utf-8"))
    yield from _top(summary, title)
    yield from curves(told)
    yield from about_verdicts(told, few=summary.reports_judged < FEW_REPORTS)
    yield from about_results(told)
    yield from about_pictures(gallery, seen, note)
    yield from about_settings(told)
    yield from about_source(told)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    yield f"<footer>Written by ibot {escaped(ibot.__version__)} on {now} from "
    yield f"<code>{name(str(told.run))}</code>.</footer>\n{END}"


def _top(summary: Summary, title: str) -> Iterator[str]:
    """What one reads who reads nothing else."""
    word, colour = summary.status
    yield '<header>\n<p class="eyebrow">Report of a pre-training run</p>\n'
    yield f'<h1>{name(title)} <span class="state {colour}">{word}</span></h1>\n'
    yield from _facts(summary)
    for sentence in filter(None, summary.sentences()):
        yield f"<p>{sentence}</p>\n"
    steps = [*summary.next_steps()]
    if steps:
        yield '<h2>What to do next</h2>\n<ul class="next">\n'
        for reason, command in steps:
            shown = f": <code>{escaped(command)}</code>" if command else ""
            yield f"<li>{escaped(reason)}{shown}</li>\n"
        yield "</ul>\n"
    yield "</header>\n"


def _facts(summary: Summary) -> Iterator[str]:
    """A few numbers, large."""
    told, facts = summary.story, []
    if summary.knn:
        last = summary.knn[-1]
        began = f"step {last.step}"
        if len(summary.knn) > 1:
            first = summary.knn[0]
            began = f"from {first.value:.1f}\u00a0% at step {first.step}"
        facts.append((f"{last.value:.1f}", " %", f"k-NN accuracy, {began}"))
    if told.metrics.images:
        whole = f" of {summary.total[1]:,}" if summary.total else ""
        facts.append((f"{told.step:,}", whole, f"steps, {told.images_seen:,} images seen"))
        seconds, images = told.timed
        if seconds > 0:
            time, _, unit = lasting(seconds).partition(" ")
            speed = f"of training, {images / seconds:.0f} images/s"
            facts.append((time, f" {unit}", speed))
        rank = {curve.id: curve for curve in told.curves}.get("rank")
        if rank is not None:
            value = brief(rank.series[0].points[-1][1])
            facts.append((value, "", "effective rank of class tokens"))
        kinds = len({verdict.kind for verdict in told.verdicts})
        about = f"{'kind' if kinds == 1 else 'kinds'} of complaint" if kinds else "complaints"
        facts.append((str(kinds), "", f"{about} in the health log"))
    if facts:
        yield '<ul class="facts">\n'
        for value, unit, about in facts:
            yield f"<li><strong>{value}<small>{unit}</small></strong>"
            yield f"<small>{escaped(about)}</small></li>\n"
        yield "</ul>\n"
