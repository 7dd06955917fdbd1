"""What `auto` would choose otherwise, for a run that went on."""

from dataclasses import replace

import pytest

from ibot.config.duration import duration
from ibot.data.scenes import write_folder
from ibot.data.sets.open import open_images
from ibot.data.survey import survey
from ibot.recipes.auto import Facts, choose
from ibot.studies.chosen_today import otherwise


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chosen")
    write_folder(folder, train=40, val=0)
    return open_images(str(folder / "train"))


def test_that_a_run_was_made_longer_is_no_choice_of_auto(source):
    length = duration("4 epochs")
    config, _ = choose(Facts(survey(source), 0.0, 1, length))
    longer = replace(config, train=replace(config.train, lengths=((0, 20), (20, 24))))
    assert longer.train.lengths != config.train.lengths
    longer = replace(longer, system=replace(longer.system, device="cpu"))
    assert list(otherwise(longer, source, ())) == []


def test_another_length_is_a_choice_of_auto(source):
    config, _ = choose(Facts(survey(source), 0.0, 1, None))
    config = replace(config, system=replace(config.system, device="cpu"))
    other = replace(config, train=replace(config.train, length=duration("3 epochs")))
    (line,) = otherwise(other, source, ())
    assert "train.length: 3 epochs -> " in line
