"""matplotlib says nothing of its own into what a command shows."""

import os
import subprocess
import sys

import pytest

DRAWN = ("plotting import pyplot; pyplot().figure()", "colours import color_table as c; c('gray')")


@pytest.mark.parametrize("drawn", DRAWN)
def test_a_machine_without_a_home_draws_without_a_word(drawn):
    environment = {name: value for name, value in os.environ.items() if "MPL" not in name}
    environment |= {"HOME": "/dev/null", "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
    code = f"from ibot.show.{drawn}"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
