"""Pictures of correspondences: commands, a stereo pair with known places, pairs of classes."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ibot
from PIL import Image
from random_weights import SWIN, write_random

from ibot.errors import DataError, UserError
from ibot.eval.probes.correspondence import Correspondence, Truth
from ibot.eval.probes.kept_pairs import Pair
from ibot.eval.probes.match_places import Cells, Matches
from ibot.show.asked import Asked
from ibot.show.canvas import INK
from ibot.show.disparity import moved_by, read_disparity
from ibot.show.inputs import open_inputs
from ibot.show.layout import wrapped
from ibot.show.match import class_pairs, draw, whole_pair
from ibot.show.match_pairs import (
    CORNER_COLORS,
    RANK_COLORS,
    chosen,
    pair_sheet,
    place_colors,
    rank_color,
)
from ibot.show.pictures import PICTURES


def asked(weights, images, out, **options):
    own = {option.name: option.default for option in PICTURES["match"].options}
    own |= dict.fromkeys(("mutual", "attention", "published"), False)
    given = {k: options.pop(k) for k in ("size", "limit", "fit", "format") if k in options}
    shared = {"weights": str(weights), "images": tuple(map(str, images)), "out": out}
    return Asked(**{"size": 0, **shared, **given}, quiet=True, options={**own, **options})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of smooth pictures of several shapes, an odd number in one."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(7):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        place = folder / ("cat" if number < 3 else "dog")
        place.mkdir(exist_ok=True)
        size = (60, 40) if number % 2 else (44, 66)
        coarse.resize(size, Image.Resampling.BICUBIC).save(place / f"{number}.png")
    return folder


def found(grid=(3, 4), seed=0, truth=None):
    """Random matches of two pictures of one grid."""
    torch.manual_seed(seed)
    count = grid[0] * grid[1]
    cells = Cells(grid, (float(grid[0]), float(grid[1])))
    matches = Matches(
        torch.randint(count, (count,)), torch.rand(count), torch.randint(count, (count,))
    )
    return Correspondence(
        cells=(cells, cells),
        matches=matches,
        saliency=torch.rand(count),
        salient_by="chance",
        truth=truth,
    )


def test_the_most_salient_patches_are_chosen_as_a_loop_chooses_them():
    truth = Truth(torch.zeros(12, 2, dtype=torch.int64), torch.arange(12) % 3 > 0)
    for mutual in (False, True):
        about = found(seed=4, truth=truth)
        kept = [
            i
            for i in range(12)
            if truth.held[i]
            and (not mutual or about.matches.back[about.matches.found[i]].item() == i)
        ]
        kept.sort(key=lambda i: -about.saliency[i].item())
        assert chosen(about, 3, mutual=mutual).tolist() == kept[:3]
        assert chosen(about, 0, mutual=mutual).tolist() == kept


def test_colours_go_from_the_first_to_the_last_rank_and_between_the_corners():
    assert [rank_color(rank, 5) for rank in range(5)] == list(RANK_COLORS)
    assert rank_color(0, 1) == RANK_COLORS[0] and rank_color(11, 12) == RANK_COLORS[-1]
    colors = place_colors(Cells((3, 5), (3.0, 5.0))).reshape(3, 5, 3)
    assert [tuple(colors[y, x]) for y in (0, -1) for x in (0, -1)] == list(CORNER_COLORS)
    np.testing.assert_allclose(colors[1, 2], np.mean(CORNER_COLORS, axis=0))
    assert len(place_colors(Cells((1, 1), (1.0, 1.0)))) == 1


@pytest.mark.parametrize("known", [False, True])
def test_lines_join_the_patches_and_are_broken_where_they_are_wrong(known):
    """A picture in which every patch but one finds its true place far away."""
    about = found()
    place = torch.stack([about.matches.found // 4, about.matches.found % 4], dim=1)
    place[7] = (place[7] + 2) % torch.tensor([3, 4])
    truth = Truth(place, torch.ones(12, dtype=torch.bool)) if known else None
    about = Correspondence(
        cells=about.cells,
        matches=about.matches,
        saliency=about.saliency,
        salient_by="chance",
        truth=truth,
    )
    gray = np.full((60, 80, 3), 128, np.uint8)
    sheet = pair_sheet(Pair(names=("a<b>", "c"), pictures=(gray, gray), found=about), chosen(about))
    text = sheet.svg()
    colours = re.findall(r'<polyline[^>]*stroke="(#\w+)"', text)
    ink = "#{:02x}{:02x}{:02x}".format(*INK)
    drawn = [colour for colour in colours if colour != ink]
    pieces = {colour: drawn.count(colour) for colour in drawn}
    assert len(pieces) == 12
    assert sorted(pieces.values())[-1] > 1 if known else set(pieces.values()) == {1}
    assert sum(count > 1 for count in pieces.values()) == known
    assert text.count("<image") == 2 and "a&lt;b&gt;" in text and "a<b>" not in text
    assert ("within 2" in text) == known
    page = sheet.pixels()
    assert page.shape == (sheet.height, sheet.width, 3)
    first = tuple(rank_color(0, 12))
    assert (page == first).all(axis=-1).sum() > 50


def test_dense_matches_give_each_patch_the_colour_of_the_place_it_finds(tmp_path):
    about = found()
    gray = np.full((60, 80, 3), 128, np.uint8)
    pair = Pair(names=("a",), pictures=(gray, gray), found=about)
    page = pair_sheet(pair, chosen(about), style="dense").pixels()
    height, width, gap = 360, 480, 8
    colors = 128 * 0.35 + 0.65 * place_colors(about.cells[0])
    for patch in range(12):
        y, x = (patch // 4 * 120 + 60 + gap, patch % 4 * 120 + 60 + gap)
        np.testing.assert_allclose(page[y, x], colors[patch], atol=1)
        back = int(about.matches.back[patch])
        mutual = int(about.matches.found[back]) == patch
        want = colors[back] if mutual else [128] * 3
        np.testing.assert_allclose(page[y, x + width + gap], want, atol=1)
    assert page.shape[0] > height


def test_words_are_wrapped_and_too_long_ones_cut():
    lines = wrapped(["most similar patches by cosine " + "x" * 300, "", "a b"], 120)[:-1]
    words = [line.words for line in lines]
    assert len(words) > 2 and "..." in words[-1]
    assert " ".join(words[:-1]) == "most similar patches by cosine"


def test_pairs_of_a_class_are_consecutive_disjoint_and_take_classes_in_turn():
    labels = np.array([0, 1, 0, 0, 1, 0, 2, 0, 1])
    pairs = class_pairs(labels, seed=0)
    assert all(labels[one] == labels[other] for one, other in pairs)
    used = [number for pair in pairs for number in pair]
    assert len(set(used)) == len(used) and len(pairs) == 2 + 1
    assert [int(labels[one]) for one, _ in pairs] == [0, 1, 0]
    assert class_pairs(labels, 0) == pairs != class_pairs(labels, 1)


def test_points_of_a_stereo_pair_move_by_the_disparity_of_their_pixel():
    disparity = np.arange(12.0).reshape(3, 4)
    disparity[1, 2] = np.inf
    points = torch.tensor([[0.5, 3.2], [1.9, 2.0], [2.0, 0.0], [99.0, 99.0]])
    there, known = moved_by(disparity)(points.double())
    assert known.tolist() == [True, False, True, True]
    np.testing.assert_allclose(there[known], [[0.5, 0.2], [2.0, -8.0], [99.0, 88.0]], atol=1e-6)


def test_a_disparity_that_cannot_be_read_or_does_not_fit_is_an_error(tmp_path):
    np.savez(tmp_path / "good.npz", np.ones((3, 4)))
    np.save(tmp_path / "good.npy", np.ones((3, 4), np.float32))
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    for name in ("good.npz", "good.npy"):
        assert read_disparity(tmp_path / name, (3, 4)).shape == (3, 4)
    for name in ("bad.npz", "absent.npz"):
        with pytest.raises(DataError, match="no disparity"):
            read_disparity(tmp_path / name, (3, 4))
    with pytest.raises(UserError, match="does not belong"):
        read_disparity(tmp_path / "good.npz", (4, 3))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_two_images_of_any_shape_become_a_picture_and_a_table(kind, weights, photos, tmp_path):
    file = weights if kind == "vit" else write_random(tmp_path / "swin.safetensors", *SWIN, times=4)
    names = [photos / "cat" / "0.png", photos / "cat" / "1.png"]
    done = draw(asked(file, names, tmp_path / "out", format="svg", lines=5))
    (picture,) = done.files
    assert "<polyline" in picture.read_text()
    table = json.loads(picture.with_suffix(".json").read_text())
    rows, columns = table["grids"][0]
    assert rows > columns and table["grids"][1][0] < table["grids"][1][1]
    assert len(table["matches"]) == rows * columns and len(table["drawn"]) == 5
    assert ("windows" in table["salient_by"]) == (kind == "swin")
    assert table["accuracy"] == {}


def test_views_of_images_are_scored_and_classes_paired(weights, photos, tmp_path):
    done = draw(asked(weights, [photos], tmp_path / "views", limit=3))
    assert "within 2 (chance" in done.lines[1] and len(list((tmp_path / "views").iterdir())) == 6
    table = json.loads(sorted((tmp_path / "views").glob("*.json"))[0].read_text())
    assert set(table["accuracy"]["within"]) == {"0", "1", "2"}
    given = {"pairs": "classes", "attention": True, "mutual": True, "published": True}
    done = draw(asked(weights, [photos], tmp_path / "classes", limit=2, **given))
    for file in (tmp_path / "classes").glob("*.json"):
        names = json.loads(file.read_text())["names"]
        assert names[0] != names[1] and names[0].split("/")[0] == names[1].split("/")[0]
    assert len(done.files) == len(list((tmp_path / "classes").glob("*.png"))) == 2


def test_what_makes_no_pair_is_an_error(weights, photos, tmp_path):
    cat, out = photos / "cat" / "0.png", tmp_path / "out"
    for images, options, words in (
        ([cat], {"pairs": "given"}, "a pair has two"),
        ([photos / "cat"], {"pairs": "classes"}, "labels"),
        ([photos], {"disparity": "a.npz"}, "two images"),
    ):
        with pytest.raises(UserError, match=words):
            draw(asked(weights, images, out, **options))
    (tmp_path / "cut.png").write_bytes(cat.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.png"):
        draw(asked(weights, [cat, tmp_path / "cut.png"], out))
    assert not out.exists()


def test_an_evaluation_leaves_pairs_and_the_command_draws_them(weights, photos, tmp_path):
    out, cache = tmp_path / "out", ("--cache", tmp_path / "cache")
    alone = ("--baselines", "none")
    done = ibot("eval", "match", weights, "--data", photos, "--out", out, *cache, *alone)
    assert done.returncode == 0, done.stderr
    (folder,) = out.glob("match-*")
    assert f"pictures: {folder / '00.png'} and 5 more" in done.stdout
    with Image.open(folder / "00.png") as picture:
        assert min(picture.size) > 300


def test_pixels_find_the_patches_of_a_real_stereo_pair(shared_data, weights, tmp_path):
    """No training, colours and light alike: far above chance, which is 0.4 % here."""
    wanted = ["motorcycle_left.jpg", "motorcycle_right.jpg", "motorcycle_disp.npz"]
    with tarfile.open(shared_data / "natural_photos" / "natural_photos.tar") as tar:
        for member in tar:
            if Path(member.name).name in wanted:
                member.name = Path(member.name).name
                tar.extract(member, tmp_path, filter="data")
    left, right, disparity = (tmp_path / name for name in wanted)
    scores = {}
    for name, features, shown in (
        ("right", "pixels", (left, right)),
        ("swapped", "pixels", (right, left)),
    ):
        one = asked(weights, shown, tmp_path, size=104, features=features)
        images = list(open_inputs(shown))
        known = read_disparity(disparity, images[0].pixels.shape[:2])
        pair = whole_pair(one, one.loaded().backbone, (images[0], images[1]), known)
        scores[name] = pair.found.accuracy()
    got = [share["found"] for share in scores["right"]["within"].values()]
    lucky = [share["chance"] for share in scores["right"]["within"].values()]
    assert scores["right"]["patches"] > 200 and lucky[0] < 0.005
    assert got[0] > 0.25 and got[1] > 0.4 and got == sorted(got)
    # Under the disparity of the wrong side the same matches are wrong.
    assert scores["swapped"]["within"]["0"]["found"] < got[0] / 2
