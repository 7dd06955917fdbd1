"""The parts of `ibot pretrain` that need no run."""

import pytest

from ibot.cli.train import default_folder
from ibot.config.override import apply
from ibot.recipes import recipe


@pytest.mark.parametrize("name, folder", [("tiny32", "be6e7ad2"), ("one_gpu", "b2804565"), ("vit_s16", "119dd3b5")])
def test_settings_that_came_later_do_not_rename_the_folders_of_older_runs(name, folder):
    """The names are those of version 0.1.0 before it had `model.act`, `mask.views` and their like."""
    config = apply(recipe(name), ["data.path=photos"])
    assert str(default_folder(config)) == f"runs/{name}-{folder}"
    for setting in ("model.act=relu", "mask.views=first", "data.max_pixels=200000000"):
        assert default_folder(apply(config, [setting])) != default_folder(config)
