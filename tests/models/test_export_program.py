"""torch's own exporter takes the backbones as they are."""

import pytest
import torch

from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone

NETWORKS = {
    "vit": (
        ModelConfig(width=24, depth=1, heads=2, patch=8, registers=2, layer_scale=0.1),
        (32, 40),
    ),
    "mean": (ModelConfig(width=24, depth=1, heads=2, patch=8, mean_pooling=True), (32, 32)),
    "swin": (
        ModelConfig(kind="swin", width=16, depths=(2, 2), stage_heads=(1, 2), window=4, patch=4),
        (48, 48),
    ),
}


CASES = [
    # Tracing takes seconds each; one is in the default selection.
    pytest.param(name, strict, marks=[] if (name, strict) == ("vit", False) else [pytest.mark.slow])
    for name in NETWORKS
    for strict in (False, True)
]


@pytest.mark.parametrize(("name", "strict"), CASES)
@torch.no_grad()
def test_a_backbone_is_exported_with_any_batch(name, strict):
    config, size = NETWORKS[name]
    torch.manual_seed(0)
    backbone = build_backbone(config, size).eval()
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(
        backbone, (torch.randn(2, 3, *size),), dynamic_shapes=dynamic, strict=strict
    )
    for batch in (1, 5):
        images = torch.randn(batch, 3, *size)
        got, want = program.module()(images), backbone(images)
        torch.testing.assert_close(got.cls, want.cls, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.patches, want.patches, rtol=1e-5, atol=1e-6)
        assert got.grid == want.grid
