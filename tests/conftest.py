import os
from pathlib import Path

import pytest
from docs_world import docs_here, docs_world
from photos_world import photos_world

from ibot.system.waiting import spin_shortly

__all__ = ["docs_here", "docs_world", "photos_world"]

spin_shortly()  # before torch is loaded, here and in the processes that tests start

HERE = Path(__file__).parent


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
