"""What a process keeps of the memory that it frees."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

MANY = """
import resource, torch
from contextlib import nullcontext
from ibot.system.freed import freed_memory_kept

def rss():
    return int(open("/proc/self/statm").read().split()[1])

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    return [torch.ones(2**21) for _ in range(12)]  # 12 x 8 MiB

def again(times=3):
    step()
    before = faults()
    for _ in range(times):
        step()
    return (faults() - before) / times

torch.ones(1)
begun = rss()
plain = again()
with freed_memory_kept():
    kept, within = again(), rss()
print(plain, kept, (within - begun), (rss() - begun))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_pages_are_not_asked_for_again_within_and_go_back_at_the_end():
    root = Path(__file__).parents[2] / "src"
    answer = subprocess.run(
        [sys.executable, "-c", MANY],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    plain, kept, more, left = map(float, answer.stdout.split())
    pages = 12 * 2**23 / resource.getpagesize()
    assert plain > 0.2 * pages  # or this test shows nothing
    assert kept < 0.05 * pages
    assert more > 0.8 * pages
    assert left < 0.2 * pages
