"""Images of many channels from the command line: every form of the same values trains alike."""

import json

import numpy as np
import pytest

from ibot.cli.main import main
from ibot.data.channels import statistics
from ibot.system.jsonl import read_jsonl

tifffile = pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")

SMALL = [
    *("model.width=48", "model.depth=1", "model.heads=3", "head.out_dim=32"),
    *("head.patch_out_dim=32", "train.batch=8", "system.workers=0", "log.every=1"),
    *("evaluate.match=0", "head.hidden_dim=32", "augment.num_local=1"),
]
FORMS = ("planes", "interleaved", "pages", "npy", "files")
OPTIONS = {"files": ["data.channel_files={name}_{channel}.jp2"]}


def trained(folder, run, *settings):
    """The rows of the log of two steps, and the run's settings."""
    command = ["pretrain", "tiny32", "--data", str(folder), "--run", str(run), "--steps", "2"]
    assert main([*command, "data.channels=all", *SMALL, *settings, "--quiet"]) == 0
    rows = [
        {k: row[k] for k in ("cls_loss", "patch_loss")} for row in read_jsonl(run / "metrics.jsonl")
    ]
    return rows, json.loads((run / "config.json").read_text())


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Eight images of six channels in each form."""
    root = tmp_path_factory.mktemp("cells")
    values = np.random.default_rng(3).integers(0, 256, (8, 40, 36, 6), np.uint8)
    for form in FORMS:
        (root / form).mkdir()
    for i, image in enumerate(values):
        planes = np.moveaxis(image, -1, 0)
        how = {"photometric": "minisblack", "metadata": None}
        tifffile.imwrite(root / f"planes/{i}.tif", planes, planarconfig="separate", **how)
        tifffile.imwrite(
            root / f"interleaved/{i}.tif", image, planarconfig="contig", compression="zlib", **how
        )
        with tifffile.TiffWriter(root / f"pages/{i}.tif") as writer:
            for plane in planes:
                writer.write(plane, **how)
        np.save(root / f"npy/{i}.npy", image)
        for number, plane in enumerate(planes, 1):
            content = imagecodecs.jpeg2k_encode(plane, level=0, reversible=True)
            (root / f"files/{i}_{number}.jp2").write_bytes(content)
    return root, values


def test_every_form_of_six_channels_gives_one_training(cells, tmp_path, monkeypatch):
    root, values = cells
    monkeypatch.setattr(statistics, "FOLDER", str(tmp_path / "cache"))
    found = {form: trained(root / form, tmp_path / form, *OPTIONS.get(form, ())) for form in FORMS}
    rows, config = found["planes"]
    assert len(rows) == 2 and all(np.isfinite(list(row.values())).all() for row in rows)
    for other, settings in found.values():
        assert other == rows
        assert settings["model"]["channels"] == ["1", "2", "3", "4", "5", "6"]
    levels = values.reshape(-1, 6) / 255
    assert config["model"]["mean"] == pytest.approx(levels.mean(0))
    assert config["model"]["std"] == pytest.approx(levels.std(0))


def test_holes_are_filled_and_what_is_mostly_holes_is_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(statistics, "FOLDER", str(tmp_path / "cache"))
    values = np.random.default_rng(4).normal(5, 2, (9, 36, 36)).astype(np.float32)
    values[0, :9, :9] = np.nan
    values[8, :19] = np.nan
    (tmp_path / "images").mkdir()
    for i, image in enumerate(values):
        tifffile.imwrite(tmp_path / f"images/{i}.tif", image)
    run = tmp_path / "run"
    command = ["pretrain", "tiny32", "--data", str(tmp_path / "images"), "--run", str(run)]
    assert main([*command, "--steps", "2", "data.channels=all", *SMALL]) == 0
    assert "81 of 10368 values in 8 sampled images" in capsys.readouterr().out
    rows = read_jsonl(run / "metrics.jsonl")
    assert np.isfinite([row["cls_loss"] for row in rows]).all()
    (bad,) = {(row["path"], row["reason"]) for row in read_jsonl(run / "bad_files.jsonl")}
    assert bad[0] == "8.tif" and bad[1].startswith("mostly invalid: 53%")
    kept = json.loads((run / "provenance.json").read_text())["data"]
    assert kept["channels"] == ["1"] and kept["invalid_share"] == pytest.approx(81 / 10368)


def test_a_channel_that_is_not_there_is_refused_with_those_that_are(cells, tmp_path, capsys):
    root, _ = cells
    command = ["pretrain", "tiny32", "--data", str(root / "planes"), "--run", str(tmp_path / "r")]
    assert main([*command, "data.channels=B02,B03"]) == 2
    told = capsys.readouterr().err
    assert "no channel 'B02'" in told and "6 (1,2,3,4,5,6)" in told
    assert not (tmp_path / "r").exists()
