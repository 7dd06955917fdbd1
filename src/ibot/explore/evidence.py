"""What near-duplicates rest on, in words and a table: for the page, and for the command."""

from __future__ import annotations

from collections.abc import Iterator

from ibot.explore.findings import Duplicates, Evidence
from ibot.report.html import escaped

WEAK = "this network's similarities do not separate copies from other images"
"""What is said of a network that knows altered copies too seldom again."""


def told(duplicates: Duplicates) -> str:
    """What makes a group of near-duplicates."""
    evidence, threshold = duplicates.evidence, duplicates.threshold
    if evidence is None:
        of = "" if threshold is None else f" of {threshold:g} or more"
        return f"Groups of images of which any two have a similarity{of}"
    pictures = f"Groups of images whose small gray pictures agree to {evidence.same:.3f} or more"
    if threshold is None:
        return pictures
    return (
        f"{pictures}, or to {evidence.like:.3f} where their similarity is {threshold:.3f} or more"
    )


def verdict(evidence: Evidence) -> str:
    """Whether the network was asked, and why not."""
    if evidence.tells:
        return "this network's similarities separate copies: they are used beside the pictures"
    if evidence.cosine is None:
        return (
            "too few pairs of other images to say from which similarity on they are copies: "
            "showing only pixel-verified pairs"
        )
    if evidence.tells is None:
        return (
            "too few altered copies that say whether this network's similarities separate copies: "
            "showing only pixel-verified pairs"
        )
    return f"{WEAK}: showing only pixel-verified pairs"


def evidence(found: Evidence) -> Iterator[str]:
    """The paragraphs and the table of the page."""
    yield f"<p>From these images: {verdict(found)}.</p>\n"
    yield "<p>Agreement is the correlation of gray pictures of 32 x 32 pixels, the largest over "
    yield "small shifts and crops and mirror images; it needs no network. Any two images of a "
    yield f"group agree to {found.like:.3f} or more. "
    if found.nearest is not None:
        middle, high = found.nearest
        yield "To the nearest image that is no copy half of the images have a similarity of "
        yield f"{middle:.3f} or more, one in a hundred {high:.3f} or more. "
    if found.cosine is not None:
        yield "Of pairs that agree a little and are no copies about one in 200 has a similarity of "
        yield f"{found.cosine:.3f} or more, by the tail of theirs. "
    yield "</p>\n"
    if not found.altered:
        return
    yield "<p>Copies were made of some of these images, to see which are known again:</p>\n"
    yield '<div class="scroll"><table><thead><tr><th>copies</th><th class="number">made</th>'
    yield '<th class="number">pictures agree</th><th class="number">network alone</th>'
    unused = "" if found.tells else " (not used here)"
    yield f'<th class="number">both together{unused}</th></tr></thead>\n<tbody>\n'
    for row in found.altered:
        yield f"<tr><th>{escaped(row.kind)}</th>"
        yield f'<td class="number">{row.count}</td>'
        for share in (row.by_pictures, row.by_network, row.found):
            yield f'<td class="number">{share:.0%}</td>'
        yield "</tr>\n"
    yield "</tbody></table></div>\n"
