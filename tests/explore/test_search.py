"""Searches of small folders, run for real: every answer against all cosines."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from searched_folder import GRID, PATCH, of

from ibot.data.sets.scan import scan
from ibot.eval.features.tokens import extract_features
from ibot.eval.features.views import View
from ibot.explore import comparisons, search, searched
from ibot.explore.findings import Altered, Evidence
from ibot.weights.read import load_backbone


def test_copies_and_strange_images_are_found(find, scenes):
    printed, rows, page = find("--data", scenes, "--outliers", 2, "--duplicates", 0.999)
    number = next(
        row["group_or_query"]
        for row in of(rows, "near-duplicate")
        if row["name"] == "tree/copy.png"
    )
    copies = of(rows, "near-duplicate", number)
    assert [row["name"] for row in copies] == ["car/00001.png", "tree/copy.png"]
    assert copies[0]["similarity"] == "1.000000"
    assert float(copies[1]["similarity"]) == pytest.approx(1, abs=1e-5)
    assert {row["name"] for row in of(rows, "outlier")} == {"boat/noise.png", "fish/mirrored.png"}
    assert page.queries == search.QUERIES and page.headings[-2:] == ["Near-duplicates", "Outliers"]
    assert len(page.pictures) == search.QUERIES * 11 + len(of(rows, "near-duplicate")) + 2
    lines = dict(line.split(":", 1) for line in printed.out.splitlines())
    assert (
        lines["images"].strip() == f"33 of {scenes}"
        and "40 answers to 4 queries" in lines["nearest images"]
    )
    assert (
        lines["page"].strip() == "found/search.html"
        and lines["table"].strip() == "found/search.csv"
    )
    assert "33/33" not in printed.err  # no terminal and quickly done: no line of progress


def test_exact_copies_alone_are_found_with_a_threshold_of_one(find, scenes):
    printed, rows, _ = find("--data", scenes, "--duplicates", 1)
    assert (
        "1 group of 2 images at 0.9999 or more" in printed.out
    )  # rounding takes some copies below 1
    assert [row["name"] for row in of(rows, "near-duplicate")] == ["car/00001.png", "tree/copy.png"]


def test_any_two_of_a_group_are_alike_and_many_get_advice(find, scenes, weights):
    features = extract_features(load_backbone(weights), scan(scenes), size=(32, 32))
    unit = dict(zip(features.names, features.unit(), strict=True))
    printed, rows, page = find("--data", scenes, "--duplicates", 0.5)
    groups = {}
    for row in of(rows, "near-duplicate"):
        groups.setdefault(row["group_or_query"], []).append((row["name"], float(row["similarity"])))
    for (first, own), *others in groups.values():
        assert own == 1 and min(similarity for _, similarity in others) >= 0.5
        cosines = [float(unit[first] @ unit[name]) for name, _ in others]
        within = torch.stack([unit[first], *(unit[name] for name, _ in others)])
        assert float((within @ within.T).min()) >= 0.5 - 1e-5
        assert [similarity for _, similarity in others] == pytest.approx(
            cosines, abs=2e-5
        )  # float32, other batches
    alike = sum(map(len, groups.values()))
    assert alike > 33 // 2
    share = f"{100 * alike / 33:.1f}% of the images are in groups"
    assert (
        f"{share}; if they are no copies, use a higher --duplicates or a better trained network"
        in printed.out
    )
    assert any("any two have a similarity of 0.5 or more" in text for text in page.paragraphs)


def test_nearest_images_equal_all_cosines_and_leave_out_the_query(find, scenes, weights):
    source = scan(scenes)
    features = extract_features(load_backbone(weights), source, size=(32, 32))
    cosines = features.unit() @ features.unit().T
    query = features.names.index("car/00001.png")
    expected = [i for i in cosines[query].argsort(descending=True).tolist() if i != query][:5]
    # The same image by a way that no name in the folder shows.
    link = Path("link.png")
    link.symlink_to(scenes / "car" / "00001.png")
    _, rows, page = find("--data", scenes, "--image", link, "--k", 5, "--outliers", 0)
    nearest = of(rows, "nearest")
    assert {row["group_or_query"] for row in nearest} == {"car/00001.png"} and nearest[0][
        "name"
    ] == "tree/copy.png"
    assert [row["name"] for row in nearest] == [features.names[i] for i in expected]
    found = [float(row["similarity"]) for row in nearest]
    assert found == pytest.approx(
        cosines[query, expected].tolist(), abs=2e-5
    )  # float32, other batches
    assert not of(rows, "outlier") and "Outliers" not in page.headings


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not show what is mapped")
def test_features_are_searched_where_they_lie_in_a_file_and_read_once_for_queries(
    find, scenes, tmp_path, monkeypatch
):
    seen = {}

    def watched(name):
        plain = getattr(comparisons, name)

        def call(rows, *given, **options):
            lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
            spans = [(*(int(side, 16) for side in line[0].split("-")), line[-1]) for line in lines]
            files = [file for start, end, file in spans if start <= rows.data_ptr() < end]
            seen.setdefault(name, []).extend(files)
            return plain(rows, *given, **options)

        monkeypatch.setattr(comparisons, name, call)

    watched("nearest_images")
    shutil.copy(scenes / "mug" / "00009.png", tmp_path / "outside.png")
    inside = [scenes / "car" / "00001.png", scenes / "boat" / "noise.png"]
    _, rows, page = find(
        "--data", scenes, "--image", inside[0], tmp_path / "outside.png", inside[1], "--k", 40
    )
    # Queries inside, those outside, and once for duplicates and outliers together.
    assert {name: len(files) for name, files in seen.items()} == {"nearest_images": 3}
    assert all(Path(file).name == "rows.npy" for files in seen.values() for file in files)
    names = ["car/00001.png", str(tmp_path / "outside.png"), "boat/noise.png"]
    assert list(dict.fromkeys(row["group_or_query"] for row in of(rows, "nearest"))) == names
    assert [len(of(rows, "nearest", name)) for name in names] == [32, 33, 32]
    assert of(rows, "nearest", names[1])[0]["name"] == "mug/00009.png" and page.queries == 3


def test_images_outside_of_the_folder_are_queries_too(find, scenes, tmp_path):
    outside = tmp_path / "out side.png"
    shutil.copy(scenes / "mug" / "00009.png", outside)
    _, rows, page = find(
        "--data", scenes, "--image", outside, scenes.parent / "val" / "car" / "00031.png", "--k", 3
    )
    first = of(rows, "nearest", str(outside))
    assert first[0]["name"] == "mug/00009.png" and float(first[0]["similarity"]) == pytest.approx(
        1, abs=1e-5
    )
    assert len(of(rows, "nearest")) == 6 and page.queries == 2
    mean = np.asarray(Image.open(outside)).mean()
    assert page.pictures[0].mean() == pytest.approx(mean, abs=3)  # JPEG


def test_nearest_patches_equal_all_cosines_in_batches(find, scenes, weights, monkeypatch):
    sizes = []
    tokens = searched.Searched.tokens
    monkeypatch.setattr(searched, "BATCH", 4)
    monkeypatch.setattr(
        searched.Searched,
        "tokens",
        lambda self, views: sizes.append(len(views)) or tokens(self, views),
    )
    features = extract_features(load_backbone(weights), scan(scenes), size=(32, 32), patches=True)
    assert features.patches is not None
    unit = torch.nn.functional.normalize(features.patches, dim=-1)
    names = ["car/00001.png", "boat/noise.png"]
    files = [scenes / name for name in names]
    _, rows, page = find("--data", scenes, "--image", *files, "--patch", "1,2", "--k", 6)
    assert max(sizes) <= 4
    for name in names:
        query = features.names.index(name)
        best = (unit @ unit[query, 1 * GRID + 2]).max(dim=1).values
        best[query] = -2
        expected = best.argsort(descending=True)[:6]
        found = of(rows, "patch", name)
        assert {(row["query_row"], row["query_column"]) for row in found} == {("1", "2")}
        places = (unit @ unit[query, 1 * GRID + 2])[expected].argmax(dim=1).tolist()
        assert [(int(row["row"]), int(row["column"])) for row in found] == [
            divmod(place, GRID) for place in places
        ]
        assert [row["name"] for row in found] == [features.names[i] for i in expected.tolist()]
        values = [float(row["similarity"]) for row in found]
        assert values == pytest.approx(best[expected].tolist(), abs=2e-5)  # float32, other batches
        whole = of(rows, "nearest", name)
        assert len(whole) == 6 and not any(row["query_row"] + row["column"] for row in whole)
        assert f"Nearest to {name}, patch in row 1, column 2" in page.headings
    assert len(page.squares) == 2 * 7
    place = {"top": 1 / GRID, "left": 2 / GRID, "height": 1 / GRID, "width": 1 / GRID}
    assert page.squares[0] == pytest.approx(place, abs=1e-4)


@pytest.mark.parametrize("size", [32, 36])
def test_the_square_lies_on_the_patch_that_the_network_saw(find, scenes, tmp_path, size):
    """At 36 pixels the grid covers 32 of them: shares of the grid would point beside the patch."""
    pixels = np.full((size, size, 3), 40, np.uint8)
    pixels[3 * PATCH : 4 * PATCH, PATCH : 2 * PATCH] = 250
    Image.fromarray(pixels).save(tmp_path / "query.png")
    given = ["--image", tmp_path / "query.png", "--patch", "3,1", "--k", 1, "--size", size]
    _, _, page = find("--data", scenes, *given)
    picture, square = (
        page.pictures[2],
        page.squares[0],
    )  # after the query for whole images and its answer
    side = len(picture)
    top, left = round(square["top"] * side), round(square["left"] * side)
    inside = picture[
        top : top + round(square["height"] * side), left : left + round(square["width"] * side)
    ]
    outside = picture[: top - 8].mean()
    assert inside.mean() > 240 and outside < 60


def seen_as(size, patch_size, grid):
    """Images that are seen at `size` by a network with so large patches on this grid."""

    class Network:
        def token_grid(self, height, width):
            return grid

    network = Network()
    network.patch_size = patch_size
    context = SimpleNamespace(loaded=SimpleNamespace(backbone=network), view=View(size))
    return searched.Searched(context)


def test_a_square_of_the_padding_ends_with_the_view():
    square = seen_as((48, 64), 32, (2, 2)).square(3)
    assert (square.row, square.column) == (1, 1)
    assert (square.top, square.left) == (32 / 48, 32 / 64)
    assert square.top + square.height == pytest.approx(1)
    assert square.left + square.width == pytest.approx(1)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (14, 14)])
def test_squares_tile_the_picture(grid):
    height, width = grid[0] * 4, grid[1] * 4
    images, cover = seen_as((height, width), 4, grid), np.zeros((height, width), int)
    for patch in range(grid[0] * grid[1]):
        square = images.square(patch)
        top, left = round(square.top * height), round(square.left * width)
        rows, columns = round(square.height * height), round(square.width * width)
        cover[top : top + rows, left : left + columns] += patch
    wanted = np.kron(np.arange(grid[0] * grid[1]).reshape(grid), np.ones((4, 4), int))
    np.testing.assert_array_equal(cover, wanted)


def test_a_line_of_python_finds_what_the_command_finds(find, scenes, weights, tmp_path):
    query = scenes / "car" / "00001.png"
    found = search.search(weights, scenes, queries=[query], k=3, patch=(1, 2), cache=tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"], "nothing else is written"
    _, rows, _ = find("--data", scenes, "--image", query, "--k", 3, "--patch", "1,2")
    answers = [picture.name for nearest in found.nearest for picture in nearest.answers]
    assert answers == [row["name"] for kind in ("nearest", "patch") for row in of(rows, kind)]
    alike = [picture.name for group in found.duplicates.groups for picture in group.pictures]
    assert alike == [row["name"] for row in of(rows, "near-duplicate")]
    assert [picture.name for picture in found.outliers] == [r["name"] for r in of(rows, "outlier")]
    assert (found.compared.count, found.compared.folder) == (33, str(scenes))


def test_a_single_image_has_neither_neighbours_nor_outliers(find, scenes, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(scenes / "car" / "00001.png", tmp_path / "one" / "a.png")
    printed, rows, page = find("--data", tmp_path / "one", "--patch", "0,0")
    assert (
        rows == []
        and page.headings[-1] == "Near-duplicates"
        and "0 answers to 1 query" in printed.out
    )


def test_of_a_folder_with_parts_only_the_training_images_are_searched(find, scenes):
    assert f"33 of {scenes}\n" in find("--data", scenes.parent)[0].out


def test_links_lead_from_the_page_to_the_files(find, scenes, tmp_path):
    outside = tmp_path / "out: side %.png"
    shutil.copy(scenes / "mug" / "00009.png", outside)
    find("--data", scenes, "--image", outside, "--k", 2, "--outliers", 0, out="deep/er")
    page = tmp_path / "deep" / "er" / "search.html"
    links = re.findall('<a href="([^"#]+)"', page.read_text())
    files = [(page.parent / unquote(link)).resolve() for link in links]
    assert files[0] == outside and scenes / "mug" / "00009.png" in files
    assert all(link.startswith("./") for link in links) and all(f.is_file() for f in files)


def test_copies_are_found_by_a_network_that_tells_nothing(find, scenes, tmp_path):
    """The default: small pictures decide, and the page has the evidence."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(30):
        blobs = random.integers(0, 256, (6, 6, 3), np.uint8)
        image = Image.fromarray(blobs).resize((90, 80), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02d}.png")
        if number == 7:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.jpg")
        if number == 11:
            image.resize((45, 40)).save(folder / "small.jpg", quality=60)
    printed, rows, page = find("--data", folder)
    names = [row["name"] for row in of(rows, "near-duplicate")]
    assert names == ["07.png", "mirrored.jpg", "11.png", "small.jpg"]
    assert "2 groups of 4 images; pictures agree at 0.950" in printed.out
    assert "altered copies are known again by pictures alone" in printed.out  # a random network
    assert any("Copies were made of some of these images" in text for text in page.paragraphs)


@pytest.mark.parametrize(("tells", "share"), [(True, 0.75), (False, 0.25), (None, 0.25)])
def test_the_share_known_again_is_of_what_decides(tells, share):
    altered = [Altered("mirrored", 30, 0.3, 0.5, 0.8), Altered("covered", 10, 0.1, 0.5, 0.6)]
    found = Evidence(same=0.95, like=0.85, cosine=0.9, tells=tells, altered=altered)
    assert found.known_again == pytest.approx(share)
