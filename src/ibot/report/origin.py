"""The last parts of a run's report: its settings, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ibot.config.meaning import meanings
from ibot.report.events import resumptions
from ibot.report.html import escaped, name
from ibot.report.metrics import number
from ibot.report.settings import Setting, beyond, compared_with
from ibot.report.story import Story
from ibot.words import counted

MANY = 20
"""Settings that differ, above which they are folded."""
LISTED = 100
"""Unreadable files that are named."""


def about_settings(told: Story) -> Iterator[str]:
    """What differs from the recipe, why, and all of them folded."""
    if not told.settings:
        return
    other, known = compared_with(told.config), meanings()
    yield "<section>\n<h2>Settings</h2>\n"
    differing = [setting for setting in told.settings if setting.differs]
    follows = told.config.get("recipe") == other
    against = f"the recipe {other}" if follows else f"the published recipe {other}"
    if len(differing) > MANY:
        yield f"<details><summary>{len(differing)} differ from {escaped(against)}</summary>\n"
        yield from _settings(differing, known, other)
        yield "</details>\n"
    elif differing:
        yield f"<p>What differs from {escaped(against)}, what changes the result first:</p>\n"
        yield from _settings(differing, known, other)
    else:
        yield f"<p>All are those of {escaped(against)}.</p>\n"
    if told.reasons:
        yield "<h3>What was chosen for these data, and why</h3>\n<ul>\n"
        yield from (f"<li>{escaped(reason)}</li>\n" for reason in told.reasons)
        yield "</ul>\n"
    if options := beyond(told.config):
        yield f"<p>Beyond the paper: {escaped('; '.join(options))}.</p>\n"
    yield f"<details><summary>All {len(told.settings)} settings</summary>\n"
    yield from _settings(told.settings, known, other)
    yield "</details>\n</section>\n"


def _settings(settings: Iterable[Setting], known: Mapping[str, str], other: str) -> Iterator[str]:
    yield '<div class="scroll"><table class="settings">\n<thead><tr><th>setting</th><th>this run'
    yield f"</th><th>{escaped(other)}</th></tr></thead>\n<tbody>\n"
    for setting in settings:
        meaning = known.get(setting.key, "")
        value = f"<code>{escaped(setting.value)}</code>"
        if setting.differs:
            value = f"<strong>{value}</strong>"
        asked = " <small>as asked</small>" if setting.asked else ""
        yield f"<tr><th><code>{escaped(setting.key)}</code> <small>{escaped(meaning)}</small></th>"
        yield f"<td>{value}{asked}</td>"
        yield f'<td class="quiet"><code>{escaped(setting.recipe or "")}</code></td></tr>\n'
    yield "</tbody></table></div>\n"


def about_source(told: Story) -> Iterator[str]:
    """Where it comes from, and how to make it again."""
    yield "<section>\n<h2>Where it comes from</h2>\n"
    rows = [*_source(told.provenance)]
    data = told.provenance.get("data")
    converted = isinstance(data, dict) and data.get("converted_from")
    if told.checkpoints:
        ends = dict.fromkeys((told.checkpoints[0], told.checkpoints[-1]))
        rows.append(("checkpoints", f"{len(told.checkpoints)}: {' to '.join(ends)}"))
    resumed = len(resumptions(told.events))
    if resumed:
        rows.append(("resumed", f"{resumed} times" if resumed > 1 else "once"))
    if rows:
        yield '<div class="scroll"><table class="source">\n<tbody>\n'
        for title, value in rows:
            yield f'<tr><th class="quiet">{escaped(title)}</th><td>{name(value)}</td></tr>\n'
        yield "</tbody></table></div>\n"
    else:
        yield "<p>Nothing is recorded.</p>\n"
    if told.command:
        yield "<h3>To make it again</h3>\n"
        commands = dict.fromkeys([told.first_command, told.command])
        # A converted run is made in two; else the last one has all, and how far to go.
        needed = commands if converted else [told.command]
        for command in filter(None, needed):
            yield f"<pre><code>{escaped(command)}</code></pre>\n"
    yield from _bad_files(told.bad_files)
    yield "</section>\n"


def _source(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and text of what is recorded, in the order in which one asks."""
    data, packages = provenance.get("data"), provenance.get("packages")
    data = data if isinstance(data, dict) else {}
    started = provenance.get("started")
    if isinstance(started, str):
        yield "started", started.replace("T", " ")
    images, classes = number(data.get("images")), number(data.get("classes"))
    found = [str(data.get("root") or data.get("converted_from") or "")]
    found += [f"{images:,.0f} images"] if images else []
    found += [f"{classes:,.0f} classes"] if classes else []
    if any(found):
        yield "images", ", ".join(filter(None, found))
    for title, key_ in (
        ("hash of their names", "names_sha256"),
        ("images assumed", "images_assumed"),
    ):
        if data.get(key_):
            yield title, str(data[key_])
    cores = number(provenance.get("cores"))
    machine = [str(provenance.get(part) or "") for part in ("host", "platform")]
    machine += [f"{cores:.0f} cores"] if cores else []
    if any(machine):
        yield "machine", ", ".join(filter(None, machine))
    for title, key_ in (("ibot", "ibot"), ("commit", "commit"), ("Python", "python")):
        if provenance.get(key_):
            yield title, str(provenance[key_])
    if isinstance(packages, dict):
        yield "packages", ", ".join(f"{package} {version}" for package, version in packages.items())


def _bad_files(files: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not files:
        return
    count = counted(len(files), "file")
    yield f"<details><summary>{count} could not be read</summary>\n<ul>\n"
    for file, reason in files[:LISTED]:
        yield f"<li><code>{name(file)}</code>: {escaped(reason)}</li>\n"
    yield "</ul>\n"
    yield f"<p>The first {LISTED} are named.</p>\n" if len(files) > LISTED else ""
    yield "</details>\n"
