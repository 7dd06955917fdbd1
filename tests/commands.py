"""Commands as tests run them: `ibot` within the test's own process, the others in processes of
their own that need not import torch first, as a server that has done so forks them.

The server has computed nothing, so its children may use threads. What imports cost, and what
happens before them, is for the tests that start `python -m ibot` itself.
"""

import contextlib
import io
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from several import addresses

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch.distributed",
        "torchvision",
        "ibot.engine.loop",
        "ibot.studies.pretraining",
        "ibot.cli.evaluate",
        "rich.progress",
    ]
)
SECONDS = 200
"""Within which commands of tests end."""


class Command:
    """`work(*given)` in a process of its own, with what `subprocess.Popen` offers of one."""

    def __init__(self, work, *given, cwd=None, **environment):
        self.folder = TemporaryDirectory()
        place = str(cwd or Path.cwd())
        self.process = CONTEXT.Process(
            target=_child,
            args=(work, given, place, {**os.environ, **environment}, self.folder.name),
        )
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()
        self.process.join()

    def ended(self, timeout=SECONDS):
        """Wait for the end, whose exit code this returns with the text of stdout and stderr."""
        self.process.join(timeout)
        code = self.process.exitcode
        self.kill()
        out, err = (Path(self.folder.name, name).read_text() for name in ("stdout", "stderr"))
        assert code is not None, f"not done within {timeout} s\n{out}{err}"
        return subprocess.CompletedProcess((), code, out, err)


def start_ibot(*arguments, cwd=None, **environment):
    """Start `ibot` with these arguments."""
    return Command(_ibot, *map(str, arguments), cwd=cwd, **environment)


def ibot(*arguments, cwd=None):
    """Run `ibot` with these arguments to its end in this process, as `main` and no more."""
    from ibot.cli.main import main

    words, before = [str(word) for word in arguments], sys.argv
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["ibot", *words]
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(words)
        except SystemExit as ended:  # of --help
            code = ended.code or 0
        finally:
            sys.argv = before
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def ibot_apart(*arguments, cwd=None):
    """Run `ibot` with these arguments to its end in a process of its own."""
    done = start_ibot(*arguments, cwd=cwd).ended()
    assert "Traceback" not in done.stderr, done.stderr
    return done


def ibot_in_two(*arguments, cwd=None):
    """Run `ibot` in two processes, as a launcher starts them."""
    return [
        started.ended()
        for started in [start_ibot(*arguments, cwd=cwd, **own) for own in _launched()]
    ]


def start_script(path, *arguments, cwd=None, **environment):
    """Start a Python script with these arguments."""
    return Command(_script, *map(str, (path, *arguments)), cwd=cwd, **environment)


def script_in_two(path, *arguments, cwd=None):
    """Start a Python script in two processes, as a launcher does."""
    return script_in_several(2, path, *arguments, cwd=cwd)


def script_in_several(count, path, *arguments, cwd=None):
    """Start a Python script in `count` processes, as a launcher does."""
    return [start_script(path, *arguments, cwd=cwd, **own) for own in _launched(count)]


def _launched(count=2):
    return [
        {**own, "LOCAL_RANK": own["RANK"], "LOCAL_WORLD_SIZE": own["WORLD_SIZE"]}
        for own in addresses(count)
    ]


def _script(*arguments):
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")


def _ibot(*arguments):
    from ibot.cli.main import main

    sys.argv = ["ibot", *arguments]
    return main()


def _child(work, given, place, environment, folder):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process lives
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.exit(work(*given))
