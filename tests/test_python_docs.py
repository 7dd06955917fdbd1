"""The blocks of docs/python.md, word by word and in their order, in one session."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np

from ibot.cli.main import main
from ibot.config.override import apply
from ibot.engine import loop

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(), re.S | re.M)


def test_the_page_runs_from_top_to_bottom(photos_world, tmp_path, monkeypatch, capsys):
    shutil.copytree(photos_world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))  # the cache of features
    shorten_training(monkeypatch)
    names = {"__name__": "page"}
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), names)
        for line in block.splitlines() if not language else ():
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
    assert names["x"].shape == (36, 24) and set(names["y"]) == {0, 1}
    assert names["scores"].mean() > 0.8, "buildings and flowers differ in colour alone"
    assert names["rows"].shape == (36, 24)
    assert [tuple(one.shape[:2]) for one in names["maps"]] == [(4, 24)] * 4
    assert names["fine"].shape == (4, 24, 4, 4)
    assert set(names["losses"]) >= {"loss_classifier", "loss_objectness"}
    assert len(names["found"].names) == 37 and len(names["found"].top(2)[0]) == 2
    assert names["probabilities"].shape == (2,)
    assert names["state"].step == 2 and len(names["findings"].nearest[0].answers) == 3
    table = Path("predictions.csv").read_text().splitlines()
    assert table[0] == "name,label,class,probability" and len(table) == 38
    assert Path("predictions.json").is_file() and np.load("features.npz")["names"].shape == (36,)
    shown = capsys.readouterr()
    assert "% of 36 images" in shown.out and "have the class of their folder" in shown.err


def shorten_training(monkeypatch):
    """A training of the page is two steps of a tiny network."""
    train = loop.train
    short = (
        "train.max_steps=2 system.device=cpu system.workers=0 model.width=24 model.depth=2 "
        "model.heads=2 head.out_dim=32 head.patch_out_dim=32 head.hidden_dim=32 train.batch=8 "
        "log.tensorboard=false"
    )
    settings = short.split()
    monkeypatch.setattr(
        loop, "train", lambda config, folder: train(apply(config, settings), folder, quiet=True)
    )
