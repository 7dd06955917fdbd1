"""Images larger than memory by the commands: trained on, written as features, searched."""

import csv

import numpy as np
import pytest
from slides import tissue, write_pyramid

from ibot.cli.main import main
from ibot.data.sets.window_places import parse_window
from ibot.system.jsonl import read_jsonl

pytest.importorskip("tifffile", reason="extra slides")
SMALL = ["model.width=24", "model.depth=1", "model.heads=3", "model.patch=16", "train.batch=8"]
SMALL += ["head.out_dim=64", "head.patch_out_dim=64", "evaluate.match=0", "system.device=cpu"]
SMALL += ["data.pixels=exact", "head.hidden_dim=32", "head.bottleneck_dim=16"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        write_pyramid(folder / f"{number}.tif", tissue(640, 512, number))
    return folder


@pytest.fixture(scope="module")
def run(slides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    windows = ["data.window=128", "data.windows=40", "data.window_content=0.5"]
    command = ["pretrain", "tiny32", "--data", str(slides), "--run", str(folder), "--steps", "8"]
    assert main([*command, *windows, *SMALL, "--quiet"]) == 0
    return folder


def test_training_takes_windows_as_its_images(run):
    rows = list(read_jsonl(run / "metrics.jsonl"))
    assert rows and all(np.isfinite(row["cls_loss"]) for row in rows)


def test_features_are_of_the_windows_that_a_run_was_trained_on(run, slides, tmp_path, capsys):
    file = tmp_path / "features.npz"
    command = ["features", str(run), "--data", str(slides), "--device", "cpu", "--out", str(file)]
    assert main(command) == 0
    found = np.load(file)
    places = [parse_window(str(name)) for name in found["names"]]
    assert {name for name, _ in places} == {"0.tif", "1.tif"} and len(places) == len(found["cls"])
    assert {box[2:] for _, box in places} == {(128, 128)}
    assert max(box[0] for _, box in places) < 320, "empty windows are left out as in training"
    assert "windows of 128 pixels, side by side" in capsys.readouterr().err
    assert main([*command, "--window", "256", "--window-content", "0.01"]) == 0
    wide = [parse_window(str(name))[1] for name in np.load(file)["names"]]
    assert {box[2:] for box in wide} == {(256, 256)} and len(wide) == 8


def test_a_search_names_the_places_and_seeks_what_is_like_a_window(run, slides, tmp_path):
    sought = str(slides / "1.tif#x=128,y=0,w=128,h=128")
    command = ["search", str(run), "--data", str(slides), "--device", "cpu", "--quiet", "--k", "3"]
    folders = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--image", sought, *folders]) == 0
    with (tmp_path / "out" / "search.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "nearest"]
    assert len(rows) == 3
    assert {row["group_or_query"] for row in rows} == {"1.tif#x=128,y=0,w=128,h=128"}
    assert all(parse_window(row["name"]) for row in rows)
    assert rows[0]["name"] in (tmp_path / "out" / "search.html").read_text()


def test_a_picture_shows_a_window_by_its_name_and_says_what_is_seen_whole(
    run, slides, tmp_path, capsys
):
    def show(*images):
        how = ("--out", str(tmp_path), "--device", "cpu", "--size", "32")
        return main(["show", "attention", str(run), *images, *how])

    window = f"{slides / '1.tif'}#x=128,y=0,w=128,h=128"
    assert show(window) == 0
    said = capsys.readouterr()
    assert "1 image" in said.out and "whole" not in said.err
    assert show(window, str(slides / "0.tif")) == 0
    said = capsys.readouterr()
    assert "2 images" in said.out
    assert "seen whole, not in windows of 128 pixels" in said.err and "#x=" in said.err
    assert show(f"{slides / '1.tif'}#x=500,y=0,w=128,h=128") == 2
    assert "512 pixels wide and 640 high" in capsys.readouterr().err


def test_without_windows_a_large_image_is_refused_with_the_setting(slides, tmp_path, capsys):
    command = ["pretrain", "tiny32", "--data", str(slides), "--run", str(tmp_path / "r")]
    assert main([*command, "--steps", "1", "data.max_pixels=1000", *SMALL, "train.batch=2"]) != 0
    assert "data.window or --window reads it in windows" in capsys.readouterr().err
