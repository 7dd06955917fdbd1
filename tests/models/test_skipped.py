"""Branches of the kept samples alone, against those of all samples times their factors."""

import pytest
import torch

from ibot.config.schema import ModelConfig
from ibot.kernels.choice import using
from ibot.models.backbone import build_backbone
from ibot.models.skipped import added

VIT = ModelConfig(width=24, depth=4, heads=3, patch=8)
SWIN = ModelConfig(
    kind="swin", width=12, depths=(2, 2), stage_heads=(1, 2), window=2, patch=4, drop_path=0.0
)
KINDS = {"vit": VIT, "scaled": ModelConfig(width=24, depth=3, heads=3, patch=8, layer_scale=0.5)}
KINDS["swin"] = SWIN


@pytest.mark.parametrize("dropped", ["some", "none", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_leaves_out_dropped_samples_is_the_same(kind, dropped):
    net = build_backbone(KINDS[kind], (32, 32), drop_path=0.5, masked=True).double().train()
    rates = torch.tensor(net.drop_rates)[:, None, None]
    drop = torch.where(torch.rand(len(rates), 2, 5) < 0.5, 0, 1 / (1 - rates))
    drop[1:] = {"some": drop[1:], "none": 2.0, "all": 0.0}[dropped]
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    rows, columns = net.token_grid(32, 32)
    mask = torch.rand(5, rows * columns) < 0.4
    chosen_rows = torch.arange(0, 5 * (1 + rows * columns), 3)
    outputs, gradients, said = [], [], []
    for mode in ("reference", "auto"):
        net.zero_grad()
        with using(mode) as choices:
            tokens = net.forward_rows(images, mask, chosen_rows, drop)
        said.append("dropped samples" in choices.taken)
        (tokens.sin() * torch.arange(len(tokens))[:, None]).sum().backward()
        outputs.append(tokens.detach())
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
    assert said == [False, dropped != "none"]
    torch.testing.assert_close(*outputs)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_the_branch_never_sees_a_dropped_sample():
    x, factor = torch.randn(4, 3, 2), torch.tensor([0.0, 2, 0, 1])
    x[[0, 2]] = float("nan")
    seen = []
    out = added(x, lambda part: seen.append(part) or part * 10, factor)
    assert torch.equal(seen[0], x[[1, 3]])
    torch.testing.assert_close(out[[1, 3]], x[[1, 3]] * torch.tensor([[[21.0]], [[11.0]]]))
    assert out[[0, 2]].isnan().all()


def test_bfloat16_branches_are_added_to_float32_tokens():
    x, factor = torch.randn(3, 2, 4), torch.tensor([0.0, 1.5, 0])
    out = added(x, lambda part: part.bfloat16(), factor)
    assert out.dtype is torch.float32 and torch.equal(out[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(out[1], x[1] * 2.5, rtol=2e-2, atol=1e-2)
