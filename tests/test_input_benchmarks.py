"""The benchmarks of the input path, on a few small pictures."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import feed_gpu
from benchmarks import input as input_path
from benchmarks.published_input import published_input, published_mask

from ibot.config.override import apply
from ibot.recipes import recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((80 + i, 60)).save(path / f"{i}.jpg")
    return path


@pytest.mark.parametrize(
    ("seed", "counts"),
    [
        (0, [85, 82, 0, 0, 0, 0, 0, 33, 0, 75, 30, 85]),
        (1, [0, 39, 0, 79, 82, 84, 44, 0, 0, 73, 0, 58]),
        (2, [0, 26, 58, 0, 0, 60, 47, 0, 75, 0, 23, 36]),
    ],
)
def test_the_published_masks_are_drawn_as_published(seed, counts):
    random.seed(seed)  # check values measured of the published generator
    config = recipe("vit_s16")
    assert [int(published_mask(config, 14, 14).sum()) for _ in range(12)] == counts


def test_the_published_order_of_work_makes_a_mask_for_every_view(folder):
    config = recipe("vit_s16")
    views, masks = published_input(folder / "0.jpg", config)
    assert [tuple(view.shape) for view in views] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 10
    assert [mask.shape for mask in masks] == [(14, 14)] * 2 + [(6, 6)] * 10
    assert all(view.is_floating_point() for view in views)


def test_every_way_is_measured_beside_the_published_one(folder, tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    argv = ["input", str(folder), "--recipe", "tiny32", "--images", "4", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", [*argv, "--device", "cpu", "--json", str(file)])
    input_path.main()
    told = json.loads(file.read_text())
    rows = {row["path"]: row for row in told["rows"]}
    assert list(rows) == ["published", "exact", "fast", "device"] and told["machine"]
    for row in rows.values():
        assert len(row["seconds"]) == 2 and row["images_per_second"] > 0
        assert row["peak_mib"] >= 0 or row["peak_mib"] != row["peak_mib"]
    assert rows["published"]["ratio"] == rows["exact"]["ratio_to_exact"] == 1
    assert rows["device"]["device_ms"] > 0 and rows["fast"]["device_ms"] is None
    shown = capsys.readouterr().out
    assert all(f"\n{name}" in shown for name in rows) and "ms an image on" in shown


def test_each_call_of_a_way_draws_other_views_of_the_same_images(folder):
    config = apply(recipe("tiny32"), ["train.batch=4"])
    base = input_path.open_images(str(folder))
    source = input_path.SubsetImages(base, np.arange(4))
    batches = input_path.micro_batches(source, config, "exact")
    first, second = (input_path.made(batches, number) for number in range(2))
    assert sorted(first.index) == sorted(second.index) == [0, 1, 2, 3]
    assert not (first.global_views == second.global_views).all()


def test_feeding_is_measured_beside_ready_tensors(folder, tmp_path, monkeypatch, capsys):
    small = (
        "model.width=24 model.depth=1 model.heads=2 head.out_dim=32 head.patch_out_dim=32 "
        "head.hidden_dim=32 head.bottleneck_dim=16 system.workers=0 data.pixels=device"
    )
    file = tmp_path / "rows.jsonl"
    argv = ["feed_gpu", str(folder), "--recipe", "tiny32", "--batch", "4", "--steps", "2"]
    argv += ["--rounds", "2", "--device", "cpu", "--json", str(file), *small.split()]
    monkeypatch.setattr(sys, "argv", argv)
    feed_gpu.main()
    row = json.loads(file.read_text())
    assert row["pixels"] == "device" and row["batch"] == 4 and row["workers"] == 0
    assert row["files_to_ready"] > 0 and row["views_share_of_step"] > 0
    assert {name: len(taken) for name, taken in row["seconds"].items()} == {
        "ready": 2,
        "files": 2,
        "views": 2,
    }
    assert "of ready tensors with 0 loader processes" in capsys.readouterr().out
