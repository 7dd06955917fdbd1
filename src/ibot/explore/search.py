"""What resembles what among the images of a folder.

`search("runs/photos", "photos", queries=["dog.jpg"], out="found")` gives findings and a page.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ibot.data.false_colours import as_rgb
from ibot.errors import UserError, WeightsError
from ibot.eval.context import ImagesContext
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.opened import opened
from ibot.eval.request import Request
from ibot.explore.comparisons import find_duplicates, find_images, find_outliers, find_patches
from ibot.explore.findings import Compared, Findings
from ibot.explore.page import write_page
from ibot.explore.resemblance import unscalable
from ibot.explore.searched import Query, Searched
from ibot.explore.table import Row, csv_rows, write_csv
from ibot.report.html import is_ours

PAGE, TABLE = "search.html", "search.csv"
TITLE = "ibot search in"
"""Start of the page's title, by which the page of an earlier search is known."""
THRESHOLD = 0.95
"""Cosine from which two images are near-duplicates. Measured with a tiny32 run (400,000 images
seen) on 4,167 images of CIFAR-10: of copies saved again as JPEG 75, resized to 3/4 and back or made
a tenth brighter, 99 % are above it; the nearest other image is above 0.94 for one image in a
thousand. Networks that find all images alike need a higher one."""
QUERIES = 4
"""Images of the folder whose neighbours are shown where no image is given."""


def search(
    weights: str | Path,
    images: str | Path,
    *,
    queries: Sequence[str | Path] = (),
    patch: tuple[int, int] | None = None,
    k: int = 10,
    duplicates: float = THRESHOLD,
    outliers: int = 12,
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> Findings:
    """Nearest images and patches, near-duplicates and outliers, exact, by class and patch tokens.

    Args:
        weights: a run, a checkpoint folder or a file of weights.
        images: a folder, a list, files that hold many images or a set by name, labelled or not.
        queries: files whose neighbours are sought, in the folder or not; none: a few of the folder.
        patch: row and column, from 0 on the view's grid; then also patches like this one of each
            query are sought.
        k: answers to each query.
        duplicates: cosine of near-duplicates, 0..1.
        outliers: images to name as outliers; 0: none.
        out: folder for search.html and search.csv; None: nothing is written.
        quiet: neither notes nor progress on the error output.
        **options: further fields of `ibot.eval.request.Request`, such as `size` or `device`.

    Raises:
        UserError: a patch outside of the grid, or places that cannot be written. DataError: images
            that cannot be read. WeightsError: weights that cannot be used.
    """
    folder = None if out is None else Path(out)
    request = Request.of(weights, images, {"out": folder or "", **options})
    with opened(ImagesContext, request, quiet=quiet) as context:
        searched = Searched(context)
        if patch is not None:
            searched.check(patch)
        asked = searched.queries(queries)
        if folder is not None:
            _prepare(folder)  # what fails shall fail before the work
        features = _class_tokens(context)
        index = features.index
        asked = asked or searched.evenly(index, QUERIES)
        # A GPU holds the features; a CPU reads them where they lie, in the file of the cache.
        rows = features.rows.to(context.device)
        nearest = find_images(searched, rows, index, asked, k)
        if patch is not None:
            nearest += find_patches(searched, index, asked, patch, k)
        findings = Findings(
            nearest,
            find_duplicates(searched, rows, index, duplicates),
            find_outliers(searched, rows, index, outliers),
            Compared(str(context.images.root), len(index), features.bad, features.cached),
        )
        if folder is not None:
            _write(findings, searched, asked, folder)
        return findings


def _class_tokens(context: ImagesContext) -> FeatureSet:
    """Class tokens of all readable images. Raises WeightsError for some without a direction."""
    features = context.feature_sets(context.images, "images")[CLASS_TOKEN]
    wrong = unscalable(features.rows)
    if len(wrong):
        name = context.images.name(int(features.index[int(wrong[0])]))
        raise WeightsError(
            "the network's outputs are not finite, or all zero",
            why=f"seen for '{name}'",
            fix="use other weights",
        )
    return features


def _prepare(out: Path) -> None:
    """Make the folder.

    Raises UserError where that cannot be done, or where other files have the names of ours.
    """
    # Tables of earlier versions begin alike and have fewer columns.
    columns = ",".join(field.name for field in fields(Row)[:2]) + ","
    for name, mark in {PAGE: f"<title>{TITLE} ", TABLE: columns}.items():
        file = out / name
        if os.path.lexists(file) and not is_ours(file, mark):
            raise UserError(
                f"'{file}' is in the way",
                why="it was not written by a search",
                fix="name another folder with --out",
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder '{out}' cannot be made",
            why=error.strerror or str(error),
            fix="name another one with --out",
        ) from None


def _write(findings: Findings, searched: Searched, queries: Sequence[Query], out: Path) -> None:
    """Write page and table. Raises UserError."""
    outside = {query.index: query.view for query in queries if query.index < 0}

    def read(index: int) -> np.ndarray:
        return as_rgb(outside[index] if index < 0 else searched.read(index))

    try:
        write_page(findings, read, out / PAGE, f"{TITLE} {searched.source.root}")
        write_csv(csv_rows(findings), out / TABLE)
    except OSError as error:
        raise UserError(
            f"nothing can be written into '{out}'",
            why=error.strerror or str(error),
            fix="name another --out",
        ) from None
