"""Which evaluations have pictures, drawn from what they left on disk. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibot.types import ResultRecord

PICTURES: dict[str, str] = {
    "dense_knn": "label_maps",
    "segmentation": "label_maps",
    "detection": "detections",
    "video_segmentation": "video",
    "retrieval": "ranked",
    "copy_detection": "ranked",
    "match": "match_pairs",
}
"""Module of this package by the name of the evaluation; its `draw(records, out)` gives the files
that it wrote."""


def draw_evaluated(name: str, records: Sequence[ResultRecord], out: Path) -> list[Path]:
    """Pictures of an evaluation below `out`, the folder of its records; none if it has none."""
    if name not in PICTURES or not records:
        return []
    return import_module(f"ibot.show.{PICTURES[name]}").draw(records, out)
