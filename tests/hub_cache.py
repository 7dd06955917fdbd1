"""Small networks where the library of the hub keeps what it has downloaded, and no network."""

from pathlib import Path

import pytest
import torch

from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone
from ibot.weights import hub
from ibot.weights.write import save_tensors


def offline_hub(folder: Path, repositories: list[str], patch: pytest.MonkeyPatch) -> None:
    """Leave a network in `folder` for each of the repositories (OWNER--NAME), seen from now on.

    Who asks clears `hub.from_hub`'s memory at the end. Skips the test without the library.
    """
    constants = pytest.importorskip("huggingface_hub.constants")
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(width=64, depth=2, heads=1, patch=8), (32, 32))
    for name in repositories:
        place = folder / f"models--{name}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0123")
        (place / "snapshots" / "0123").mkdir(parents=True)
        save_tensors(backbone.state_dict(), place / "snapshots" / "0123" / "model.safetensors", {})
    patch.setattr(constants, "HF_HUB_CACHE", str(folder))
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.from_hub.cache_clear()
