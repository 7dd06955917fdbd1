"""What a training says of itself at its end, by its numbers."""

import shlex
from dataclasses import replace

import pytest

from ibot.cli.main import build_parser
from ibot.config.override import apply
from ibot.recipes import recipe
from ibot.studies import compared as compared_module
from ibot.studies.closing import Situation, before, closing, gained, judged, means
from ibot.studies.compared import Comparison, from_records, still_rising
from ibot.types import ResultRecord


def record(value, step=10, baseline="", *, metric="knn_top1", num_val=2000, **more):
    settings = {"k": 20} if metric == "knn_top1" else {"images": num_val, "features": "network"}
    return ResultRecord(
        **{"protocol": "knn", "settings": settings, "num_train": 600, **more},
        metric=metric,
        value=value,
        num_val=num_val,
        step=step,
        baseline=baseline,
    )


def compared(now, random=None, pixels=None, colours=None, start=None, **more):
    beside = {"random": random, "pixels": pixels, "colours": colours}
    return Comparison(
        now=record(now, **more),
        start=None if start is None else record(start, **more),
        beside={k: record(v, baseline=k, **more) for k, v in beside.items() if v is not None},
    )


def situation(*settings, **more):
    config = apply(recipe("tiny32"), ["data.path=my photos", *settings])
    known = {"config": config, "run": "runs/a", "images": 50_000, "classes": True}
    return Situation(**(known | more))


@pytest.mark.parametrize(
    "values, word, said",
    [
        ((20, 40, 52, 30), "worse", "worse than those of a random network"),
        ((41, 40, 52, 30), "nothing", "cannot be told from those of a random network"),
        ((53, 40, 52.5, 30), "plain", "learnt something, but plain pixels alone are as good"),
        ((53, 40, 58, 57), "plain", "plain pixels and colour histograms alone are better"),
        ((53, 40, 58, 53), "plain", "but plain pixels alone are better"),
        ((53, 40, 45, 30), "good", "more of these classes than their pixels and colours show"),
        ((53, 40), "good", "whether more than colours is not known"),
    ],
)
def test_a_training_is_worth_what_it_is_above(values, word, said):
    found = compared(*values)
    assert judged(found) == word and said in means(found)


def test_where_more_images_would_tell_a_gain_their_number_is_said():
    few = compared(31, 24, 23.5, 32.5, num_val=200)
    assert judged(few) == "nothing" and few.sign("random") == 0
    needed = few.images_needed("random")
    assert "200 validation images cannot tell" in means(few)
    assert f"{needed} would, if they are 7.0 points better" in means(few)
    for count, sign in ((needed, 1), (needed // 2, 0)):
        assert compared(31, 24, 23.5, 32.5, num_val=count).sign("random") == sign
    for value in (24.1, 23.0):
        assert "cannot be told from those of a random" in means(compared(value, 24, num_val=200))


def test_few_images_tell_only_large_differences():
    few, many = compared(53, 47, num_val=100), compared(53, 47, num_val=2000)
    assert few.sign("random") == 0 and many.sign("random") == 1
    assert "no clear difference to its own random start (47.0)" in gained(few)
    assert gained(many).startswith("k-NN 53.0 ± 2.2 % of 2000 validation images: 6.0 points above")
    assert compared(47, 53, num_val=2000).sign("random") == -1


def test_what_most_images_are_is_named_where_it_explains_the_number():
    data = {"largest_class": 90.0}
    assert "naming the largest class always gives 90.0" in gained(compared(91, data=data))
    assert "largest" not in gained(compared(91, data={"largest_class": 10.0}))


@pytest.mark.parametrize(
    "values, more, advice",
    [
        ((53, 40, 52, 30), {"images": 600}, "ibot pretrain adapt --init ibot:vit_s16 --data"),
        (
            (53, 40, 52, 30),
            {"rising": True},
            "train longer: ibot pretrain --run runs/a --extend-to",
        ),
        ((53, 40, 52, 30), {}, "other settings"),
        ((53, 40, 45, 30), {"images": 600}, "ibot eval knn ibot:vit_s16 --data 'my photos'"),
        ((53, 40, 45, 30), {}, "use it: ibot features runs/a --data 'my photos'"),
        ((53, 40, 52, 30), {"left": 5}, "train to the end of the schedule"),
        ((53, 40, 52, 30), {"complaints": "low rank"}, "ibot report runs/a"),
    ],
)
def test_what_to_do_next_follows_from_it_and_the_commands_are_ones(values, more, advice):
    last = closing(compared(*values), situation(**more))[1]
    _, _, then = last.partition(". Best next: ")
    assert advice in then
    for command in commands(then):
        build_parser().parse_args(command)
    assert ("health log complains (low rank)" in last) == ("complaints" in more)


def commands(text):
    """The arguments of the commands in a line, up to what ends them."""
    for part in text.split("ibot ")[1:]:
        found = part.split("; ")[0].split("), ")[0].split(", or ")[0].rstrip(".)")
        yield shlex.split(found)


def test_a_training_from_weights_is_measured_by_them_and_by_a_random_start():
    now = situation("train.init=w.pth", images=600)
    worse = closing(compared(60, 40, 52, 30, start=70), now)
    assert "20.0 points above a random start" in worse[0]
    assert "10.0 points below the weights it started from (70.0)" in worse[0]
    assert (
        "made the weights worse" in worse[1] and "use the weights as they were, w.pth" in worse[1]
    )
    better = closing(compared(80, 40, 52, 30, start=70), now)
    assert "has improved the weights" in better[1] and "use it" in better[1]


@pytest.mark.parametrize(
    "values, said",
    [
        ((91, 40, 52, 30), "training may not be needed"),
        ((60, 40, 52, 30), "training may add to it"),
        ((53, 40, 52, 30), "training is worth its time"),
    ],
)
def test_weights_are_judged_before_they_are_trained(values, said):
    assert said in before(compared(*values, step=0), situation("train.init=w.pth"))


def test_without_labels_patches_rank_and_agreement_tell():
    found = compared(32, 28, 29, metric="match_r1")
    more = {"agreement": 0.61, "rank": 26.0, "first_rank": 2.2, "classes": False, "images": 600}
    first, second = closing(found, situation(**more))
    assert "32.0" in first and "4.0 points above its own random start (28.0)" in first
    assert "61% of images" in first and "26.0 directions (2.2 in the first report)" in first
    assert "only labels tell" in second and "a folder per class" in second
    assert "hardly any images apart" in closing(found, situation(rank=1.5))[1]
    fallen, _ = closing(found, situation(**more | {"prototypes": 2.0}))
    assert "the same prototype for 61% of images, with 2 of" in fallen
    _, alone = closing(None, situation(agreement=0.5, rank=9.0))
    assert "no measure of patches" in alone and "--data 'my photos' --split 0.2" in alone


def test_the_start_of_a_run_is_its_random_start_unless_it_began_from_weights():
    other = record(1.0, 10, "pixels", num_val=7)  # of other images: a resumed run may change them
    rows = [record(40.0, 0), other, record(45.0, 5), record(53.0, 10), record(50.0, 10, "pixels")]
    found = from_records(rows, "knn_top1", 10, from_weights=False)
    assert found is not None and found.now.value == 53 and found.start is None
    assert {name: one.value for name, one in found.beside.items()} == {"random": 40, "pixels": 50}
    found = from_records(rows, "knn_top1", 10, from_weights=True)
    assert found is not None and found.start is not None and found.start.value == 40
    assert "random" not in found.beside
    assert from_records(rows, "knn_top1", 11, from_weights=False) is None
    assert still_rising(rows, rows[3]) and not still_rising(rows[3:], rows[3])


def test_nothing_is_said_of_what_was_not_measured():
    """A resumed run whose images are counted otherwise has no start to compare with."""
    assert "not known: no random start" in means(compared(53))
    assert "plain pixels alone are better" in means(compared(53, pixels=60))
    assert means(compared(53, 40, colours=30)).endswith("than their colours show")
    patches = {"metric": "match_r1"}
    assert "was not measured" in closing(compared(32, **patches), situation())[1]
    known = closing(compared(32, 20, **patches), situation())[1]
    assert "better than before;" in known and "pixels" not in known.partition(". Best next")[0]


def test_pixels_of_many_channels_are_no_baseline_of_a_training(monkeypatch):
    looked = 12_000
    monkeypatch.setattr(compared_module, "looks", lambda *_: looked)
    for count, names in ((13, ["random", "pixels", "colours"]), (200, ["random", "colours"])):
        channels = tuple(f"band{i}" for i in range(count))
        config = recipe("tiny32")
        config = replace(config, model=replace(config.model, channels=channels))
        assert compared_module.possible("knn_top1", config, None) == names
        assert compared_module.possible("match_r1", config, None) == ["random", "pixels"]
