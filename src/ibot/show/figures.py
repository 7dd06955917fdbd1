"""The paper's figures by name: settings of other pictures, and what the published code made them
from (spec_evaluation 10.1 to 10.5). The table imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ibot.errors import UserError
from ibot.show.kinds import Drawn, Kind, Option

if TYPE_CHECKING:
    from ibot.show.asked import Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One call of a picture."""

    picture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the figure fixes."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """The same of the common options."""
    folder: str = ""
    """Below the folder of the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of the paper."""

    shows: str
    """In a few words."""
    published: str
    """What it was made from."""
    differs: str
    """What this one does otherwise, beside the network and the images."""
    parts: tuple[Part, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of options that remain to be chosen."""
    lacks: str = ""
    """What it would need that is not here."""

    @property
    def note(self) -> str:
        """One line."""
        return f"published: {self.published}. Here: {self.differs}."


_PATCHES = (
    "a ViT of patch 16 and its shared head of 8,192 words, the 50,000 validation images of "
    "ImageNet, resized bilinearly"
)
_ATTENTION = "a ViT of patch 16 of iBOT beside one of DINO, images squashed to 480 pixels"
_ATTENDED = Part(picture="attention", asked={"fit": "squash"})
_COVERED = Part(picture="patterns", options={"type": "patch", "centre": "cover"})

# The sources name figures 4, 13, 14, 16 and 17 together as layouts of patterns; how the words of 13
# and 14 are chosen here is this package's way of telling them apart.
FIGURES: dict[str, Figure] = {
    "fig4": Figure(
        shows="pattern layout of patch tokens: the words used most",
        published=f"{_PATCHES}, 36 patches of a word",
        differs="the words used most, in order; the views of evaluations, which are bicubic",
        parts=(_COVERED,),
        defaults={"top_k": 36},
    ),
    "fig6": Figure(
        shows="self-attention of several heads in colours",
        published=_ATTENTION,
        differs="one network a call; a colour for each head, however many there are",
        parts=(_ATTENDED,),
    ),
    "fig13": Figure(
        shows="pattern layout of patch tokens, larger: the words purest of one label",
        published=f"{_PATCHES}, 100 patches of a word in the appendix",
        differs="the words whose patches are purest of one label, which needs labelled images; "
        "bicubic views",
        parts=(_COVERED,),
        defaults={"top_k": 100, "rank_by": "purity"},
    ),
    "fig14": Figure(
        shows="pattern layout of patch tokens, larger: the words of the highest mean score",
        published=f"{_PATCHES}, 100 patches of a word in the appendix",
        differs="the words of the highest mean score; bicubic views",
        parts=(_COVERED,),
        defaults={"top_k": 100, "rank_by": "score"},
    ),
    "fig15": Figure(
        shows="images composed of their most attended words",
        published=f"{_PATCHES}; of an image the 4 patches of the highest class attention whose "
        "words differ",
        differs="images drawn by --seed, bicubic views",
        parts=(Part(picture="compose", options={"centre": "cover"}),),
    ),
    "fig16": Figure(
        shows="patterns of other methods, BEiT and DINO (not drawn: says why)",
        published="the codes of DALL-E, and DINO's class head on patches",
        differs="neither is here",
        lacks="the codes of DALL-E, which stand for BEiT's words, are no part of this package; "
        "DINO's half takes its class head for words of patches, which it was not trained for",
    ),
    "fig17": Figure(
        shows="pattern layout of class tokens: whole images",
        published=f"{_PATCHES}, whole views by their score",
        differs="the words used most, in order; bicubic views",
        parts=(Part(picture="patterns", options={"type": "class"}),),
        defaults={"top_k": 36},
    ),
    "fig18": Figure(
        shows="self-attention, more images",
        published=_ATTENTION,
        differs="one network a call: name DINO's weights in another",
        parts=(_ATTENDED,),
    ),
    "fig19": Figure(
        shows="correspondences: two views of one image, two images of one class",
        published="a ViT of patch 16, inner products, red lines from the 12 patches with the "
        "highest attention of another network (DINO's ViT-B/8), 100 pairs",
        differs="the network's own attention, as the paper's text says; lines in the colour of "
        "their rank, dashed where the truth is known and they miss it",
        parts=(
            # First: it refuses images without classes before anything is drawn.
            Part(
                picture="match",
                options={"pairs": "classes", "published": True},
                asked={"fit": "squash"},
                folder="classes",
            ),
            Part(picture="match", options={"pairs": "views", "published": True}, folder="views"),
        ),
    ),
}
"""By the name of the command."""


def figure_kinds(pictures: Mapping[str, Kind]) -> dict[str, Kind]:
    """A line of the table of pictures for each figure: what it leaves open can be asked."""
    return {name: _kind(name, figure, pictures) for name, figure in FIGURES.items()}


def _kind(name: str, figure: Figure, pictures: Mapping[str, Kind]) -> Kind:
    summary = f"Fig. {name.removeprefix('fig')}: {figure.shows}"
    if not figure.parts:
        return Kind(summary=summary, module="figures", images="*", takes=())
    first = pictures[figure.parts[0].picture]
    fixed = {key for part in figure.parts for key in part.options}
    common = {key for part in figure.parts for key in part.asked}
    return replace(
        first,
        summary=summary,
        module="figures",
        options=tuple(
            _default(option, figure) for option in first.options if _key(option) not in fixed
        ),
        takes=tuple(one for one in first.takes if one not in common),
    )


def _key(option: Option) -> str:
    return option.name.replace("-", "_")


def _default(option: Option, figure: Figure) -> Option:
    return replace(option, default=figure.defaults.get(_key(option), option.default))


def draw(asked: Asked) -> Drawn:
    """A figure, by `asked.picture`, and a line that says how it differs from the published one.

    Raises UserError for one that cannot be made here, and as the pictures that it consists of.
    """
    from ibot.show.pictures import PICTURES  # the table names this module

    figure = FIGURES[asked.picture]
    if figure.lacks:
        raise UserError(
            f"{asked.picture} cannot be drawn",
            why=figure.lacks,
            fix="ibot show patterns WEIGHTS --data DIR draws the words of any weights with a head "
            "of ours",
        )
    files, lines = [], []
    for part in figure.parts:
        kind = PICTURES[part.picture]
        one = replace(
            asked,
            picture=part.picture,
            out=asked.out / part.folder,
            options={**asked.options, **part.options},
            note=f"{asked.picture}, {figure.note}",
            **part.asked,
        )
        drawn = import_module(f"ibot.show.{kind.module}").draw(one)
        files += drawn.files
        lines += drawn.lines
    text = asked.out / f"{asked.picture}.txt"
    text.write_text(figure.note + "\n", encoding="utf-8")
    return Drawn(files, (*lines, f"{asked.picture + ':':18}{figure.note}"))
