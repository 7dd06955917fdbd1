"""Precision and recall of near-duplicates on copies made from a folder's images.

python -m benchmarks.duplicates DIR --weights RUN [RUN ...] [--images 3000] [--json FILE]

Of every 14 images seven get a copy, one of each kind: JPEG of quality 60, three fifths of the size,
the middle 90 % of each side, a quarter brighter, mirrored, text across, without colour. Originals
and copies lie in one folder that `ibot search` looks through. A pair in a group is right if one is
the other's copy; recall is the share of copies in a group with their original. Beside the
calibrated threshold stand two fixed ones: 0.95 with groups around their first image, as it was
before, and 0.95 where any two of a group must reach it.

A set may hold copies of its own: pairs of originals that count as wrong are printed, to be looked
at.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from benchmarks.rounds import machine
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_images
from ibot.eval.context import ImagesContext
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.opened import opened
from ibot.eval.request import Request
from ibot.explore.duplicates import near_duplicates
from ibot.explore.findings import Duplicates
from ibot.explore.search import search

FIXED = 0.95


def _text(image: Image.Image) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image, "RGBA")
    place, size = (0.1 * image.width, 0.6 * image.height), max(8, image.width // 10)
    draw.text(place, "(c) photos.example", fill=(255, 255, 255, 170), font_size=size)
    return image


def _crop(image: Image.Image) -> Image.Image:
    left, top = round(0.05 * image.width), round(0.05 * image.height)
    return image.crop((left, top, image.width - left, image.height - top))


KINDS = {
    "jpeg": lambda image: image,
    "resize": lambda image: image.resize((image.width * 3 // 5, image.height * 3 // 5)),
    "crop": _crop,
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "flip": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "text": _text,
    "gray": lambda image: image.convert("L").convert("RGB"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="images")
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", default="", help="file for the figures")
    options = parser.parse_args()
    images = open_images(options.data)
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "images", Path(place) / "cache"
        copies = write_copies(images, options.images, folder)
        found = []
        for weights in options.weights:
            given = {"cache": str(cache), "device": options.device}
            found += list(compared(weights, folder, copies, given))
    if options.json:
        about = {"machine": machine(), "images": options.images, "copies": len(copies)}
        Path(options.json).write_text(json.dumps({**about, "rows": found}, indent=1))
    print(table(found))


def write_copies(images: Images, count: int, folder: Path) -> dict[frozenset[str], str]:
    """Write originals and copies; the kind of each pair of names."""
    folder.mkdir()
    copies = {}
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    for number, index in enumerate(chosen.tolist()):
        image = Image.fromarray(images.read(index))
        original = f"{number:05d}_original.png"
        image.save(folder / original)
        if number % (2 * len(KINDS)) < len(KINDS):
            kind = list(KINDS)[number % (2 * len(KINDS))]
            copy = f"{number:05d}_{kind}.jpg"
            KINDS[kind](image).save(folder / copy, quality=60 if kind == "jpeg" else 90)
            copies[frozenset((original, copy))] = kind
    return copies


def compared(
    weights: str, folder: Path, copies: dict[frozenset[str], str], given: dict[str, Any]
) -> Iterator[dict[str, object]]:
    """Figures of each way with one network."""
    print(f"{weights} ...", flush=True)
    calibrated = search(weights, folder, outliers=0, **given).duplicates
    fixed = search(weights, folder, outliers=0, duplicates=FIXED, **given).duplicates
    assert calibrated is not None and fixed is not None
    ways = {
        f"fixed {FIXED}, around the first": around_the_first(weights, folder, given),
        f"fixed {FIXED}, any two": names(fixed),
        "calibrated": names(calibrated),
    }
    for way, groups in ways.items():
        yield {"weights": weights, "way": way, **scores(groups, copies)}
    evidence = calibrated.evidence
    assert evidence is not None
    print(f"{weights}: {evidence}")


def around_the_first(weights: str, folder: Path, given: dict[str, Any]) -> list[list[str]]:
    """Groups as they were found before there was a calibration."""
    with opened(ImagesContext, Request.of(weights, folder, given), quiet=True) as context:
        features = context.feature_sets(context.images, "images")[CLASS_TOKEN]
        groups = near_duplicates(features.rows, FIXED, scale=True)
        return [[context.images.name(i) for i in features.index[g.index]] for g in groups]


def names(found: Duplicates) -> list[list[str]]:
    """The names in each group."""
    return [[picture.name for picture in group.pictures] for group in found.groups]


def scores(groups: Iterable[Sequence[str]], copies: dict[frozenset[str], str]) -> dict[str, object]:
    """Precision over pairs in groups, recall over copies, in all and by kind."""
    groups = list(groups)
    pairs = {frozenset(pair) for group in groups for pair in combinations(group, 2)}
    right = pairs & copies.keys()
    wrong = pairs - copies.keys()
    if len(wrong) < 30:
        print("wrong:", *(" ".join(sorted(pair)) for pair in wrong), sep="\n  ")
    recall = {
        kind: sum(copies[pair] == kind for pair in right) / sum(k == kind for k in copies.values())
        for kind in KINDS
    }
    return {
        "precision": len(right) / max(1, len(pairs)),
        "recall": len(right) / len(copies),
        "pairs": len(pairs),
        "wrong": len(wrong),
        "largest": max(map(len, groups), default=0),
        "by_kind": recall,
    }


def table(rows: Sequence[dict[str, object]]) -> str:
    """The figures as a table of Markdown."""
    head = ["network", "groups", "precision", "recall", "wrong pairs", "largest group", *KINDS]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        by_kind = row["by_kind"]
        assert isinstance(by_kind, dict)
        shares = [row["precision"], row["recall"]]
        lines.append(
            [
                Path(str(row["weights"])).name,
                str(row["way"]),
                *(f"{100 * float(str(share)):.1f}" for share in shares),
                str(row["wrong"]),
                str(row["largest"]),
                *(f"{100 * by_kind[kind]:.0f}" for kind in KINDS),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
