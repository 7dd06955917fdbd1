import os
import re
import subprocess
import sys

import pytest

from ibot.system.waiting import CHOICES, SHORT, in_force, spin_shortly

CLEAN = {name: value for name, value in os.environ.items() if name not in CHOICES}


@pytest.mark.parametrize("empty", [{}, {"GOMP_SPINCOUNT": ""}])
def test_threads_spin_shortly_unless_somebody_chose(empty):
    environment = dict(empty)
    spin_shortly(environment)
    assert environment == SHORT
    assert in_force(environment) == "GOMP_SPINCOUNT=1000 KMP_BLOCKTIME=1, set by ibot"


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_chose_stays(name):
    environment = {name: "active" if name == "OMP_WAIT_POLICY" else "7"}
    before = dict(environment)
    spin_shortly(environment)
    assert environment == before


def test_without_any_choice_it_is_said_that_it_was_too_late():
    assert "torch was loaded before" in in_force({})


def run(code, **environment):
    environment = {**CLEAN, "OMP_DISPLAY_ENV": "verbose", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100
    )


DOCTOR = "from ibot.cli.main import main; main(['doctor'])"


def test_the_library_of_torch_reads_the_choice_and_doctor_tells_it():
    done = run(DOCTOR)
    told = r"^waiting +GOMP_SPINCOUNT=1000 KMP_BLOCKTIME=1, set by ibot$"
    assert re.search(told, done.stdout, re.MULTILINE)
    if sys.platform == "linux":
        assert "GOMP_SPINCOUNT = '1000'" in done.stderr


@pytest.mark.slow  # two processes that load torch
def test_a_users_choice_is_read_and_an_import_changes_nothing():
    done = run(DOCTOR, OMP_WAIT_POLICY="passive")
    told = r"^waiting +OMP_WAIT_POLICY=passive, set by you or your system$"
    assert re.search(told, done.stdout, re.MULTILINE)
    done = run(
        "import os; before = dict(os.environ); import ibot; ibot.train; assert dict(os.environ) "
        "== before"
    )
    assert done.returncode == 0, done.stderr
