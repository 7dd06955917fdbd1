import subprocess
from importlib.metadata import version

import pytest

from ibot.system import versions


@pytest.mark.parametrize(
    ("code", "status", "want"), [(0, "", "abc"), (0, " M a.py", "abc-dirty"), (128, "", "unknown")]
)
def test_the_commit_says_whether_the_code_was_changed(monkeypatch, code, status, want):
    def run(command, **kwargs):
        out = "abc\n" if "rev-parse" in command else status
        return subprocess.CompletedProcess(command, code, out, "")

    monkeypatch.setattr(versions.subprocess, "run", run)
    assert versions._commit() == want

    def absent(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(versions.subprocess, "run", absent)
    assert versions._commit() == "unknown"
    assert (
        versions._version("torch") == version("torch")
        and versions._version("no-such-package") == "absent"
    )
