"""Evaluations of a run that was trained on images without their borders see them so too."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ibot.config.override import to_plain
from ibot.data.sets.trimmed import is_trimmed
from ibot.eval.context import ImagesContext
from ibot.eval.labelled import LabelledContext
from ibot.eval.probes.crops import crop_config
from ibot.eval.probes.view_pairs import pair_config
from ibot.eval.request import Request, trims_borders
from ibot.recipes import recipe


@pytest.fixture
def scans(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / "scans" / part / label
            folder.mkdir(parents=True)
            for i in range(3):
                page = np.full((40, 30, 3), 250, np.uint8)
                page[2:38, 3:28] = rng.integers(0, 200, (36, 25, 3))
                Image.fromarray(page).save(folder / f"{i}.png")
    return tmp_path / "scans"


def run_of(folder, trims):
    """The settings of a run and the place of a checkpoint in it."""
    config = recipe("tiny32")
    config = replace(config, data=replace(config.data, trim_border=trims))
    (folder / "checkpoints" / "step_00000001").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_plain(config)))
    return folder


@pytest.mark.parametrize("trims", [True, False])
def test_images_are_read_as_the_run_read_them(scans, tmp_path, trims):
    run = run_of(tmp_path / "run", trims)
    size = (36, 25) if trims else (40, 30)
    for weights in (run, run / "checkpoints" / "step_00000001"):
        request = Request(weights=str(weights), data=str(scans), max_train=4)
        sets = LabelledContext.open_data(request).fields
        images = ImagesContext.open_data(request).fields["images"]
        for part in (sets["train"], sets["val"], images):
            assert is_trimmed(part) == trims and part.read(0).shape[:2] == size


def test_other_weights_do_not_say(tmp_path):
    assert not trims_borders(tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text("[]")
    assert not trims_borders(tmp_path)


def test_views_of_evaluations_are_flipped_left_to_right_alone():
    """What reads their places and crops knows no other flips and no turns."""
    for config in (pair_config((32, 32)), crop_config((32, 32))):
        assert config.vertical_flip == config.turn == 0
