"""What `ibot doctor` says of machines that lack something; each is played by taking it away."""

import json
import os
import re
import shutil
import time
from types import SimpleNamespace

import pytest

from ibot import extras
from ibot.cli import checkup
from ibot.cli.main import main
from ibot.system import limits, portable


@pytest.fixture
def doctor(capsys):
    """Ask the doctor: the exit code, and each check by its name."""

    def ask():
        code = main(["doctor", "--json"])
        said = json.loads(capsys.readouterr().out)
        assert said["works"] is (code == 0)
        return code, {check["name"].strip(): check for check in said["checks"]}

    return ask


def test_a_whole_machine_is_ready_and_every_line_says_something(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("verdict        ready; next: ibot pretrain auto --data DIR")
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_where_nothing_can_be_written_the_next_command_names_another_place(capsys, monkeypatch):
    monkeypatch.setattr("ibot.system.places.is_writable", lambda folder: False)
    assert main(["doctor"]) == 0
    assert "ibot pretrain auto --data DIR --run DIR " in capsys.readouterr().out


def test_text_and_json_tell_the_same(capsys, doctor):
    _, checks = doctor()
    main(["doctor"])
    text = capsys.readouterr().out
    assert all(name in text for name in checks)
    assert checks["kernel"]["found"] in text and checks["disk"]["fatal"] is False


def test_each_kernel_that_is_not_there_is_named_with_what_builds_it(doctor, monkeypatch):
    from ibot.kernels import blocks, views

    for there in (True, False):
        monkeypatch.setattr(views, "is_built", lambda there=there: there)
        monkeypatch.setattr(blocks, "is_built", lambda there=there: not there)
        code, checks = doctor()
        assert code == 0
        assert ("install ibot again" in checks["kernel"]["advice"]) is not there
        assert ("install ibot again" in checks["CPU blocks"]["advice"]) is there


def test_a_package_that_is_needed_and_absent_or_old_is_fatal(doctor, monkeypatch, capsys):
    found = extras.installed
    monkeypatch.setattr(
        extras, "installed", lambda name: "1.13" if name == "numpy" else found(name)
    )
    code, checks = doctor()
    (need,) = (need for need in extras.needed() if need.startswith("numpy"))
    assert code == 2 and checks["numpy"]["advice"] == extras.command([need])
    assert "1.13" in checks["numpy"]["found"] and "device" not in checks
    main(["doctor"])
    assert "verdict        nothing works before this is mended: numpy" in capsys.readouterr().out


@pytest.mark.parametrize(("package", "code"), [("torchvision", 0), ("safetensors", 2)])
def test_a_package_that_cannot_be_imported_is_named_with_the_reason(
    doctor, monkeypatch, package, code
):
    def broken(name):
        if name == package:
            raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(checkup, "importlib", SimpleNamespace(import_module=broken))
    found, checks = doctor()
    assert found == code and "nms does not exist" in checks[package]["found"]
    assert ("device" in checks) is (code == 0)
    assert ("both from one place" in checks[package]["advice"]) is (package == "torchvision")


def test_what_an_extra_lacks_is_named_with_what_installs_it(doctor, monkeypatch):
    found = extras.installed
    monkeypatch.setattr(extras, "installed", lambda name: "" if name == "scipy" else found(name))
    _, checks = doctor()
    assert checks["eval"]["found"] == "lacks scipy"
    assert checks["eval"]["advice"] == extras.command(extras.missing("eval"))
    assert "eval" not in checks["extras"]["found"] and "show" in checks["extras"]["found"]


def test_a_device_on_which_nothing_can_be_computed_is_fatal(doctor, monkeypatch):
    import torch

    def fail(*_, **__):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch, "ones", fail)
    code, checks = doctor()
    assert code == 2 and "no kernel image" in checks["device"]["found"]


def test_a_driver_without_a_torch_that_knows_it_is_told(doctor, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "this torch knows CPUs alone" in doctor()[1]["GPUs"]["advice"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "torch sees none" in doctor()[1]["GPUs"]["advice"]


def test_places_that_cannot_be_written_are_named_with_what_to_do(doctor, monkeypatch):
    monkeypatch.setattr(checkup, "is_writable", lambda folder: False)
    code, checks = doctor()
    assert code == 0 and "--run for trainings" in checks["disk"]["advice"]
    assert "features are kept beside results" in checks["cache"]["found"]


def test_nobody_without_a_home_and_without_a_place_for_temporary_files(doctor, monkeypatch):
    def nowhere(*_):
        raise RuntimeError("Could not determine home directory.")

    def full():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(checkup, "expanded", nowhere)
    assert "there is no home folder" in doctor()[1]["cache"]["found"]
    monkeypatch.setattr(checkup.tempfile, "gettempdir", full)
    code, checks = doctor()
    assert code == 2 and "TMPDIR" in checks["temporary"]["advice"]


def test_narrow_limits_are_told(doctor, monkeypatch):
    real = shutil.disk_usage
    small = SimpleNamespace(free=64 * 2**20)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda at: small if str(at) == "/dev/shm" else real(at)
    )
    monkeypatch.setattr(portable, "open_files", lambda: 256)
    monkeypatch.setattr(limits, "core_limit", lambda: 1.5)
    _, checks = doctor()
    assert "--shm-size=8g" in checks["shared"]["advice"]
    assert checks["files"]["advice"] == "ulimit -n 65536"
    assert "a container allows 1.5" in checks["cores"]["found"]


def test_systems_that_tell_less_are_no_fault(doctor, monkeypatch):
    monkeypatch.setattr(portable, "open_files", lambda: None)
    monkeypatch.setattr(limits, "memory", lambda: float("nan"))
    monkeypatch.setattr(checkup.sys, "platform", "darwin")
    code, checks = doctor()
    assert code == 0 and checks["memory"]["found"] == "not known on this system"
    assert "docs/installing.md" in checks["system"]["advice"]


def test_clocks_that_are_wrong_or_differ_are_told(doctor, monkeypatch):
    now, about = time.time, os.fstat
    monkeypatch.setattr(checkup.time, "time", lambda: now() - 3600)
    found = doctor()[1]["clock"]["found"]
    assert re.search(r"disk here is \+(359|36\d)\d s off", found)
    # Others ask for more of a file than its time.
    long_ago = lambda number: os.stat_result([*about(number)[:7], 0, 0, 0])  # noqa: E731
    monkeypatch.setattr(os, "fstat", long_ago)
    monkeypatch.setattr(checkup.time, "time", lambda: 0.0)
    assert "it is wrong" in doctor()[1]["clock"]["advice"]


def test_a_terminal_that_knows_other_letters_is_told(doctor, monkeypatch):
    monkeypatch.setattr(checkup, "locale", SimpleNamespace(getencoding=lambda: "cp1252"))
    if not checkup.sys.flags.utf8_mode:
        assert "PYTHONUTF8=1" in doctor()[1]["encoding"]["advice"]
