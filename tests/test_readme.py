"""The Python of the README, and what its line for torchrun rests on.

Its commands are run by tests/test_docs_pages.py, as those of all pages.
"""

import pytest
from doc_commands import README, SHORT, TINY, blocks, commands, words_of

from ibot.cli.main import build_parser
from ibot.config.override import apply
from ibot.engine import loop


@pytest.mark.slow
def test_the_python_of_the_readme_runs(docs_here, monkeypatch):
    (code,) = (block for language, block in blocks(README) if language == "python")
    trained = []

    def train(config, folder):
        trained.append(config)
        settings = [word for word in f"{SHORT} {TINY}".split() if "=" in word]
        return loop_train(
            apply(config, [*settings, "train.max_steps=2", "system.device=cpu"]), folder, quiet=True
        )

    loop_train = loop.train
    monkeypatch.setattr(loop, "train", train)
    names = {}
    exec(code, names)
    assert names["features"].cls.shape == (17, names["backbone"].embed_dim)
    last = docs_here / "runs" / "mine" / "checkpoints" / "last"
    assert names["state"].step == 2 and last.is_file()
    assert (trained[0].data.path, str(trained[0].train.length), trained[0].train.batch) == (
        "photos",
        "20 epochs",
        16,
    )


def test_no_option_of_ours_stops_torchrun_where_the_readme_calls_it():
    """torchrun takes options behind a module's name for its own where they start alike; not behind
    `--`.
    """
    run = pytest.importorskip("torch.distributed.run")
    line = next(words_of(line) for line in commands(README) if line.startswith("torchrun"))
    before, after = line[1 : line.index("ibot") + 1], ["pretrain", "tiny32"]
    for option in sorted(options_of(build_parser())):
        read = run.get_args_parser().parse_args([*before, *after, option, "value"])
        assert (read.training_script, read.training_script_args) == (
            "ibot",
            [*after, option, "value"],
        )
        assert read.module and read.nproc_per_node == "2"


def options_of(parser):
    """Every option of every command."""
    found = set()
    for action in parser._actions:
        found.update(action.option_strings)
        for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            found |= options_of(sub)
    return found
