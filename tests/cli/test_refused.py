"""Places that cannot be written, users without name or home: a remedy, or a way around."""

import argparse
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot.cli import main as command
from ibot.cli.main import main
from ibot.cli.refused import lack, refusal
from ibot.errors import ResourceError, UserError
from ibot.eval.opened import cache_folder
from ibot.eval.request import FEATURE_CACHE
from ibot.models.backbone import build_backbone
from ibot.recipes import recipe
from ibot.system import distributed
from ibot.system.places import make_writable

SMALL = [
    "model.width=24",
    "model.depth=1",
    "model.heads=2",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "train.batch=4",
    "system.workers=0",
]
LONG = "x" * 300


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images, weights of a network, a file, a link to nothing, and a folder that is read-only."""
    from PIL import Image

    root = tmp_path_factory.mktemp("world")
    for split in ("train", "val"):
        for name, level in (("dark", 40), ("light", 200)):
            (root / "data" / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (32, 32), (level, level, 10 * i)).save(
                    root / "data" / split / name / f"{i}.png"
                )
    torch.manual_seed(0)
    vit = build_backbone(replace(recipe("tiny32").model, width=64, depth=1, heads=1), (32, 32))
    torch.save(vit.state_dict(), root / "weights.pth")
    (root / "file").write_text("kept")
    (root / "link").symlink_to(root / "nothing")
    (root / "locked").mkdir(mode=0o555)
    return root


COMMANDS = {
    "--run": "pretrain tiny32 --data {root}/data --device cpu --steps 1 --run {place}",
    "--out": "eval knn {root}/weights.pth --data {root}/data --device cpu --cache {root}/c --out "
    "{place}",
    "--out ": "weights export {root}/weights.pth --to timm --out {place}",
    "--out  ": "weights export {root}/weights.pth --to published --out {place}.pth",
    "--out   ": "features {root}/weights.pth --data {root}/data --device cpu --out {place}.npz",
    "--run ": "weights convert {root}/weights.pth --run {place}",
}


@pytest.mark.parametrize("flag", COMMANDS)
@pytest.mark.parametrize("place", ["file/below", LONG, "link/below"])
def test_a_place_that_cannot_be_written_is_named_with_the_option(world, capsys, flag, place):
    command = COMMANDS[flag].format(root=world, place=world / place).split()
    assert main([*command, *(SMALL if command[0] == "pretrain" else [])]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ibot: error: '") or "the folder '" in err
    assert flag.strip() in err and str(world) in err and "Traceback" not in err
    assert (world / "file").read_text() == "kept" and not (world / "nothing").exists()


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="needs root for a mount of its own"
)
def test_a_read_only_working_folder_is_an_error_that_names_run(world):
    pretrain = (
        f"{sys.executable} -m ibot pretrain tiny32 --data {world}/data --steps 1 {' '.join(SMALL)}"
    )
    script = f"mount -t tmpfs -o ro tmpfs {world}/locked && cd {world}/locked && {pretrain}"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "Read-only file system" in done.stderr and "--run" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y"])
def test_a_folder_that_says_new_ones_do_not_exist_is_refused(world, capsys, place):
    assert main([*COMMANDS["--run"].format(root=world, place=place).split(), *SMALL]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "  fix:  name another with --run"


def options(**given):
    return argparse.Namespace(**{"run_folder": None, "out": "", "weights": "w", **given})


@pytest.mark.parametrize(
    ("error", "given", "kind", "words"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b/c"),
            {"out": "a/b"},
            UserError,
            "--out",
        ),
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), {}, UserError, "--run"),
        (OSError(errno.ENOSPC, "No space left on device"), {}, ResourceError, "a disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/b"), {}, ResourceError, "'a/b' is full"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found"),
            {},
            UserError,
            "TMPDIR",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "ours"), {}, None, ""),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "absent/a"),
            {"run_folder": "absent"},
            UserError,
            "--run",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "/ours"), {"run_folder": "/"}, None, ""),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "absent/a"),
            {"weights": "absent"},
            None,
            "",
        ),
        (OSError(errno.ENODEV, "No such device", "a/b"), {"out": "a"}, UserError, "--out"),
        (
            OSError(errno.EOPNOTSUPP, "Operation not supported", "a/b"),
            {"out": "a"},
            UserError,
            "--out",
        ),
        (OSError(errno.EPERM, "Operation not permitted"), {}, None, ""),
    ],
)
def test_only_refusals_of_the_system_are_told_as_errors_of_the_user(error, given, kind, words):
    told = refusal(error, options(**given))
    assert (told is None) if kind is None else (type(told) is kind and words in str(told))


def test_a_bus_error_of_a_loader_and_too_few_open_files_are_lacks():
    bus = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")
    assert "/dev/shm" in lack(bus).fix
    assert (
        "ulimit -n"
        in lack(RuntimeError("Too many open files. Communication is no longer possible")).fix
    )
    assert lack(RuntimeError("shapes differ")) is None


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "takes less memory")]
)
def test_what_the_system_lacks_is_no_bug_wherever_it_says_so(number, words):
    with pytest.raises(ResourceError) as caught, command._refusals(options()):
        raise OSError(number, os.strerror(number), "a.jpg")
    assert words in caught.value.fix


def test_the_launcher_itself_may_be_refused_a_place(world, monkeypatch, capsys):
    def launch(count, arguments):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("ibot.system.launch.launch", launch)
    assert main(["pretrain", "tiny32", "--data", str(world / "data"), "--processes", "2"]) == 2
    assert "TMPDIR" in capsys.readouterr().err


def test_a_place_is_refused_to_users_without_a_home_too(monkeypatch):
    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    refused = PermissionError(errno.EACCES, "Permission denied", "a/b/c")
    for cache in (FEATURE_CACHE, "~nobody-has-this-name/x"):
        assert "--plot" in refusal(refused, options(cache=cache, plot="a/b")).fix
    assert lack(RuntimeError("shapes differ")) is None


def test_features_are_kept_beside_the_results_where_the_home_cannot_be_written(
    world, monkeypatch, caplog
):
    monkeypatch.setenv("HOME", str(world / "file"))
    assert cache_folder(FEATURE_CACHE, world / "out") == world / "out" / "features"
    assert "Not a directory" in caplog.text and "features are kept in" in caplog.text
    monkeypatch.setenv("HOME", str(world / "home"))
    assert (
        cache_folder(FEATURE_CACHE, world / "out")
        == world / "home" / ".cache" / "ibot" / "features"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "caches"))
    assert cache_folder(FEATURE_CACHE, world / "out") == world / "caches" / "ibot" / "features"
    with pytest.raises(UserError, match="cannot be used"):
        cache_folder("~nobody-has-this-name/x", world)


NAMELESS = """
import getpass, os, pwd, sys
from pathlib import Path
from ibot.cli.main import main
for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
    os.environ.pop(name, None)
def unknown(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
code = main(sys.argv[1:])
print(getpass.getuser())  # torch's compiler names its cache so
sys.exit(code)
"""


def test_a_user_without_name_and_home_can_evaluate(world, tmp_path):
    command = COMMANDS["--out"].format(root=world, place=tmp_path / "out").split()
    del command[command.index("--cache") : command.index("--cache") + 2]
    done = subprocess.run(
        [sys.executable, "-c", NAMELESS, *command], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert f"uid{os.getuid()}" in done.stdout and (tmp_path / "out" / "features").is_dir()
    assert "features are kept in" in done.stderr


def test_processes_that_keep_features_in_different_folders_are_refused(world, monkeypatch, capsys):
    def gather(own):
        return [own, {name: "else" if "--cache" in name else own[name] for name in own}]

    monkeypatch.setattr(distributed, "gather", gather)
    command = COMMANDS["--out"].format(root=world, place=world / "differ").split()
    assert main(command) == 2
    assert "the processes differ in the folder of the features (--cache)" in capsys.readouterr().err


def test_processes_of_several_hosts_try_a_folder_at_the_same_time(tmp_path, monkeypatch):
    names, touch = [], Path.touch

    def touched(path):
        touch(path)
        names.append(path.name)
        path.unlink()  # as a container of the same name does on another host

    monkeypatch.setattr(Path, "touch", touched)
    for host in ("node1", "node2"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        make_writable(tmp_path)
    assert len(set(names)) == 2 and not list(tmp_path.iterdir())


def test_a_folder_is_made_and_tried_without_a_trace(tmp_path):
    make_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / LONG):
        with pytest.raises(OSError) as caught:
            make_writable(place)
        assert caught.value.filename == str(place)
