"""The published iBOT weights by the names of their recipes: where they lie on the web and here.

Imports nothing heavy; what fetches them is `ibot.weights.fetched`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ibot.system.places import user_cache

ADDRESS = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
MIRROR = "IBOT_WEIGHTS_MIRROR"
"""Variable with another address, or a folder, that holds the same folders."""
TERMS = "Apache-2.0"
FULL = "-full"
"""End of the name of what holds both networks, heads, optimizer and arguments."""
FOLDERS = {
    "vit_s16": "vits_16",
    "swin_t7": "swint_7",
    "swin_t14": "swint_14",
    "vit_b16": "vitb_16",
    "vit_b16_rand": "vitb_16_rand_mask",
    "vit_l16": "vitl_16",
    "vit_l16_rand": "vitl_16_rand_mask",
    "vit_b16_in22k": "vitb_16_pt22k",
    "vit_l16_in22k": "vitl_16_pt22k",
}
"""Folders of the published files, by recipe."""
STUDENTS = ("vit_b16_in22k", "vit_l16_in22k")
"""Models of which the student's backbone was published, in place of the teacher's."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A published file of weights."""

    name: str
    """Of its recipe, with `FULL` behind it for the full checkpoint."""

    @property
    def recipe(self) -> str:
        """That of the training."""
        return self.name.removesuffix(FULL)

    @property
    def key(self) -> str:
        """Which network it holds: "teacher" or "student"; "student and teacher" of a full one."""
        if self.name.endswith(FULL):
            return "student and teacher"
        return "student" if self.recipe in STUDENTS else "teacher"

    @property
    def place(self) -> str:
        """Folder and file, as published."""
        file = "checkpoint" if self.name.endswith(FULL) else f"checkpoint_{self.key}"
        return f"{FOLDERS[self.recipe]}/{file}.pth"

    @property
    def address(self) -> str:
        """Where it is fetched from."""
        base = os.environ.get(MIRROR, "").rstrip("/") or ADDRESS
        return f"{base if '://' in base else Path(base).absolute().as_uri()}/{self.place}"

    @property
    def file(self) -> Path:
        """Where it lies on this machine. Raises UserError for somebody without a home."""
        return user_cache("weights") / self.place

    @property
    def pin(self) -> Path:
        """What is known about it, beside it."""
        return self.file.with_name(f"{self.file.name}.json")


def published_files() -> list[PublishedFile]:
    """The backbones; each has a full checkpoint beside it."""
    return [PublishedFile(name) for name in FOLDERS]
