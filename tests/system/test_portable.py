"""Systems that lack what Linux has, played by taking it away; and the locks, played and real."""

import ast
import errno
import getpass
import json
import multiprocessing
import os
import pickle
import re
import signal
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import start_script
from PIL import Image

from ibot.data.loader import MicroBatches
from ibot.data.sets.open import open_images
from ibot.recipes import recipe
from ibot.system import portable

fcntl = pytest.importorskip("fcntl", reason="the tests play other systems on a POSIX one")

PACKAGE = Path(portable.__file__).parents[1]
POSIX_MODULES = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "resource", "syslog", "termios"}
POSIX_CALLS = set(
    re.findall(
        r"\w+",
        """
        chown fchown fork forkpty getegid geteuid getgid getloadavg
        getpgid getpgrp getsid getuid kill killpg lchown mkfifo
        nice openpty posix_fadvise posix_fallocate pread preadv pwrite register_at_fork
        sched_getaffinity sched_setaffinity sched_yield sendfile setpgid setsid statvfs sysconf
        uname wait wait3 waitid
        """,
    )
)
"""Of `os`, not on Windows, or another thing there."""
HANDLED = {
    "engine/run.py": set(),
    "eval/features/entry.py": {"posix_fallocate"},
    "explore/browser/embedding.py": {"nice"},
    "system/launch.py": {"kill"},
    "system/machine.py": {"getsid"},
}
"""Where the call stands beside what is done without it."""
EVERYWHERE = {"SIGINT", "SIGTERM", "SIG_DFL", "SIG_IGN"}


def test_what_only_some_systems_have_is_asked_for_in_one_place():
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name in ("system/portable.py", "system/limits.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & POSIX_MODULES, name
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in POSIX_MODULES, name
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "signal" and node.attr.isupper():
                    assert node.attr in EVERYWHERE, (name, node.attr)
                elif node.value.id == "os" and node.attr in POSIX_CALLS:
                    assert node.attr in HANDLED.get(name, ()), (name, node.attr)


def play_msvcrt():
    """Locks of bytes as on Windows, made of those locks of Linux that belong to an opening."""

    def locking(descriptor, mode, count):
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        kind = fcntl.F_UNLCK if mode == 0 else fcntl.F_WRLCK
        how = struct.pack("hhqqi4x", kind, os.SEEK_SET, place, count, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, how)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    return SimpleNamespace(locking=locking, LK_UNLCK=0, LK_NBLCK=2)


@pytest.fixture(params=["posix", "windows", "none"])
def system(request, monkeypatch):
    if request.param != "posix":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    if request.param == "windows":
        if not hasattr(fcntl, "F_OFD_SETLK"):
            pytest.skip("this system has no locks that belong to an opening")
        monkeypatch.setitem(sys.modules, "msvcrt", play_msvcrt())
    return request.param


def test_a_lock_keeps_others_out_until_it_is_released_or_closed(system, tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as first, path.open("a+") as second:
        if system == "none":
            with pytest.raises(OSError, match="not implemented") as caught:
                portable.lock(first)
            assert caught.value.errno in portable.NO_LOCKS
            portable.unlock(first)
            return
        first.write("text of the owner")
        first.flush()
        portable.lock(first)
        with pytest.raises(BlockingIOError):
            portable.lock(second)
        with pytest.raises(BlockingIOError):
            portable.lock(second, shared=True)
        second.seek(0)
        assert second.read() == "text of the owner", "what is locked can still be read"
        portable.unlock(first)
        portable.lock(second)
        with pytest.raises(BlockingIOError):
            portable.lock(first)
    with path.open("a+") as third:
        portable.lock(third)


def test_readers_may_share_a_lock(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with path.open() as first, path.open() as second:
        portable.lock(first, shared=True)
        portable.lock(second, shared=True)
        with path.open("a") as third, pytest.raises(BlockingIOError):
            portable.lock(third)


def test_a_folder_is_locked_where_folders_can_be(system, tmp_path, monkeypatch):
    if system == "windows":
        monkeypatch.setattr(sys, "platform", "win32")
    with portable.locked_folder(tmp_path):
        if system == "posix":
            with pytest.raises(BlockingIOError), portable.locked_folder(tmp_path):
                pass
        else:
            with portable.locked_folder(tmp_path):
                assert not any(tmp_path.iterdir())
    with portable.locked_folder(tmp_path):
        pass


def test_signals_that_a_system_lacks_are_left_out(monkeypatch):
    assert portable.signals("SIGINT", "SIGHUP", "SIGNONE") == (signal.SIGINT, signal.SIGHUP)


def test_users_limits_and_memory_are_unknown_where_nobody_tells(monkeypatch, tmp_path):
    assert 0.01 < portable.peak_memory() < 1000 and portable.is_own(tmp_path.stat())
    assert portable.open_files() is None or portable.open_files() > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    assert portable.peak_memory() != portable.peak_memory() and portable.open_files() is None
    tmp_path.chmod(0o777)
    assert not portable.is_own(tmp_path.stat())
    monkeypatch.delattr(os, "geteuid")
    assert portable.is_own(tmp_path.stat())


@pytest.mark.parametrize("error", [KeyError("no such number"), OSError(), ImportError("pwd")])
def test_somebody_without_a_name_gets_one(monkeypatch, error):
    def unknown():
        raise error

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setenv("USER", "")
    portable.name_user()
    assert os.environ["USER"] == f"uid{os.getuid()}"
    monkeypatch.delattr(os, "getuid")
    portable.name_user()
    assert os.environ["USER"] == "user"


def test_files_reach_the_disk_where_folders_cannot_be_opened(monkeypatch, tmp_path):
    opened, opening = [], os.open

    def as_on_windows(path, flags):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        opened.append(flags & os.O_ACCMODE)
        return opening(path, flags)

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "open", as_on_windows)
    monkeypatch.setattr(sys, "platform", "win32")
    portable.sync(tmp_path)
    portable.sync(tmp_path / "file")
    assert opened == [os.O_RDWR]


WINDOWS = """
import enum, errno, os, shutil, signal, subprocess, sys, types
import PIL.Image, numpy, rich.progress, safetensors.torch, torch, torchvision, torch.utils.data
import multiprocessing.spawn, torch.distributed.elastic.agent.server.local_elastic_agent

modules, calls, main_arguments = sys.argv[1].split(), sys.argv[2].split(), sys.argv[3].split("|")
for name in [name for name in sys.modules if name.split(".")[0] == "ibot"]:
    del sys.modules[name]
for name in modules:
    sys.modules[name] = None
held = {}
def locking(descriptor, mode, count):
    place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
    if mode == 0:
        held.pop(place, None)
    elif held.setdefault(place, descriptor) != descriptor:
        raise PermissionError(errno.EACCES, "Permission denied")
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_UNLCK=0, LK_NBLCK=2)
for name in calls:
    if hasattr(os, name) and name not in ("statvfs", "kill", "uname", "sysconf"):
        delattr(os, name)
real = os.open
def opening(path, flags, *more, **named):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return real(path, flags, *more, **named)
os.open = opening
kept = {"SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV"}
for name in set(signal.Signals.__members__) - kept | {"pthread_sigmask", "sigwaitinfo"}:
    if hasattr(signal, name):
        delattr(signal, name)
signal.Signals = enum.IntEnum("Signals", {name: int(getattr(signal, name)) for name in kept})
subprocess.run = lambda *a, **k: (_ for _ in ()).throw(OSError("no git"))
sys.platform = "win32"

from ibot.cli.main import main
from ibot.system import portable
assert portable.START_METHOD is None
codes = [main(words.split()) for words in main_arguments]
print("codes", codes)
"""


def photos(folder, count=24):
    generator = torch.Generator().manual_seed(3)
    for number in range(count):
        pixels = torch.randint(0, 256, (40, 48, 3), generator=generator, dtype=torch.uint8)
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(folder / str(number % 2) / f"{number}.png")
    return folder


def test_commands_work_without_what_windows_lacks(tmp_path):
    """Training, going on, features from the cache, shards, the doctor: nothing asks for more."""
    photos(tmp_path / "set")
    script = tmp_path / "windows.py"
    script.write_text(WINDOWS)
    training = "pretrain tiny32 --data set --run r train.batch=8 system.workers=0"
    commands = (
        f"{training} --steps 1",
        f"{training} --steps 2",
        "eval knn r --data set --split 0.5 --workers 0 --cache c",
        "eval knn r --data set --split 0.5 --workers 0 --cache c",
        "data pack set --to shards",
        "plan tiny32 --data set train.batch=8 system.workers=0",
        "doctor",
    )
    given = " ".join(POSIX_MODULES - {"msvcrt"}), " ".join(POSIX_CALLS), "|".join(commands)
    done = start_script(script, *given, cwd=tmp_path, HOME=str(tmp_path)).ended()
    assert f"codes {[0] * len(commands)}" in done.stdout, done.stdout + done.stderr
    assert "written and tested on Linux" in done.stdout and "memory not known here" in done.stdout
    assert (tmp_path / "shards").is_dir()


def test_batches_are_the_same_from_a_copy_as_spawned_processes_get_it(tmp_path):
    images = open_images(str(photos(tmp_path / "set")))
    config = recipe("tiny32")
    batches = MicroBatches(config, images, (4, 4), 0, 1)
    copy = pickle.loads(pickle.dumps(batches))
    indices = batches.indices(0, 0, 0)[:4]
    assert (copy.indices(0, 0, 0)[:4] == indices).all()
    ours, theirs = (one._read(indices, 0) for one in (batches, copy))
    assert torch.equal(ours.global_views, theirs.global_views)


SPAWNED = """
import sys
from ibot.cli.main import main
from ibot.system import portable

if __name__ == "__main__":
    portable.START_METHOD = sys.argv[1]
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_spawned_loader_processes_give_the_same_training_as_forked_ones(tmp_path):
    photos(tmp_path / "set")
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    rows = {}
    for method in ("fork", "spawn"):
        command = f"pretrain tiny32 --data set --run {method} --steps 2 train.batch=8 log.every=1"
        done = start_script(
            script, method, *command.split(), "system.workers=2", cwd=tmp_path
        ).ended()
        assert done.returncode == 0, done.stdout + done.stderr
        rows[method] = (tmp_path / method / "metrics.jsonl").read_text().splitlines()
        command = f"eval knn {method} --data set --split 0.5 --workers 1 --cache c-{method}"
        done = start_script(script, method, *command.split(), cwd=tmp_path).ended()
        assert done.returncode == 0, done.stdout + done.stderr
    losses = [[json.loads(row)["cls_loss"] for row in rows[method]] for method in rows]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert not multiprocessing.active_children()
