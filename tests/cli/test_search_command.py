"""`ibot search`: what it writes, says and refuses."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from commands import ibot_apart
from searched_folder import Page, of

from ibot.cli.main import build_parser, main
from ibot.cli.search import summary
from ibot.explore import pairs, search
from ibot.explore.findings import Compared, Duplicates, Findings, Group, Picture


@pytest.mark.parametrize(
    ("alike", "count", "advised"), [(22, 53, 1), (302, 3424, 1), (171, 3424, 0), (2, 40, 0)]
)
def test_advice_comes_above_one_image_in_twenty(alike, count, advised):
    group = Group([Picture(i, str(i), 1.0) for i in range(alike)])
    for threshold in (0.95, pairs.EXACT):
        duplicates = Duplicates(threshold, [group])
        findings = Findings(duplicates=duplicates, compared=Compared("photos", count))
        text = "\n".join(summary(findings))
        assert text.count("a better trained network") == advised
        assert text.count("higher --duplicates") == advised * (
            threshold < pairs.EXACT
        )  # none is higher than exact


def test_a_folder_without_classes_is_cached_and_names_what_it_cannot_read(find, scenes, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(scenes.rglob("*.png"))[:6]):
        shutil.copy(file, flat / f"{number}.png")
    odd = os.fsdecode(b"caf\xe9 & <b>.png")
    shutil.copy(flat / "0.png", flat / odd)
    (flat / "broken.jpg").write_text("no image")
    printed, rows, page = find("--data", flat)
    assert "from the cache" not in printed.out
    assert "1 image, the first: broken.jpg: not an image" in printed.out
    assert odd in [row["name"] for row in of(rows, "near-duplicate")]
    assert any("caf\\udce9 & <b>.png" in caption for caption in page.captions)
    again, rows_again, _ = find("--data", flat)
    assert "features from the cache" in again.out and rows_again == rows
    assert "from the cache" not in find("--data", flat, "--size", 24)[0].out


def test_an_earlier_search_is_replaced_and_nothing_else(find, scenes, tmp_path, weights, capsys):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "search.csv").write_text(
        "kind,group_or_query,rank,name,similarity\n"
    )  # an earlier one
    find("--data", scenes, "--k", 9)
    (tmp_path / "found" / "notes.txt").write_text("kept")
    _, rows, _ = find("--data", scenes, "--k", 2)
    assert len(of(rows, "nearest")) == 2 * search.QUERIES
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == [
        "notes.txt",
        "search.csv",
        "search.html",
    ]
    for name in ("search.html", "search.csv"):
        other = tmp_path / f"other {name}"
        other.mkdir()
        (other / name).write_text("<title>mine</title>")
        given = [
            "search",
            str(weights),
            "--data",
            str(scenes),
            "--out",
            str(other),
            "--device",
            "cpu",
        ]
        assert main(given) == 2 and "is in the way" in capsys.readouterr().err
        assert (other / name).read_text() == "<title>mine</title>" and len(
            list(other.iterdir())
        ) == 1


def test_a_search_that_is_ended_before_it_is_done_leaves_no_folder(
    find, scenes, tmp_path, monkeypatch, capsys
):
    there = []

    def ends(*given):
        there.append((tmp_path / "a").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "find_neighbours", ends)
    with pytest.raises(AssertionError):  # of the exit code
        find("--data", scenes, out="a/b")
    assert there == [False] and not (tmp_path / "a").exists()
    said = capsys.readouterr().err
    assert "goes on from what is done: features in" in said and "records" not in said
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    find("--data", scenes, out="a/b")
    assert sorted(file.name for file in (tmp_path / "a" / "b").iterdir()) == [
        "search.csv",
        "search.html",
    ]


def test_results_lie_beside_the_run_and_the_command_works_in_a_process_of_its_own(
    scenes, weights, tmp_path
):
    image = ("--image", scenes / "car" / "00001.png", "--patch", "0,0")
    given = ("search", weights, "--data", scenes, *image, "--cache", "cache", "--device", "cpu")
    done = ibot_apart(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "page:             results/net/search/train/search.html" in done.stdout
        and "next:" in done.stdout
    )
    assert Page(tmp_path / "results" / "net" / "search" / "train" / "search.html").queries == 2


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["--data", "missing"], "there is no folder 'missing'", "--data"),
        (
            ["--data", "{data}", "--image", "missing.png"],
            "'missing.png' cannot be read",
            "check the path",
        ),
        (["--data", "{data}", "--image", "text.png"], "'text.png' cannot be read", "PNG"),
        (["--data", "{data}", "--patch", "4,0"], "patch 4,0 is outside of the grid", "row in 0..3"),
        (
            ["--data", "{data}", "--patch", "0,4"],
            "patch 0,4 is outside of the grid",
            "column in 0..3",
        ),
        (["--data", "{data}", "--patch", "a"], "'a' is no patch", "--patch ROW,COLUMN"),
        (["--data", "{data}", "--duplicates", "1.5"], "a cosine in 0..1, not '1.5'", "--help"),
        (["--data", "{data}", "--duplicates", "nan"], "a cosine in 0..1, not 'nan'", "--help"),
        (["--data", "{data}", "--out", "text.png"], "'text.png' is a file", "--out"),
        (
            ["--data", "{data}", "--out", "text.png/below"],
            "'text.png/below' cannot be made",
            "--out",
        ),
        (["--data", "{data}", "--cache", "text.png"], "cannot be kept in 'text.png'", "--cache"),
        (["--data", "{data}", "--k", "0"], "--k: expected a whole number of at least 1", "--help"),
        (
            ["--data", "{data}", "--outliers", "-1"],
            "--outliers: expected a whole number of at least 0",
            "--help",
        ),
        (
            ["--data", "{data}", "--size", "4"],
            "--size 4 is smaller than a patch",
            "at least 8 pixels",
        ),
        (["--data", "{data}", "k=3"], "unrecognized arguments: k=3", "ibot search --help"),
    ],
)
def test_mistakes_get_a_remedy(
    arguments, message, remedy, scenes, weights, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no image")
    given = [
        "search",
        weights,
        "--cache",
        "cache",
        "--device",
        "cpu",
        *(a.format(data=scenes) for a in arguments),
    ]
    assert main(list(map(str, given))) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("ibot: error:")
        and message in error.splitlines()[0]
        and "  fix:  " in error
    )
    assert remedy in error and not list(tmp_path.rglob("search.*"))


@pytest.mark.parametrize(
    ("value", "words"), [(torch.nan, "norm.weight (NaN)"), (0.0, "not finite, or all zero")]
)
def test_a_network_whose_outputs_have_no_direction_is_named(
    value, words, weights, scenes, tmp_path, capsys
):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(weights, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        about = stored.metadata()
    tensors["norm.weight"], tensors["norm.bias"] = (
        torch.full_like(tensors["norm.weight"], value) for _ in range(2)
    )
    file = tmp_path / "odd.safetensors"
    save_file(tensors, file, about)
    given = ["search", file, "--data", scenes, "--cache", tmp_path / "c", "--out", tmp_path / "o"]
    assert main(list(map(str, given))) == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["search", "features"])
def test_the_help_says_that_only_training_images_are_read(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "of one with train/ and val/ only train/ is read" in " ".join(
        capsys.readouterr().out.split()
    )


def test_without_a_threshold_the_images_give_it():
    assert build_parser().parse_args(["search", "w", "--data", "d"]).duplicates is None


def test_a_second_search_overwrites_nothing(scenes, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["search", weights, "--data", scenes, "--cache", "cache", "--device", "cpu"]
    for k in (3, 4):
        assert main([*map(str, given), "--k", str(k)]) == 0
    found = Path("results/net/search")
    assert sorted(folder.name for folder in found.iterdir()) == ["train", "train-2"]
    page = found / "train" / "search.html"
    before = page.read_bytes()
    capsys.readouterr()
    given[3] = scenes.parent / "val"
    assert main([*map(str, given), "--out", str(page.parent)]) == 2
    assert "in other images or by another network" in capsys.readouterr().err
    assert (
        page.read_bytes() == before and (found / "train-2" / "search.html").read_bytes() != before
    )


def test_images_that_came_later_are_the_only_ones_computed(
    find, scenes, tmp_path, monkeypatch, capsys
):
    grown = tmp_path / "grown"
    grown.mkdir()
    files = sorted(scenes.rglob("*.png"))
    for number, file in enumerate(files[:8]):
        shutil.copy(file, grown / f"b{number}.png")
    find("--data", grown, "--duplicates", 0.99)
    shutil.copy(files[9], grown / "a0.png")  # comes first: all numbers change
    shutil.copy(files[10], grown / "c0.png")
    printed, rows, _ = find("--data", grown, "--duplicates", 0.99)
    assert f"10 of {grown}, features of 8 from the cache" in printed.out
    shutil.rmtree(tmp_path / "cache")
    assert find("--data", grown, "--duplicates", 0.99)[1] == rows
