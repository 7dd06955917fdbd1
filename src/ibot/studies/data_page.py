"""A report of a set of images as text and as one page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import ibot
from ibot.data.decode import UnreadableImage
from ibot.data.sets.images import Images, Pixels
from ibot.errors import UserError, printable
from ibot.report.html import END, escaped, head, image, is_ours, name, thumbnail
from ibot.studies.data_advice import advice
from ibot.studies.data_report import DataReport, PartReport, evenly, label_of
from ibot.system.files import write_named
from ibot.words import counted

TITLE = "ibot data report of"
"""Start of the page's title, by which an earlier page is known."""
SHOWN, GROUPS, IN_GROUP, ROWS = 12, 12, 6, 20
"""Pictures of a part, groups of copies, pictures of a group, and rows of a table that are shown."""
THUMBNAIL = 144
STYLE = """
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0 1.5rem; padding: 0; list-style: none; }
.facts li { padding: .7rem .9rem .75rem; background: var(--panel); border-radius: var(--round); }
.facts strong { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.25; }
.facts small { display: block; line-height: 1.35; }
.tables { display: grid; column-gap: 3rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.tables > div { min-width: 0; }
.bar { display: block; height: .7rem; min-width: 2px; background: var(--c1); }
.bars { width: 100%; }
.bars td:last-child { width: 40%; min-width: 4rem; }
.tables table:not(.bars) th { white-space: nowrap; }
"""
"""CSS beside that of all pages."""


def text_lines(report: DataReport) -> Iterator[str]:
    """The report for a terminal."""
    for part in report.parts:
        yield from _part_lines(part)
    for what, groups in (("copies", report.exact), ("look alike", report.near)):
        for group in groups[:5]:
            yield f"{what:13}{', '.join(map(printable, group[:4]))}{_more(len(group) - 4)}"
        if len(groups) > 5:
            yield f"{'':13}and {counted(len(groups) - 5, 'other group')}"
    yield f"{'compared':13}{compared(report)}"
    for sentence in advice(report):
        yield f"{'advice':13}{sentence}"


def compared(report: DataReport) -> str:
    """Among how many images copies were sought, and how many there are."""
    copies, near = (
        sum(len(group) - 1 for group in groups) for groups in (report.exact, report.near)
    )
    return (
        f"bytes of {counted(report.exact_among, 'image')} ({counted(copies, 'copy')}), looks of "
        f"{counted(report.near_among, 'image')} ({near} like another)"
    )


def _part_lines(part: PartReport) -> Iterator[str]:
    sample = "" if part.looked_at == part.images else f", {part.looked_at:,} looked at"
    yield f"{part.name or 'images':13}{part.images:,} in {printable(part.root)}{sample}"
    tables = {
        "classes": part.classes,
        "folders": {} if part.classes else part.folders,
        "extensions": part.extensions,
        "kinds": part.kinds,
        "sides": {key: count for key, count in part.sides.items() if count},
    }
    for title, table in tables.items():
        if table:
            number = f"{len(table)}: " if title in ("classes", "folders") else ""
            yield f"  {title:11}{number}{_commonest(table, ordered=title == 'sides')}"
    if part.looked_at > len(part.broken):
        least, middle, most = (f"{h} x {w}" for h, w in (part.smallest, part.middle, part.largest))
        yield f"  {'sizes':11}{least} to {most}, median {middle} (height x width)"
        ratios = [f"{ratio:.2f}" for ratio in part.aspect]
        yield f"  {'aspect':11}{ratios[0]} to {ratios[2]}, median {ratios[1]} (width over height)"
    for channel in part.channels:
        yield (
            f"  {'channel':11}{printable(channel.name)}: mean {channel.mean:.4g}, deviation "
            f"{channel.deviation:.4g}"
        )
    if not part.by_channels:
        yield f"  {'shares':11}gray {part.gray:.1%}, turned by EXIF {part.turned:.1%}"
    files: dict[str, list[str]] = {}
    for file, reason in part.broken:
        files.setdefault(reason, []).append(printable(file))
    for reason, names in list(files.items())[:ROWS]:
        shown = f"{', '.join(names[:3])}{_more(len(names) - 3)}"
        yield f"  {'broken':11}{shown}: {printable(reason)}"


def _commonest(table: Mapping[str, int], *, ordered: bool, limit: int = 6) -> str:
    items = list(table.items()) if ordered else sorted(table.items(), key=lambda item: -item[1])
    limit = len(items) if ordered else limit
    shown = ", ".join(f"{printable(key) or '.'} {count:,}" for key, count in items[:limit])
    return shown + _more(len(items) - limit)


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def write_page(report: DataReport, parts: Mapping[str, Images], out: Path) -> None:
    """Write the page; one of an earlier report is replaced.

    Raises UserError for another file in its place, and for a place that cannot be written.
    """
    require_place(out)
    text = "".join(_page(report, parts))
    write_named(out, lambda path: path.write_text(text, encoding="utf-8", newline=""), "--html")


def require_place(out: Path) -> None:
    """Raise UserError where there is a file that is no such page."""
    if out.exists() and not is_ours(out, f"<title>{TITLE} "):
        raise UserError(
            f"'{out}' is in the way",
            why="it was not written by ibot data report",
            fix="name another file with --html",
        )


def _page(report: DataReport, parts: Mapping[str, Images]) -> Iterator[str]:
    yield head(f"{TITLE} {report.data}", STYLE)
    yield f"<h1>{name(report.data)}</h1>\n"
    yield from _facts(report)
    yield f'<p class="quiet">Compared: {escaped(compared(report))}.</p>\n'
    yield "<h2>What follows</h2>\n<ul>\n"
    for sentence in advice(report):
        yield f"<li>{escaped(sentence)}</li>\n"
    yield "</ul>\n"
    for part in report.parts:
        yield from _part(part, parts[part.name])
    read = _reader(parts)
    about = "Files of the same bytes.", "Not the same file, but hardly another picture."
    yield from _groups("Copies", about[0], report.exact, read)
    yield from _groups("Look alike", about[1], report.near, read)
    yield f"<footer>Written by ibot {escaped(ibot.__version__)}.</footer>\n{END}"


def _facts(report: DataReport) -> Iterator[str]:
    """A few numbers, large."""
    facts = [(f"{part.images:,}", f"images {part.name}".strip()) for part in report.parts]
    if classes := len(report.parts[0].classes):
        facts.append((str(classes), "classes"))
    broken = sum(len(part.broken) for part in report.parts)
    looked_at = sum(part.looked_at for part in report.parts)
    copies = sum(len(group) - 1 for group in report.exact)
    near = sum(len(group) - 1 for group in report.near)
    facts += [(str(broken), f"broken of {looked_at:,} looked at"), (str(copies), "exact copies")]
    facts.append((str(near), "look like another"))
    if len(report.parts) > 1:
        facts.append((str(report.shared), "of val seen in train"))
    yield '<ul class="facts">\n'
    for value, about in facts:
        yield f"<li><strong>{value}</strong><small>{escaped(about)}</small></li>\n"
    yield "</ul>\n"


def _part(part: PartReport, images: Images) -> Iterator[str]:
    yield f"<section>\n<h2>{escaped((part.name or 'images').capitalize())}</h2>\n"
    yield f"<p>{part.images:,} images in <code>{name(part.root)}</code>; {part.looked_at:,} were "
    yield "looked at.</p>\n"
    for note in part.notes:
        yield f'<p class="quiet">{escaped(note)}</p>\n'
    yield '<ul class="pictures">\n'
    for index in evenly(len(images), SHOWN).tolist():
        yield f"<li>{_figure(images, index, images.name(index))}</li>\n"
    yield "</ul>\n"
    yield '<div class="tables">\n'
    yield from _table("Kinds", part.kinds)
    if part.looked_at > len(part.broken):
        yield from _sizes(part)
    channels = [(one.name, f"{one.mean:.4g} ± {one.deviation:.4g}") for one in part.channels]
    yield from _plain("Channels: mean and deviation of levels", channels)
    yield from _table("Classes", part.classes)
    yield from _table("Folders", {} if part.classes else part.folders)
    yield from _table("Extensions", part.extensions)
    yield "</div>\n"
    yield from _plain("Broken", list(part.broken))
    yield "</section>\n"


def _sizes(part: PartReport) -> Iterator[str]:
    filled = [place for place, count in enumerate(part.sides.values()) if count]
    sides = dict(list(part.sides.items())[filled[0] : filled[-1] + 1])
    yield from _table("Shorter sides in pixels", sides, ordered=True)
    least, middle, most = (f"{h} x {w}" for h, w in (part.smallest, part.middle, part.largest))
    narrow, usual, wide = (f"{ratio:.2f}" for ratio in part.aspect)
    rows = [
        ("height x width", f"{least} to {most}, median {middle}"),
        ("width over height", f"{narrow} to {wide}, median {usual}"),
        ("without colour", f"{part.gray:.1%}"),
        ("turned by EXIF", f"{part.turned:.1%}"),
    ]
    yield from _plain("Sizes and shares", rows)


def _table(title: str, table: Mapping[str, int], *, ordered: bool = False) -> Iterator[str]:
    """Counts with bars, the largest first."""
    if not table:
        return
    items = list(table.items()) if ordered else sorted(table.items(), key=lambda item: -item[1])
    most = max(1, *table.values())
    yield f'<div><h3>{escaped(title)}</h3>\n<div class="scroll"><table class="bars">\n<tbody>\n'
    for key, count in items[: None if ordered else ROWS]:
        share = f"{100 * count / most:.1f}"
        bar = f'<span class="bar" style="width:{share}%"></span>' if count else ""
        yield f'<tr><th>{name(key or ".")}</th><td class="number">{count:,}</td>'
        yield f"<td>{bar}</td></tr>\n"
    yield "</tbody>\n</table></div>\n"
    if not ordered and len(items) > ROWS:
        yield f"<p>The first {ROWS} of {len(items)} are shown.</p>\n"
    yield "</div>\n"


def _plain(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not rows:
        return
    yield f'<div><h3>{escaped(title)}</h3>\n<div class="scroll"><table>\n<tbody>\n'
    for key, value in rows[: 10 * ROWS]:
        yield f"<tr><th>{name(key)}</th><td>{escaped(value)}</td></tr>\n"
    yield "</tbody>\n</table></div></div>\n"


def _groups(
    title: str, about: str, groups: Sequence[Sequence[str]], read: Callable[[str], str]
) -> Iterator[str]:
    if not groups:
        return
    yield f"<section>\n<h2>{title}</h2>\n<p>{about} {counted(len(groups), 'group')}"
    yield f", of which the first {GROUPS} are shown" if len(groups) > GROUPS else ""
    yield ".</p>\n"
    for group in groups[:GROUPS]:
        yield f"<h3>{counted(len(group), 'image')}</h3>\n" + '<ul class="pictures">\n'
        for label in group[:IN_GROUP]:
            yield f"<li>{read(label)}</li>\n"
        yield "</ul>\n"
    yield "</section>\n"


def _reader(parts: Mapping[str, Images]) -> Callable[[str], str]:
    """What draws an image by PART/NAME."""
    places: dict[str, tuple[Images, int]] = {}

    def read(label: str) -> str:
        if not places:
            for part, images in parts.items():
                every = range(len(images))
                places.update((label_of(part, images.name(i)), (images, i)) for i in every)
        images, index = places[label]
        return _figure(images, index, label)

    return read


def _figure(images: Images, index: int, label: str) -> str:
    caption = f"<figcaption>{name(label)}</figcaption>"
    try:
        picture = Image.fromarray(_shown(images.read(index)))
    except UnreadableImage as error:
        reason = escaped(error.reason)
        return f'<figure><div class="missing" role="img">{reason}</div>{caption}</figure>'
    return f"<figure>{image(thumbnail(picture, THUMBNAIL), label)}{caption}</figure>"


def _shown(pixels: Pixels) -> NDArray[np.uint8]:
    """Pixels [H, W, C] as colour; of other channels the first three, or one, by their own range."""
    if pixels.dtype == np.uint8:
        return pixels
    few = pixels[..., : 3 if pixels.shape[-1] >= 3 else 1]
    low, high = few.min((0, 1)), few.max((0, 1))
    shades = ((few - low) / np.maximum(high - low, 1e-12) * 255).astype(np.uint8)
    return np.repeat(shades, 3, -1) if shades.shape[-1] == 1 else shades
