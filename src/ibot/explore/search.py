"""What resembles what among the images of a folder.

`search("runs/photos", "photos", queries=["dog.jpg"], out="found")` gives findings and a page.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from ibot.errors import UserError, WeightsError
from ibot.eval.context import ImagesContext
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.opened import opened
from ibot.eval.request import Request
from ibot.explore.comparisons import (
    find_images,
    find_neighbours,
    find_outliers,
    find_patches,
)
from ibot.explore.copies import calibrated_copies, copies_at, seen
from ibot.explore.findings import Compared, Duplicates, Findings
from ibot.explore.page import write_page
from ibot.explore.resemblance import unscalable
from ibot.explore.searched import Query, Searched
from ibot.explore.shown import ShownImages
from ibot.explore.table import Row, csv_rows, write_csv
from ibot.report.html import escaped, is_ours
from ibot.system.places import make_writable

PAGE, TABLE = "search.html", "search.csv"
TITLE, BY = "ibot search in", " by "
"""Parts of the page's title, by which the page of an earlier search is known."""
QUERIES = 4
"""Images of the folder whose neighbours are shown where no image is given."""


def search(
    weights: str | Path,
    images: str | Path,
    *,
    queries: Sequence[str | Path] = (),
    patch: tuple[int, int] | None = None,
    k: int = 10,
    duplicates: float | None = None,
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
        duplicates: cosine of near-duplicates, 0..1; None: what the images themselves say, with its
            evidence.
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
    with opened(ImagesContext, request, quiet=quiet, records=False) as context:
        searched = Searched(context)
        if patch is not None:
            searched.check(patch)
        asked = searched.queries(queries)
        if folder is not None:
            _prepare(folder, _title(searched))  # what fails shall fail before the work
        features, pictures = _seen(context, with_pictures=duplicates is None)
        index = features.index
        asked = asked or searched.evenly(index, QUERIES)
        # A GPU holds the features; a CPU reads them where they lie, in the file of the cache.
        rows = features.rows.to(context.device)
        nearest = find_images(searched, rows, index, asked, k)
        if patch is not None:
            nearest += find_patches(searched, index, asked, patch, k)
        found = find_neighbours(searched, rows)
        alike, strange = Duplicates(duplicates, []), None
        if found is not None:
            similarity, neighbours = found
            if pictures is None:
                assert duplicates is not None
                alike = copies_at(searched, rows, index, neighbours, duplicates)
            else:
                alike = calibrated_copies(searched, rows, pictures, neighbours)
            strange = find_outliers(searched, similarity, index, outliers)
        findings = Findings(nearest, alike, strange, _compared(searched, features))
        if folder is not None:
            _write(findings, searched, asked, folder)
        return findings


def _compared(searched: Searched, features: FeatureSet) -> Compared:
    return Compared(
        str(searched.source.root),
        len(features.index),
        features.bad,
        cached=features.cached,
        known=features.known,
        view=searched.view.size,
        grid=searched.grid,
        network=searched.context.weights,
    )


def _seen(context: ImagesContext, *, with_pictures: bool) -> tuple[FeatureSet, FeatureSet | None]:
    """Class tokens of all readable images, and small pictures where they are needed.

    Raises WeightsError for tokens without a direction.
    """
    if with_pictures:
        features, pictures = seen(context, context.images, "images")
    else:
        features = context.feature_sets(context.images, "images")[CLASS_TOKEN]
        pictures = None
    wrong = unscalable(features.rows)
    if len(wrong):
        name = context.images.name(int(features.index[int(wrong[0])]))
        raise WeightsError(
            "the network's outputs are not finite, or all zero",
            why=f"seen for '{name}'",
            fix="use other weights",
        )
    return features, pictures


def free_folder(base: Path, data: str) -> Path:
    """A folder below `base` for a search in the images that `data` names, in which none lies yet.

    It is called as they are: photos, then photos-2, photos-3.
    """
    last = Path(data).resolve().name or "images"
    wanted = re.sub(r"[^\w.-]+", "_", last)
    for number in itertools.count(1):
        folder = base / (wanted if number == 1 else f"{wanted}-{number}")
        if not any(os.path.lexists(folder / name) for name in (PAGE, TABLE)):
            return folder
    raise AssertionError


def _prepare(out: Path, title: str) -> None:
    """See that the folder can be made and written into; one that was not there is not left there.

    Raises UserError where that cannot be done, where other files have the names of ours, or where
    the page of a search in other images or by another network lies there.
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
    page = out / PAGE
    # Pages of earlier versions do not name the network.
    images = title.partition(BY)[0]
    marks = [f"<title>{escaped(text)}</title>" for text in (title, images)]
    if os.path.lexists(page) and not any(is_ours(page, mark) for mark in marks):
        raise UserError(
            f"'{page}' is in the way",
            why="it shows a search in other images or by another network",
            fix="name another folder with --out",
        )
    made = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
    try:
        make_writable(out)
    except OSError as error:
        raise UserError(
            f"the folder '{out}' cannot be made or written into",
            why=error.strerror or str(error),
            fix="name another one with --out",
        ) from None
    finally:
        # Killed before it is done, a search leaves nothing; `_write` makes them again.
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _title(searched: Searched) -> str:
    return f"{TITLE} {searched.source.root}{BY}{searched.context.weights}"


def _write(findings: Findings, searched: Searched, queries: Sequence[Query], out: Path) -> None:
    """Write page and table. Raises UserError."""
    shown = ShownImages.of(searched, queries, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_page(
            findings,
            shown.whole,
            out / PAGE,
            _title(searched),
            view=shown.view,
            link=shown.link,
        )
        write_csv(csv_rows(findings), out / TABLE)
    except OSError as error:
        raise UserError(
            f"nothing can be written into '{out}'",
            why=error.strerror or str(error),
            fix="name another --out",
        ) from None
