"""The paper's figures by name: each is drawn by its picture, with a line on what differs."""

import json
import re
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from ibot.errors import UserError
from ibot.show.asked import Asked
from ibot.show.figures import FIGURES, draw
from ibot.show.pictures import PICTURES

DRAWN = [name for name, figure in FIGURES.items() if figure.parts]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(random.integers(60, 256, (5, 5, 3), dtype=np.uint8))
        place = folder / ("cat" if number < 3 else "dog")
        place.mkdir(exist_ok=True)
        coarse.resize((60, 40 + 4 * number), Image.Resampling.BICUBIC).save(place / f"{number}.png")
    return folder


def asked(name, weights, photos, out):
    """As the command asks with its defaults, but for fewer and smaller pictures."""
    kind = PICTURES[name]
    options = {
        option.name.replace("-", "_"): False if option.kind == "switch" else option.default
        for option in kind.options
    }
    small = {"index": str(out.parent / "index"), "show": 2}
    options |= {key: value for key, value in small.items() if key in options}
    size = 32 if kind.size else 0
    given = {"size": size, "limit": 2, "device": "cpu", "quiet": True, "picture": name}
    return Asked(weights=str(weights), images=(str(photos),), out=out, options=options, **given)


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_is_drawn_and_says_what_differs(name, weights, photos, tmp_path):
    done = draw(asked(name, weights, photos, tmp_path / "out"))
    assert done.files and all(file.is_file() for file in done.files)
    said = (tmp_path / "out" / f"{name}.txt").read_text()
    assert said.startswith("published: ") and " Here: " in said
    assert said.strip() in done.lines[-1]
    if name in ("fig4", "fig13", "fig14"):
        top = 36 if name == "fig4" else 100
        assert all(re.search(rf"cpatch_crank\d_cid\d_top{top}", f.name) for f in done.files[1:])
    if name == "fig17":
        assert "cclass_crank0" in done.files[1].name


def test_the_last_figure_pairs_views_and_classes_by_inner_products(weights, photos, tmp_path):
    done = draw(asked("fig19", weights, photos, tmp_path))
    tables = {file.parent.name: json.loads(file.with_suffix(".json").read_text()) for file in
              done.files}  # fmt: skip
    assert set(tables) == {"views", "classes"}
    assert all(table["similarity"] == "inner product" for table in tables.values())
    assert len(tables["views"]["names"]) == 1 and tables["views"]["accuracy"]
    assert tables["classes"]["grids"] == [[4, 4], [4, 4]]  # squashed


def test_images_without_classes_are_refused_before_the_network_is_read(photos, tmp_path):
    nowhere = tmp_path / "no weights"
    with pytest.raises(UserError, match="images with labels"):
        draw(asked("fig19", nowhere, photos / "cat", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_a_figure_fixes_cannot_be_asked():
    for name in DRAWN:
        figure, kind = FIGURES[name], PICTURES[name]
        offered = {option.name.replace("-", "_") for option in kind.options}
        known = {option.name.replace("-", "_") for part in figure.parts
                 for option in PICTURES[part.picture].options}  # fmt: skip
        fixed = {key for part in figure.parts for key in part.options}
        assert not fixed & offered and fixed | offered == known
        assert set(figure.defaults) <= offered
        common = {key for part in figure.parts for key in part.asked}
        assert not common & set(kind.takes) and common <= {f.name for f in fields(Asked)}


def test_a_figure_of_codes_that_are_not_here_is_refused(weights, tmp_path):
    with pytest.raises(UserError, match="fig16") as caught:
        draw(asked("fig16", weights, tmp_path, tmp_path / "out"))
    assert "DALL-E" in caught.value.why
    assert not (tmp_path / "out").exists()
