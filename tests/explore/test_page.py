import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from pages import NAMES, Page

from ibot.data.decode import UnreadableImage
from ibot.explore.evidence import WEAK
from ibot.explore.findings import (
    Altered,
    Compared,
    Duplicates,
    Evidence,
    Findings,
    Group,
    Nearest,
    Picture,
    Square,
)
from ibot.explore.page import MAX_GROUPS, MAX_PICTURES, THUMBNAIL, write_page
from ibot.explore.table import Row, csv_rows, write_csv
from ibot.system import files


def on_grid(patch, grid):
    """Patch number `patch` of a picture that (h, w) patches cover."""
    (rows, columns), (row, column) = grid, divmod(patch, grid[1])
    return Square(row, column, row / rows, column / columns, 1 / rows, 1 / columns)


def plain(index):
    """An image whose colour tells its number."""
    return np.full((32, 48, 3), (index % 256, 90, 200), np.uint8)


def shown(tmp_path, findings, read=plain, title="title"):
    write_page(findings, read, tmp_path / "page.html", title)
    return Page(tmp_path / "page.html")


def everything():
    pictures = [Picture(i, name, 0.9 - 0.05 * i) for i, name in enumerate(NAMES)]
    return Findings(
        nearest=[
            Nearest(Picture(7, NAMES[7]), pictures[:3]),
            Nearest(
                Picture(9, NAMES[3], square=on_grid(5, (2, 3))),
                [replace(pictures[i], square=on_grid(i, (2, 3))) for i in (3, 4)],
            ),
        ],
        duplicates=Duplicates(0.95, [Group(pictures[:4]), Group(pictures[4:6])]),
        outliers=pictures[6:],
    )


def test_every_name_and_every_picture_is_on_the_page(tmp_path):
    findings = everything()
    page = shown(tmp_path, findings)
    assert findings.duplicates and findings.outliers
    order = [picture for found in findings.nearest for picture in (found.query, *found.answers)]
    order += [picture for group in findings.duplicates.groups for picture in group.pictures]
    order += findings.outliers
    assert [round(np.asarray(image)[..., 0].mean()) for image in page.images()] == pytest.approx(
        [picture.index for picture in order],
        abs=4,  # JPEG
    )
    for element, picture in zip(page.all("img"), order, strict=True):
        assert f" {picture.index}: " in element["alt"]
    numbers = [text for text in page.text("small") if f"#{order[1].index}" in text]
    assert numbers and "0.900" in numbers[0]
    assert (
        page.text("h2")[-2:] == ["Near-duplicates", "Outliers"]
        and page.text("h2")[0] == "Nearest to"
    )
    assert page.text("h3") == [
        "Group 1: 4 images, smallest similarity to the first 0.750",
        "Group 2: 2 images, smallest similarity to the first 0.650",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_cannot_leave_its_place(tmp_path, name):
    page = shown(tmp_path, Findings(outliers=[Picture(3, name, 0.1)]), title=name)
    (image,) = page.all("img")
    visible = image["alt"].removeprefix("image 3: ")
    back = re.sub(
        r"\\(?:u([0-9a-f]{4})|x([0-9a-f]{2}))", lambda m: chr(int(m[1] or m[2], 16)), visible
    )
    assert back.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t") == name.replace(
        "\\n", "\n"
    )
    assert page.text("bdi") == [visible] and page.text("h1") == page.text("title") == [visible]
    assert not page.all("script") and len(page.all("img")) == 1


def test_the_page_needs_no_network(tmp_path):
    page = shown(tmp_path, everything())
    links = [
        value
        for _, attrs in page.elements
        for key, value in attrs.items()
        if key in ("src", "href", "srcset") and not value.startswith("#")
    ]
    assert links and all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert "url(" not in page.source and "@import" not in page.source and "://" not in page.source
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_telephones_and_dark_mode_are_served(tmp_path):
    page = shown(tmp_path, Findings())
    assert page.all("meta", name="viewport")[0]["content"].startswith("width=device-width")
    assert "prefers-color-scheme: dark" in page.source and page.all("html", lang="en")


def test_the_query_comes_first_with_its_square(tmp_path):
    query = Picture(40, "q.jpg", square=on_grid(5, (2, 4)))
    answers = [Picture(1, "a.jpg", 0.8, on_grid(7, (2, 4))), Picture(2, "b.jpg", 0.7)]
    page = shown(tmp_path, Findings(nearest=[Nearest(query, answers)]))
    assert [image["alt"] for image in page.all("img")] == [
        "query 40: q.jpg, patch in row 1, column 1 marked",
        "image 1: a.jpg, patch in row 1, column 3 marked",
        "image 2: b.jpg",
    ]
    assert page.text("bdi")[0] == "q.jpg, patch in row 1, column 1"
    assert page.text("small")[:2] == [
        "query · #40 · patch in row 1, column 1",
        "#1 · patch in row 1, column 3 · 0.800",
    ]
    assert "Rows and columns of patches count from 0." in page.text("p")
    squares = [
        dict(side.split(":") for side in found["style"].split(";"))
        for found in page.all("span")
        if "style" in found
    ]
    assert squares == [
        {"top": "50.000%", "left": "25.000%", "height": "50.000%", "width": "25.000%"},
        {"top": "50.000%", "left": "75.000%", "height": "50.000%", "width": "25.000%"},
    ]


def test_a_query_from_elsewhere_has_no_number(tmp_path):
    page = shown(tmp_path, Findings(nearest=[Nearest(Picture(-1, "mine.jpg"), [])]))
    assert page.all("img")[0]["alt"] == "query: mine.jpg" and page.text("small") == ["query"]
    assert "None found." in page.text("p")


def test_an_unreadable_image_is_a_box_with_the_reason(tmp_path):
    def read(index):
        if index == 1:
            raise UnreadableImage("<b>truncated</b>")
        return plain(index)

    page = shown(tmp_path, Findings(outliers=[Picture(i, f"{i}.jpg", 0.1) for i in range(3)]), read)
    assert len(page.images()) == 2
    (box,) = page.all("div", role="img")
    assert box["aria-label"] == "image 1: 1.jpg, unreadable: <b>truncated</b>"
    assert page.text("div") == ["<b>truncated</b>"] and page.text("bdi") == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
    ]


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (3000, 2), (2, 3000), (700, 900), (192, 100)])
def test_thumbnails_have_one_size_and_few_bytes(tmp_path, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    page = shown(tmp_path, Findings(outliers=[Picture(0, "a", 0.0)]), lambda _: noise)
    (picture,) = page.images()
    assert max(picture.size) == THUMBNAIL
    assert min(picture.size) == max(1, round(THUMBNAIL * min(shape) / max(shape)))
    assert len(page.source) < 60_000  # noise is the worst that JPEG can meet


def test_small_images_are_enlarged_pixel_by_pixel(tmp_path):
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = 255
    page = shown(tmp_path, Findings(outliers=[Picture(0, "a", 0.0)]), lambda _: image)
    gray = np.asarray(page.images()[0].convert("L"))
    half = THUMBNAIL // 2
    assert (gray[: half - 8, half + 8 :] > 240).all() and (gray[half + 8 :] < 15).all()


def test_large_groups_and_many_groups_are_cut_and_the_page_says_so(tmp_path):
    large = Group([Picture(i, str(i), 0.9) for i in range(MAX_PICTURES + 3)])
    pair = Group([Picture(0, "0", 1.0), Picture(1, "1", 0.9)])
    findings = Findings(duplicates=Duplicates(0.95, [large] + [pair] * (MAX_GROUPS + 4)))
    page = shown(tmp_path, findings)
    assert len(page.images()) == MAX_PICTURES + 2 * (MAX_GROUPS - 1)
    text = " ".join(page.text("p"))
    assert f"or more: {MAX_GROUPS + 5}, of which the first {MAX_GROUPS} are shown." in text
    assert f"The first {MAX_PICTURES} are shown." in page.text("p")
    assert len(list(csv_rows(findings))) == MAX_PICTURES + 3 + 2 * (MAX_GROUPS + 4)


def test_sections_appear_when_sought_even_if_empty(tmp_path):
    page = shown(tmp_path, Findings(duplicates=Duplicates(0.9, []), outliers=[]))
    assert page.text("h2") == ["Near-duplicates", "Outliers"] and page.text("p")[1].endswith(
        "0.9 or more: 0."
    )
    assert shown(tmp_path, Findings()).text("h2") == []


def test_the_table_holds_all_findings(tmp_path):
    findings = everything()
    write_csv(csv_rows(findings), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == [
        "kind",
        "group_or_query",
        "query_row",
        "query_column",
        "rank",
        "name",
        "row",
        "column",
        "similarity",
    ]
    name = [name.replace("\ud800", "\ufffd") for name in NAMES]
    similarity = [f"{0.9 - 0.05 * i:.6f}" for i in range(len(NAMES))]
    assert lines == [
        *(
            ["nearest", name[7], "", "", str(i + 1), name[i], "", "", similarity[i]]
            for i in range(3)
        ),
        *(
            ["patch", name[3], "1", "2", str(i - 2), name[i], "1", str(i - 3), similarity[i]]
            for i in range(3, 5)
        ),
        *(
            ["near-duplicate", "1", "", "", str(i + 1), name[i], "", "", similarity[i]]
            for i in range(4)
        ),
        *(
            ["near-duplicate", "2", "", "", str(i - 3), name[i], "", "", similarity[i]]
            for i in range(4, 6)
        ),
        *(
            ["outlier", "", "", "", str(i - 5), name[i], "", "", similarity[i]]
            for i in range(6, len(NAMES))
        ),
    ]


def test_the_table_keeps_the_bytes_of_names_and_leaves_unknown_numbers_empty(tmp_path):
    row = Row(kind="outlier", group_or_query="", rank=1, name="caf\udce9.jpg")
    write_csv([row], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes().splitlines()[1] == b"outlier,,,,1,caf\xe9.jpg,,,"


def failing():
    yield Row(kind="outlier", group_or_query="", rank=1, name="a", similarity=0.5)
    raise KeyError("stop")


def unreliable(index):
    if index:
        raise KeyError("stop")
    return plain(index)


@pytest.mark.parametrize("kind", ["page", "table"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, kind):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyError):
        if kind == "page":
            write_page(
                Findings(outliers=[Picture(0, "a"), Picture(1, "b")]), unreliable, path, "title"
            )
        else:
            write_csv(failing(), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path, seen = tmp_path / "a", []
    path.write_text("old")
    table = "kind,group_or_query,query_row,query_column,rank,name,row,column,similarity\n"
    monkeypatch.setattr(files.os, "fsync", lambda _: seen.append(path.read_text()))
    write_csv([], path)
    write_page(Findings(), plain, path, "title")
    # Each time the new file is complete on the disk before it takes the place, and after.
    assert seen[:3] == ["old", table, table] and "<title>title</title>" in seen[3]
    assert list(tmp_path.iterdir()) == [path]


EVIDENCE = Evidence(
    same=0.95,
    like=0.85,
    cosine=0.991,
    tells=False,
    altered=[Altered("saved <again>", 40, 0.95, 0.2, 0.975)],
    nearest=(0.953, 0.997),
)


def test_a_network_that_cannot_tell_copies_is_called_so(tmp_path):
    group = Group([Picture(0, "a", 1.0), Picture(1, "b", 0.9)], least=0.9, agreement=0.96)
    page = shown(tmp_path, Findings(duplicates=Duplicates(None, [group], EVIDENCE)))
    text = " ".join(page.text("p"))
    assert f"{WEAK}: showing only pixel-verified pairs" in text
    assert "small gray pictures agree to 0.950 or more: 1." in text
    assert "half of the images have a similarity of 0.953" in text
    assert page.text("h3") == [
        "Group 1: 2 images, smallest similarity of two 0.900, smallest agreement 0.960"
    ]
    assert page.text("td") == ["40", "95%", "20%", "98%"] and "saved <again>" in page.text("th")


def test_a_network_that_tells_copies_has_its_threshold_named(tmp_path):
    asked = Duplicates(0.991, [], replace(EVIDENCE, tells=True))
    text = " ".join(shown(tmp_path, Findings(duplicates=asked)).text("p"))
    assert "or to 0.850 where their similarity is 0.991 or more: 0." in text and WEAK not in text


def test_contents_lead_to_each_section(tmp_path):
    page = shown(tmp_path, everything())
    places = [link["href"].removeprefix("#") for link in page.all("a")]
    assert places == ["nearest-1", "nearest-2", "near-duplicates", "outliers"]
    assert [section["id"] for section in page.all("section")] == places


def test_pictures_without_a_square_are_whole_and_lead_to_their_files(tmp_path):
    """Squares lie on what the network sees."""
    square = on_grid(5, (2, 3))
    nearest = [Nearest(Picture(3, "a b.jpg", square=square), [Picture(5, "c.jpg", 0.5)])]
    write_page(
        Findings(nearest),
        plain,
        tmp_path / "page.html",
        "title",
        view=lambda _: np.zeros((40, 40, 3), np.uint8),
        link=lambda index: "./../a%20b.jpg" if index == 3 else "",
    )
    page = Page(tmp_path / "page.html")
    sizes = [picture.size for picture in page.images()]
    assert sizes[0] == (THUMBNAIL, THUMBNAIL) and sizes[1][0] > sizes[1][1]
    assert [link["href"] for link in page.all("a")] == ["./../a%20b.jpg"]


def test_the_page_says_what_the_network_saw(tmp_path):
    compared = Compared("photos", 64, view=(224, 224), grid=(14, 14), network="runs/photos")
    text = shown(tmp_path, Findings(compared=compared)).source
    assert "64 images of <bdi>photos</bdi>, seen by <bdi>runs/photos</bdi> as 224 x 224" in text
    assert "14 rows and 14 columns of patches" in text
