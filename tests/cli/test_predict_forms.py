"""Predictions of images of many channels and in windows: opened as in the training, score alike."""

import csv
import io
import shutil

import numpy as np
import pytest
from blobs import blobs, save
from random_weights import VIT, write_random
from slides import tissue, write_pyramid

from ibot.cli.main import main
from ibot.system.records import read_records

tifffile = pytest.importorskip("tifffile", reason="extra channels")

BANDS = ["data.channels=all", "model.channels=blue,green,red,nir"]
BANDS += ["model.mean=0.5,0.4,0.3,0.2", "model.std=0.2,0.2,0.2,0.2"]


def predicted(capsys, *arguments):
    """Rows of the table that the command prints, and what it says on the error output."""
    capsys.readouterr()
    assert main(["predict", *map(str, arguments), "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(shown.out))), shown.err


def accuracy(rows):
    """Per cent."""
    return 100 * np.mean([row["class"] == row["label"] for row in rows])


def evaluated(weights, data, folder, *more):
    """The value of the record that a logistic regression leaves in a folder."""
    out = ["--out", str(folder), "--cache", str(folder / "cache"), "--quiet", "--device", "cpu"]
    assert main(["eval", "logistic", str(weights), "--data", str(data), *out, *more]) == 0
    return read_records(folder / "results.jsonl")[0].value


def test_many_channels_are_read_as_the_network_reads_them(tmp_path, capsys):
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label, name in enumerate(("field", "water")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(6):
                values = random.integers(0, 200, (4, 24, 28), dtype=np.uint8)
                values[3] //= 1 + 2 * label
                path = tmp_path / "data" / part / name / f"{i}.tif"
                tifffile.imwrite(path, values, photometric="minisblack", metadata=None)
    weights = write_random(tmp_path / "w.safetensors", *VIT, *BANDS, times=3)
    value = evaluated(weights, tmp_path / "data", tmp_path / "out")
    rows, _ = predicted(capsys, tmp_path / "out", tmp_path / "data" / "val")
    assert len(rows) == 12 and accuracy(rows) == pytest.approx(value)
    file = tmp_path / "data" / "val" / "water" / "3.tif"
    (alone,), _ = predicted(capsys, tmp_path / "out", file)
    (same,) = (row for row in rows if row["name"] == str(file))
    assert {k: same[k] for k in alone} == alone

    save(tmp_path / "photo.png", blobs(0, 40, 50))
    assert main(["predict", str(tmp_path / "out"), str(tmp_path / "photo.png")]) == 2
    assert "channels" in capsys.readouterr().err


def test_windows_are_predicted_each(tmp_path, capsys):
    for part in ("train", "val"):
        for number, name in enumerate(("healthy", "tumour")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            seed = 2 * number + (part == "val")
            write_pyramid(tmp_path / "data" / part / name / "a.tif", tissue(384, 256, seed))
    weights = write_random(tmp_path / "w.safetensors", *VIT, times=3)
    windows = ["--window", "128", "--window-content", "0.2"]
    value = evaluated(weights, tmp_path / "data", tmp_path / "out", *windows)
    file = tmp_path / "alone" / "slides.safetensors"
    export = ["weights", "export", str(tmp_path / "out"), "--to", "classifier", "--out"]
    assert main([*export, str(file)]) == 0
    shutil.rmtree(tmp_path / "out")
    rows, said = predicted(capsys, file, tmp_path / "data" / "val")
    assert len(rows) > 4 and accuracy(rows) == pytest.approx(value)
    assert all("#x=" in row["name"] for row in rows) and "windows of 128 pixels" in said
    (alone,), _ = predicted(capsys, file, rows[2]["name"])
    assert {name: rows[2][name] for name in alone} == alone
    wide, _ = predicted(capsys, file, tmp_path / "data" / "val", "--window", "256")
    assert 0 < len(wide) < len(rows)
