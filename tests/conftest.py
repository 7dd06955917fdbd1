import gc
import os
import sys
from pathlib import Path

import pytest
from docs_world import docs_here, docs_world
from photos_world import photos_world

from ibot.system.waiting import spin_shortly

__all__ = ["docs_here", "docs_world", "photos_world"]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks of tests are too small to share
if not Path("/dev/nvidiactl").exists():  # kernels for a GPU run in their interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")  # which Triton asks when it is imported
spin_shortly()  # before torch is loaded, here and in the processes that tests start
os.fsync = lambda handle: None  # no test cuts the power, and each waits for the disk
gc.set_threshold(20_000, 20, 20)  # of all libraries together there are millions of objects

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Trainings end with reports without pictures, which cost more than they do.

    In processes of their own they end as users' do.
    """
    if ending := sys.modules.get("ibot.studies.ending"):
        monkeypatch.setattr(ending, "PICTURES", 0)


@pytest.fixture
def golden() -> Path:
    """Folder of golden cases: IBOT_GOLDEN or the subset kept here."""
    return Path(os.environ.get("IBOT_GOLDEN", HERE / "golden"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real test images: IBOT_SHARED_DATA, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("IBOT_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real test images in {folder}; set IBOT_SHARED_DATA")
    return folder


@pytest.fixture
def largest_tensor():
    """The mode that notes the largest tensor."""
    from tensors import LargestTensor

    return LargestTensor
