import json
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from ibot.config.duration import Duration
from ibot.config.meaning import meanings
from ibot.config.override import apply, assign, diff, from_plain, items, settings_of, show, to_plain
from ibot.config.schema import Config
from ibot.errors import ConfigError
from ibot.recipes import RECIPES, recipe
from ibot.words import counted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.batch=1_024", 1024),
        ("optim.lr=5e-4", 5e-4),
        ("head.shared=no", False),
        ("augment.global_size=32", (32, 32)),
        ("augment.global_scale=0.25,1", (0.25, 1.0)),
        ("mask.ratio=0:0,0.7:0.05", ((0.0, 0.0), (0.7, 0.05))),
        ("mask.ratio=0.3", ((0.3, 0.0),)),
        ("mask.shape=random", "random"),
        ("optim.warmup=5%", Duration(5, "percent")),
        ("optim.warmup=1 epoch", Duration(1, "epochs")),
        ("model.pos_size=none", None),
        ("model.pos_size=224,224", (224, 224)),
        ("data.path=/a=b", "/a=b"),
    ],
)
def test_values_are_read_by_their_type(text, value):
    key = text.split("=", 1)[0]
    assert dict(items(apply(Config(), [text])))[key] == value


@pytest.mark.parametrize("key", [key for key, _ in items(Config())])
def test_every_setting_can_be_written_as_it_is_shown(key):
    for name in ("vit_b16_rand", "tiny32"):
        config = recipe(name)
        value = dict(items(config))[key]
        assert dict(items(apply(config, [f"{key}={show(value)}"])))[key] == value


@pytest.mark.parametrize("name", RECIPES)
def test_configurations_survive_json(name):
    config = recipe(name)
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


def test_numbers_come_with_their_nouns_in_the_right_number():
    said = [counted(1, "epoch"), counted(1.0, "image"), counted(2.9, "image"), counted(0, "step")]
    assert said == ["1 epoch", "1 image", "2.9 images", "0 steps"]
    assert [counted(n, "query") for n in (0, 1, 2)] == ["0 queries", "1 query", "2 queries"]
    assert (counted(3, "process"), counted(2, "micro-batch")) == ("3 processes", "2 micro-batches")


@pytest.mark.parametrize(
    "text", ["1e6 images", "1281167 images", "0.1 epochs", "33.3333333333 epochs", "5%"]
)
def test_durations_survive_json_to_the_last_digit(text):
    config = apply(Config(), [f"train.length={text}"])
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


@pytest.mark.parametrize(
    ("plain", "named", "expected"),
    [
        ({"train": {"batch": "x"}}, "train.batch", "a whole number"),
        ({"train": {"batch": 1.5}}, "train.batch", "a whole number"),
        ({"train": {"batch": True}}, "train.batch", "a whole number"),
        ({"head": {"shared": 1}}, "head.shared", "true or false"),
        ({"optim": {"lr": "fast"}}, "optim.lr", "a number"),
        ({"optim": {"lr": float("nan")}}, "optim.lr", "finite"),
        ({"train": {"length": 5}}, "train.length", "text"),
        ({"train": {"length": "long"}}, "train.length", "not a duration"),
        ({"mask": {"shape": "blok"}}, "mask.shape", "did you mean block"),
        ({"mask": {"ratio": 0.3}}, "mask.ratio", "a list"),
        ({"augment": {"global_scale": [1]}}, "augment.global_scale", "2 values"),
        ({"train": 3}, "'train'", "3"),
    ],
)
def test_a_spoilt_saved_configuration_is_refused_by_key(plain, named, expected):
    with pytest.raises(ConfigError) as caught:
        from_plain(plain)
    assert named in caught.value.what and expected in caught.value.why


def test_keys_of_another_version_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown setting 'train\.batches'") as caught:
        from_plain({"train": {"batches": 3}})
    assert "train.batch" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("method.teacher_tmp=0.04", "method.teacher_temp"),
        ("teacher_temp=0.04", "method.teacher_temp"),
        ("optim.teacher_temp=1", "method.teacher_temp"),
        ("train.batchsize=3", "train.batch"),
        ("batch=3", "train.batch"),
    ],
)
def test_unknown_settings_suggest_the_nearest(text, nearest):
    with pytest.raises(ConfigError, match="unknown setting") as caught:
        apply(Config(recipe="vit_s16"), [text])
    assert nearest in caught.value.fix and "ibot recipes show vit_s16" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.batch=many", "whole number"),
        ("train.batch=1.5", "whole number"),
        ("optim.lr=fast", "a number"),
        ("optim.lr=nan", "a finite number"),
        ("optim.clip=inf", "a finite number"),
        ("head.shared=maybe", "true or false"),
        ("mask.shape=blok", "did you mean block"),
        ("augment.global_scale=1", "2 values"),
        ("optim.warmup=10", "not a duration"),
    ],
)
def test_wrong_types_say_what_was_expected(text, expected):
    with pytest.raises(ConfigError, match="wrong type") as caught:
        apply(Config(), [text])
    assert expected in caught.value.why and text.split("=")[0] in caught.value.fix


def test_settings_of_before_they_were_durations_are_read_typed_or_stored():
    typed = apply(Config(), ["mask.start_epoch=5"])
    assert typed.mask.start == Duration(5, "epochs")
    stored = to_plain(typed)
    stored["mask"] = {"shape": "random", "start_epoch": 5}
    assert from_plain(stored).mask.start == typed.mask.start
    with pytest.raises(ConfigError, match="start=soon epochs has the wrong type"):
        apply(Config(), ["mask.start_epoch=soon"])


def test_a_difference_lists_both_values():
    assert diff(Config(), apply(Config(), ["train.batch=8"])) == [("train.batch", 1024, 8)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("YES", True),
        ("on", True),
        ("1", True),
        ("False", False),
        ("no", False),
        ("off", False),
        ("0", False),
    ],
)
def test_truth_is_read_in_the_usual_words(text, value):
    assert apply(Config(), [f"head.shared={text}"]).head.shared is value


@pytest.mark.parametrize("text", ["none", "None", "null", ""])
def test_an_optional_setting_may_be_none(text):
    config = apply(Config(), ["model.pos_size=32,48"])
    assert (
        config.model.pos_size == (32, 48)
        and apply(config, [f"model.pos_size={text}"]).model.pos_size is None
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("[ 0.25, 1 ]", (0.25, 1.0)), ("(0.25,1)", (0.25, 1.0)), ("0.25,1,", (0.25, 1.0))],
)
def test_brackets_and_spaces_of_a_tuple_do_not_matter(text, value):
    assert apply(Config(), [f"augment.global_scale={text}"]).augment.global_scale == value
    assert apply(Config(), [f"  augment.global_scale = {text} "]).augment.global_scale == value


def test_tuples_of_any_length_and_pairs_are_read():
    config = apply(Config(), ["model.depths=1,2,3", "mask.ratio=0.1,0.3:0.2"])
    assert config.model.depths == (1, 2, 3) and config.mask.ratio == ((0.1, 0.0), (0.3, 0.2))


def test_later_assignments_win_and_the_others_stay():
    config = apply(Config(), ["train.batch=8", "train.seed=3", "train.batch=16"])
    assert (config.train.batch, config.train.seed) == (16, 3)
    assert [key for key, _, _ in diff(Config(), config)] == ["train.batch", "train.seed"]


def test_what_is_no_assignment_is_refused():
    with pytest.raises(ConfigError, match=r"'train\.batch' is not a setting") as caught:
        apply(Config(), ["train.batch"])
    assert caught.value.fix == "write section.key=value"


@dataclass(frozen=True)
class Flat:
    k: int = 20
    scale: tuple[float, float] = (0.5, 1.0)
    mode: Literal["fast", "slow"] = "fast"


def test_flat_settings_are_read_and_refused_alike():
    assert assign(Flat(), ["k=5", " mode = slow"], "see help") == Flat(5, (0.5, 1.0), "slow")
    assert settings_of(Flat(5)) == [("k", "5"), ("scale", "0.5,1"), ("mode", "fast")]
    for text, words in (
        ("modes=fast", "did you mean mode?   see help"),
        ("zzz=1", "see help"),
        ("zzz", "see help"),
    ):
        with pytest.raises(ConfigError, match="unknown setting") as caught:
            assign(Flat(), [text], "see help")
        assert caught.value.fix == words and caught.value.why == "known ones: k, scale, mode"
    with pytest.raises(ConfigError, match="k=x has the wrong type") as caught:
        assign(Flat(), ["k=x"], "see help")
    assert caught.value.fix == "for example k=20" and "a whole number" in caught.value.why


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.25, "0.25"),
        (1e-6, "1e-06"),
        (True, "true"),
        (False, "false"),
        (None, "none"),
        (7, "7"),
        ((32, 48), "32,48"),
        (((0.0, 0.0), (0.3, 0.2)), "0:0,0.3:0.2"),
        (Duration(2.5, "epochs"), "2.5 epochs"),
        ("x", "x"),
        ((), ""),
    ],
)
def test_values_are_shown_as_they_can_be_given(value, text):
    assert show(value) == text


def test_a_saved_configuration_may_lack_keys_but_not_be_of_another_shape():
    assert from_plain({"recipe": "tiny32", "train": {"batch": 8}}) == replace(
        apply(Config(), ["train.batch=8"]), recipe="tiny32"
    )
    assert from_plain({}) == Config() and to_plain(Config())["recipe"] == ""
    with pytest.raises(ConfigError, match="'train' in a file is no section"):
        from_plain({"train": 3}, "a file")


def test_what_every_setting_means_is_read_from_its_docstring():
    found = meanings()
    assert set(found) == {key for key, _ in items(Config())}
    assert found["method.momentum"] == "Teacher momentum at the start; rises to 1 on a cosine."
    assert (
        found["model.drop_path"].startswith("Stochastic depth of the student")
        and "\n" not in found["mask.views"]
    )
