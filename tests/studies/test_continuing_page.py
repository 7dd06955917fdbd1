"""The commands of docs/continuing.md, as they stand there, one after the other in one folder.

Words are only added at the end, so that trainings stay small.
"""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot.cli.main import main
from ibot.config.history import Epochs
from ibot.engine.run import read_config
from ibot.system.jsonl import read_jsonl

PAGE = Path(__file__).parents[2] / "docs" / "continuing.md"
COMMANDS = re.findall(r"^```\n(ibot .*?)\n```", PAGE.read_text(), re.S | re.M)
SHORT = (
    "--device cpu train.batch=8 system.workers=0 system.threads=1 evaluate.match=0 log.every=2 "
    "log.tensorboard=false augment.global_size=32 augment.local_size=16 augment.num_local=1 "
    "checkpoint.every=20steps"
)
TINY = "model.width=24 model.depth=1 model.heads=2 model.patch=8 head.hidden_dim=32"
RUN = Path("runs/album")


def picture(name):
    levels = np.random.default_rng().integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(levels).save(Path("photos") / name)


@pytest.mark.slow  # all of the page, in order
def test_the_commands_of_the_page_follow_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(16):
        picture(f"{i}.png")
    begin, tomorrow, longer, added, larger, accept, init, moved = map(shlex.split, COMMANDS)

    def run(command, more=""):
        capsys.readouterr()
        code = main([*command[1:], *more.split()])
        said = capsys.readouterr()
        assert code == 0, (command, said.err)
        return said.out

    assert "4 of 40 steps" in run(begin, f"{SHORT} {TINY} --steps 4")
    assert "resumed from step 4" in run(tomorrow)
    assert "longer: 40 epochs = 80 steps in all, in place of 20 epochs" in run(longer)
    assert "already at step 80: nothing to do" in run(longer)
    for i in range(16, 24):
        picture(f"{i}.png")
    assert "8 added (16.png, 17.png, 18.png, ...). The run is at its end" in run(added)
    assert "84 of 140 steps, 3 per epoch" in run(larger, "--steps 84")
    (Path("photos") / "3.png").rename(Path("photos") / "three.png")
    assert main(added[1:]) == 2 and shlex.join(accept[1:]) in capsys.readouterr().err
    assert "1 added (three.png), 1 gone (3.png)" in run(accept)
    config = read_config(RUN)
    assert Epochs.of(config.train, 24).passed(140) == pytest.approx(60, abs=1)
    assert [row["step"] for row in read_jsonl(RUN / "metrics.jsonl")] == [*range(2, 141, 2)]
    assert "from runs/album" in run(init, f"{SHORT} --steps 2")
    assert "nothing to do" in run(moved)
    assert json.loads((RUN / "provenance.json").read_text())["data"]["images"] == 24
    assert sorted(path.name for path in Path("runs").iterdir()) == ["album", "larger"]
