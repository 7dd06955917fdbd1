"""Rows of a query and its answers: what is kept of them, and what is drawn."""

import numpy as np
from PIL import ImageColor

from ibot.data.sets.arrays import ArrayImages
from ibot.eval.neighbours.kept_answers import FILE, Answered, Picture, keep_answers
from ibot.show.ranked import ANSWERS, CELL, FRAME, FRAMES, GAP, HEAD, draw, ranked_rows
from ibot.types import ResultRecord


def grays(folder, levels, size):
    """Images of one level each."""
    pixels = np.stack([np.full((*size, 3), level, np.uint8) for level in levels])
    return ArrayImages(folder, "all", pixels, np.zeros(len(levels), np.int32), ("",))


def cell(sheet, row, column):
    """Pixels of a cell."""
    left = GAP + column * (CELL[0] + GAP) + (GAP if column else 0)
    top = HEAD + GAP + row * (CELL[1] + GAP + HEAD) + HEAD
    return sheet[top : top + CELL[1], left : left + CELL[0]]


def test_each_answer_is_framed_by_what_it_is(tmp_path):
    images = grays(tmp_path, (40, 120, 200, 80), (400, 300))
    strip = grays(tmp_path, (160,), (20, 500))
    marks = ("right", "wrong", "junk")
    answers = [Picture(images, i + 1, mark) for i, mark in enumerate(marks)]
    rows = [
        Answered(Picture(images, 0), answers, 0.5),
        Answered(Picture(strip, 0), answers[:1], None),
    ]
    keep_answers(tmp_path / "kept", "a title with \N{GREEK SMALL LETTER ALPHA}", rows)
    assert FILE == ANSWERS and len(list((tmp_path / "kept").glob("*.jpg"))) == 5
    sheet = ranked_rows(tmp_path / "kept")
    assert sheet.shape[1] == 2 * GAP + 4 * (CELL[0] + GAP) and sheet.dtype == np.uint8
    for column, (mark, level) in enumerate(zip((None, *marks), (40, 120, 200, 80), strict=True)):
        found = cell(sheet, 0, column)
        middle = np.array(found.shape[:2]) // 2
        assert abs(int(found[tuple(middle)][0]) - level) <= 2
        assert tuple(found[0, middle[1]]) == ImageColor.getrgb(FRAMES[mark])
        assert tuple(found[FRAME - 1, middle[1]]) == ImageColor.getrgb(FRAMES[mark])
        inside = found[FRAME + 2, middle[1]]
        assert abs(int(inside[0]) - level) <= 2, "the frame ends"
    assert abs(int(cell(sheet, 1, 0)[CELL[1] // 2, CELL[0] // 2, 0]) - 160) <= 2
    assert (cell(sheet, 1, 2) == 255).all(), "one answer alone"


def test_later_answers_take_the_place_of_earlier_ones(tmp_path):
    images = grays(tmp_path, (10, 20), (30, 30))
    for count in (2, 1):
        rows = [Answered(Picture(images, i), (), None) for i in range(count)]
        keep_answers(tmp_path / "kept", "t", rows)
    assert len(list((tmp_path / "kept").glob("*.jpg"))) == 1


def test_pictures_are_drawn_of_what_records_name(tmp_path):
    images = grays(tmp_path, (10,), (30, 30))
    keep_answers(tmp_path / "a" / "kept", "t", [Answered(Picture(images, 0), (), 1.0)])

    def record(**extra):
        return ResultRecord(protocol="p", metric="m", value=1.0, settings={}, extra=extra)

    names = ["a/kept", "a/kept", "", "gone"]
    records = [record(), *(record(shown=name) for name in names)]
    assert draw(records, tmp_path) == [tmp_path / "a" / "kept.png"]
    assert (tmp_path / "a" / "kept.png").stat().st_size > 100
