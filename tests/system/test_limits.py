"""What control groups of either form allow, from folders as Linux shows them."""

import os

import pytest

from ibot.system import limits
from ibot.system.machine import usable_cores

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Lay out groups: `groups(lines of /proc/self/cgroup, {file: text})`."""

    def lay(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)

    monkeypatch.setattr(limits, "OWN", tmp_path / "own")
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "groups")
    return lay


def test_the_narrowest_group_above_this_process_counts(groups):
    groups(
        "0::/job/step\n",
        {
            "job/cpu.max": "150000 100000\n",
            "job/step/cpu.max": "max 100000\n",
            "job/memory.max": f"{8 * GIB}\n",
            "job/step/memory.max": f"{3 * GIB}\n",
            "other/cpu.max": "1000 100000\n",
            "other/memory.max": "1\n",
        },
    )
    assert limits.core_limit() == 1.5 and limits.memory_limit() == 3
    assert usable_cores() == min(2, len(os.sched_getaffinity(0)))


def test_a_container_sees_its_own_group_as_the_root(groups):
    groups("0::/docker/1a2b\n", {"cpu.max": "50000 100000\n", "memory.max": f"{GIB}\n"})
    assert limits.core_limit() == 0.5 and limits.memory() == 1 and usable_cores() == 1


def test_the_older_form_has_a_folder_for_each_kind(groups):
    groups(
        "4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/\n0::/\n",
        {
            "memory/a/memory.limit_in_bytes": f"{2 * GIB}\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n",
            "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "unified/cgroup.procs": "",
        },
    )
    assert limits.core_limit() == 4 and limits.memory_limit() == 2


@pytest.mark.parametrize("text", ["max 100000\n", "-1 100000\n", "", "word\n", "0 100000\n"])
def test_without_a_limit_the_machine_is_what_counts(groups, text):
    groups("0::/\n", {"cpu.max": text, "memory.max": "max\n"})
    assert limits.core_limit() is None and limits.memory_limit() is None
    assert limits.memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def test_systems_without_groups_or_sizes_have_no_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "OWN", tmp_path / "absent")
    assert limits.core_limit() is None and limits.memory_limit() is None
    monkeypatch.delattr(os, "sysconf")
    assert limits.memory() != limits.memory()
