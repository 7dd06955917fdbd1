"""Epochs and lengths of runs that were made longer, or got other images, on their way."""

import numpy as np
import pytest

from ibot.config.duration import duration
from ibot.config.history import Epochs, begun, continues, extended, rewound, with_images
from ibot.config.override import apply, from_plain, to_plain
from ibot.config.resolve import derive
from ibot.config.schema import Config


def run(*settings):
    return apply(Config(), ["train.batch=10", "train.length=6 epochs", *settings])


def test_epochs_of_a_run_without_history_are_those_of_its_images():
    random = np.random.default_rng()
    images, step = int(random.integers(10, 500)), int(random.integers(0, 10_000))
    epochs = Epochs.of(run().train, images)
    assert epochs.place(step) == divmod(step, images // 10)
    assert epochs.passed(step) == step / (images // 10)


def test_other_images_begin_a_new_epoch_and_the_length_stays_as_many_steps():
    config = with_images(run(), 100, 25, 57)
    derived = derive(config, 57)
    assert (derived.steps_per_epoch, derived.total_steps, derived.run_steps) == (5, 60, 60)
    epochs = Epochs.of(config.train, 57)
    places = [epochs.place(step) for step in (0, 9, 10, 24, 25, 29, 30)]
    assert places == [(0, 0), (0, 9), (1, 0), (2, 4), (3, 0), (3, 4), (4, 0)]
    # At the end of an epoch nothing is given up.
    assert Epochs.of(with_images(run(), 100, 20, 57).train, 57).place(20) == (2, 0)
    # More of them again, before a step was done with the last ones, and later.
    assert with_images(config, 1, 25, 80).train.lists == ((0, 0, 100), (25, 3, 80))
    assert with_images(config, 1, 27, 80).train.lists[1:] == ((25, 3, 57), (27, 4, 80))


def test_masks_start_with_an_epoch_of_the_images_that_there_were_then():
    run_on_others = with_images(run(), 100, 25, 57)
    epochs = Epochs.of(run_on_others.train, 57)
    for epoch in range(6):
        started = derive(apply(run_on_others, [f"mask.start={epoch} epochs"]), 57).mask_start
        assert started == next(step for step in range(60) if epochs.place(step)[0] >= epoch)


def test_a_longer_run_counts_its_epochs_from_the_beginning_and_those_to_come_by_its_new_images():
    assert extended(run(), 100, 60, duration("9 epochs")).train.lengths == ((0, 60), (60, 90))
    assert extended(run(), 100, 60, duration("1000 images")).train.lengths[-1] == (60, 100)
    grown = with_images(run(), 100, 60, 200)
    longer = extended(grown, 100, 60, duration("9 epochs"))
    assert derive(longer, 200).total_steps == 60 + 3 * 20
    assert longer.train.length == duration("9 epochs")
    twice = extended(longer, 200, 80, duration("200 steps"))
    assert twice.train.lengths == ((0, 60), (60, 120), (80, 200))
    not_begun = extended(run(), 100, 0, duration("9 epochs"))
    assert not_begun.train.lengths == ((0, 90),)
    assert from_plain(to_plain(twice)) == twice
    with pytest.raises(ValueError, match="'40 epochs'"):
        extended(run(), 100, 0, duration("50 percent"))


def test_warm_ups_are_those_of_the_run_as_it_began():
    asked = ("optim.warmup=10 percent", "method.temp_warmup=1 epochs", "optim.freeze_last_layer=2%")
    before, after = (
        derive(run(*asked), 100),
        derive(extended(run(*asked), 100, 60, duration("600 steps")), 100),
    )
    for name in ("warmup_steps", "temp_warmup_steps", "freeze_steps", "head_warmup_steps"):
        assert getattr(before, name) == getattr(after, name), name


def test_what_changed_after_a_checkpoint_that_is_gone_changes_where_the_run_goes_on():
    config = extended(with_images(run(), 100, 25, 200), 200, 40, duration("300 steps"))
    assert rewound(config, 40) == config
    back = rewound(config, 33)
    assert back.train.lengths == ((0, 60), (33, 300)) and back.train.lists == config.train.lists
    further = rewound(config, 12)
    assert further.train.lengths == ((0, 60), (12, 300))
    assert further.train.lists == ((0, 0, 100), (12, 2, 200))
    start = rewound(config, 0)
    assert start.train.lengths == ((0, 300),) and start.train.lists == ((0, 0, 200),)


def test_settings_continue_those_of_the_same_run_alone():
    longer = extended(run(), 100, 60, duration("9 epochs"))
    assert continues(run(), longer, 100) and continues(longer, rewound(longer, 30), 100)
    assert not continues(run(), run(), 100) and not continues(longer, longer, 100)
    assert not continues(longer, run(), 100)
    assert not continues(run(), extended(run(), 200, 60, duration("90 epochs")), 100)
    assert begun(run().train, 100).lists == ((0, 0, 100),)
