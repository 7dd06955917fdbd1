"""Sheets, their layout, and the names of their files."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot.errors import UserError
from ibot.show.canvas import GAP, Sheet, drawable, fitted, save_png, text_width
from ibot.show.layout import (
    LEAST_WIDE,
    Panel,
    contact_sheet,
    enlarged,
    file_name,
    photo,
    row,
    scaled,
    thumb_height,
)

SVG = "{http://www.w3.org/2000/svg}"


def test_what_is_placed_stands_where_it_was_placed():
    sheet = Sheet(60, 50)
    sheet.picture(10, 5, np.full((2, 3, 3), 40, np.uint8), (30, 20))
    sheet.box(0, 30, 8, 8, fill=(255, 0, 0))
    sheet.line([(20, 40), (50, 40)], color=(0, 0, 255), width=2)
    page = sheet.pixels()
    assert page.shape == (50, 60, 3) and page.dtype == np.uint8
    assert (page[5:25, 10:40] == 40).all() and (page[4, :] == 255).all()
    assert (page[:25, 40:] == 255).all() and (page[:25, :10] == 255).all()
    assert (page[30:38, :8] == (255, 0, 0)).all() and (page[38, :8] == 255).all()
    blue = (page[..., 2] == 255) & (page[..., 0] < 200) & (page[..., 1] < 200)
    rows, columns = np.nonzero(blue)
    assert set(rows) <= {39, 40, 41} and columns.min() >= 19 and columns.max() <= 51
    assert len(set(columns)) >= 29


def test_later_things_lie_above_earlier_ones():
    sheet = Sheet(20, 20)
    sheet.line([(0, 10), (19, 10)], color=(0, 0, 0), width=4)
    sheet.box(0, 0, 20, 20, fill=(0, 255, 0))
    assert (sheet.pixels() == (0, 255, 0)).all()


def test_an_svg_holds_words_and_lines_as_such_and_evil_ones_as_text():
    sheet = Sheet(100, 100)
    evil = "<script>alert('&')</script>\n\x00\x1b\udcff \N{PILE OF POO}"
    sheet.words(0, 0, evil)
    sheet.line([(0, 0), (9, 9)])
    sheet.picture(0, 50, np.zeros((2, 2, 3), np.uint8), (20, 20))
    sheet.box(0, 0, 5, 5, line=(1, 2, 3))
    page = ET.fromstring(sheet.svg())
    assert [len(page.findall(SVG + name)) for name in ("text", "polyline", "image")] == [1, 1, 1]
    assert "<script>alert('&')</script>" in page.find(SVG + "text").text
    assert page.find(SVG + "image").get("href").startswith("data:image/png;base64,")


def test_sheets_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    sheet = Sheet(8, 8)
    for name in ("a.png", "deep/er/a.svg"):
        file = sheet.save(tmp_path / name)
        assert file.read_bytes()[:4] in (b"\x89PNG", b"<svg")
    before = (tmp_path / "a.png").read_bytes()
    cut = lambda self, file, **_: Path(file).write_text("x") / 0  # noqa: E731
    monkeypatch.setattr(Image.Image, "save", cut)
    with pytest.raises(ZeroDivisionError):
        save_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "deep"]


def test_rows_keep_the_aspect_of_each_picture_and_say_what_it_is():
    wide, high = np.full((10, 30, 3), 10, np.uint8), np.full((40, 20, 3), 200, np.uint8)
    page = row([Panel("wide", wide), Panel("high", high)], note="a note").pixels()
    assert (page == 10).all(-1).sum() == 40 * 120 and (page == 200).all(-1).sum() == 40 * 20
    assert (page[:20] < 100).any() and (page[-18:] < 200).any()


def test_strips_are_drawn_less_high_and_narrow_ones_keep_room_for_words():
    assert scaled((30, 60, 3), 240) == (480, 240)
    assert scaled((3, 4000, 3), 240) == (960, 1) and scaled((4000, 3, 3), 240) == (1, 240)
    strips = [Panel("w", np.zeros(shape, np.uint8)) for shape in ((5, 900, 3), (900, 5, 3))]
    assert row(strips, 100).width == 400 + LEAST_WIDE + 3 * GAP


@pytest.mark.parametrize("count", [1, 2, 7, 25])
def test_a_contact_sheet_holds_every_picture(count):
    shapes = [(i, (20 + i, 30, 3)) for i in range(1, count + 1)]
    pictures = [Panel(f"{i}", np.full(shape, i, np.uint8)) for i, shape in shapes]
    page = contact_sheet(pictures, cell=(40, 30), note="all").pixels()
    for i in range(1, count + 1):
        assert (page == i).all(-1).sum() > 200


def test_grids_are_enlarged_by_whole_cells():
    grid = np.arange(6).reshape(2, 3)
    large = enlarged(grid, 8, 12)
    np.testing.assert_array_equal(large, np.kron(grid, np.ones((4, 4), int)))
    assert enlarged(grid[..., None].repeat(3, -1), 5, 7).shape == (5, 7, 3)


def test_photos_get_the_aspect_of_their_view():
    image = np.full((31, 95, 3), 7, np.uint8)
    view = np.zeros((32, 96, 3), np.uint8)
    assert photo(image, 100, view).shape == (100, 300, 3)
    assert (photo(image, 10, view) == 7).all()
    assert thumb_height(view, 90) == 30 and thumb_height(view.transpose(1, 0, 2), 90) == 90
    assert thumb_height(np.zeros((1, 900, 3)), 90) == 1


NAMES = (
    *("cat.jpg", "a/cat.jpg", "../../etc/passwd", "..", ".", "", ".hidden", "a\nb", "con"),
    *("<b>.png", "\udcff\udcfe", "\N{PILE OF POO}" * 90, "\u4e2d" * 90, "a" * 500, "x\x00y"),
    *("C:\\windows\\cat.png", "-rf", "$(rm)", "a%20b?c*d|e"),
)


def test_names_of_files_never_collide_and_stay_in_their_folder(tmp_path):
    made = [file_name(i, name, "_strip.png") for i, name in enumerate(NAMES)]
    assert len(set(map(str.lower, made))) == len(NAMES)
    for name in made:
        file = tmp_path / name
        assert file.parent == tmp_path and file.resolve().parent == tmp_path.resolve()
        assert not name.startswith((".", "-")) and name.isprintable()
        file.touch()
    assert made[0] == "00000_cat_strip.png"
    assert len(list(tmp_path.iterdir())) == len(NAMES)


def test_words_are_cut_in_the_middle_to_fit():
    long = "beginning_" + "x" * 300 + "_end.jpg"
    short = fitted(long, 150)
    assert text_width(short) <= 150 and short.startswith("begi") and short.endswith(".jpg")
    assert fitted("short", 150) == "short" and fitted(long, 0) == ""
    assert drawable("a\nb\N{PILE OF POO}\udcff") == "a\\nb?\\udcff"
    assert drawable("Z\u00fcrich, 3\u00b0, Zu\u0308rich, \u5206") == "Zurich, 3\u00b0, Zurich, ?"


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_place_that_cannot_be_written_is_named(ending, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot be written"):
        Sheet(4, 4).save(tmp_path / "file" / f"a.{ending}")
