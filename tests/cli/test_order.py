"""Options, words and settings of a command in every order in which people type them."""

import random
from itertools import chain

import pytest

from ibot.cli.main import build_parser, main
from ibot.cli.parser import check_words


def read(*words):
    options, extra = build_parser().parse_known_args(words)
    check_words(options, extra)
    found = {key: value for key, value in vars(options).items() if key != "run"}
    return {**found, "settings": sorted(options.settings)}


COMMANDS = {
    "pretrain": [["auto"], ["--data", "D"], ["--run", "R"], ["train.batch=8"], ["--steps", "3"]],
    "eval knn": [["R"], ["--data", "D"], ["k=5,20"], ["--max-train", "10"], ["--json"]],
    "eval linear": [["R"], ["augment=none"], ["--data", "D"], ["epochs=3"], ["--baselines=none"]],
    "show attention": [["R"], ["a.png"], ["--out", "O"], ["--size", "64"], ["--quiet"]],
    "results": [["A"], ["--all"], ["--csv", "c.csv"], ["--plot", "p.png"]],
    "plan": [["vit_s16"], ["--data", "D"], ["model.patch=8"], ["--epochs", "3"]],
    "weights inspect": [["W"], ["--heads", "3"], ["--quiet"]],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_order_says_the_same(command):
    words = COMMANDS[command]
    name, usual = command.split(), list(chain(*words))
    wanted = read(*name, *usual)
    shuffler = random.Random(0)
    for _ in range(8):
        mixed = shuffler.sample(words, len(words))
        if command == "show attention" and mixed.index(["a.png"]) < mixed.index(["R"]):
            continue  # which is the network is said by their order alone
        assert read(*name, *chain(*mixed)) == wanted, mixed


def test_words_between_options_are_one_list():
    assert read("results", "A", "--all", "B", "--csv", "c.csv", "C")["folders"] == ["A", "B", "C"]
    shown = read("show", "attention", "R", "--out", "O", "a.png", "--quiet", "b.png")
    assert shown["weights"] == "R" and shown["images"] == ["a.png", "b.png"]


def test_a_folder_with_an_equals_sign_stays_the_folder():
    read_as = read("eval", "knn", "--data", "D", "lr=3", "k=5")
    assert read_as["weights"] == "lr=3" and read_as["settings"] == ["k=5"]
    read_as = read("eval", "knn", "k=5", "runs/lr=3", "--data", "D")
    assert read_as["weights"] == "runs/lr=3" and read_as["settings"] == ["k=5"]


def test_what_is_missing_or_unknown_is_still_told(capsys):
    for words, said in (
        (["eval", "knn", "--data", "D"], "required: WEIGHTS_OR_RUN"),
        (["pretrain", "--data", "D"], "required: RECIPE"),
        (["features", "R"], "required: --data"),
        (["eval", "knn", "R", "--k", "5", "--data", "D"], "write k=5"),
        (["results", "A", "--best"], "unrecognized arguments: --best"),
        (["recipes", "diff", "--quiet", "a"], "required: B"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err, words
