"""The projection head against layers applied one after the other."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibot.config.schema import HeadConfig
from ibot.models.head import ProjectionHead, at_least_float32

SIZES = HeadConfig(out_dim=11, patch_out_dim=7, hidden_dim=10, bottleneck_dim=5)


def head_of(shared, **changes):
    torch.manual_seed(1)
    config = replace(SIZES, **changes)
    head = ProjectionHead(6, config, shared).double().train()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return head, config


def plain_norm(module, x):
    """Of rows, by the definition of each norm in training."""
    axis = 0 if isinstance(module, nn.BatchNorm1d) else 1
    centred = x - x.mean(axis, keepdim=True)
    variance = centred.square().mean(axis, keepdim=True)
    return centred / (variance + 1e-5).sqrt() * module.weight + module.bias


def plain_mlp(layers, config, x):
    """Linear, [norm], activation ...; the last one plain."""
    layers = list(layers)
    while layers:
        x = x @ layers[0].weight.T + layers.pop(0).bias
        if layers and config.norm != "none":
            x = plain_norm(layers.pop(0), x)
        if layers:
            x = {"gelu": F.gelu, "relu": F.relu}[config.act](x)
            layers.pop(0)
    return x


def cosines(z, layer):
    """Row by row: length of the prototype times its cosine with z."""
    rows = [
        [gain * (x @ v) / v.norm() for gain, v in zip(layer.weight_g, layer.weight_v, strict=True)]
        for x in z
    ]
    return torch.stack([torch.cat(row) for row in rows])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("layers", "norm", "norm_shared", "act"),
    [
        (3, "none", False, "gelu"),
        (2, "bn", False, "relu"),
        (3, "bn", True, "gelu"),
        (3, "ln", False, "relu"),
        (1, "none", False, "gelu"),
    ],
)
def test_logits_are_those_of_layers_one_after_the_other(shared, layers, norm, norm_shared, act):
    head, config = head_of(shared, layers=layers, norm=norm, norm_shared=norm_shared, act=act)
    cls, patches = torch.randn(4, 6).double(), torch.randn(9, 6).double()
    parts = head.mlp if layers > 1 else [head.mlp]
    assert [type(part) for part in parts].count(nn.Linear) == layers
    assert head.sees_batch == (norm == "bn")
    z = F.normalize(plain_mlp(parts, config, torch.cat([cls, patches])), dim=1)
    got = head.project_both(cls, patches)
    torch.testing.assert_close(torch.cat(got), z)
    assert [len(part) for part in got] == [4, 9]
    if norm_shared:
        assert head.mlp[1] is head.mlp[4]
    own = head.last_layer if shared else head.last_layer2
    logits = head.logits(*got)
    want = (cosines(z[:4], head.last_layer), cosines(z[4:], own))
    torch.testing.assert_close(logits, want)
    assert logits[1].shape == (9, 11 if shared else 7)


@pytest.mark.parametrize(("shared", "layers"), [(True, 3), (True, 1), (False, 3), (False, 1)])
def test_without_a_bottleneck_the_last_layers_are_plain(shared, layers):
    head, config = head_of(shared, layers=layers, bottleneck_dim=0)
    cls, patches = torch.randn(3, 6).double(), torch.randn(5, 6).double()
    hidden = torch.cat([cls, patches])
    if layers > 1:
        hidden = F.gelu(plain_mlp(head.mlp[:-2], config, hidden))
    got = head.project_both(cls, patches)
    torch.testing.assert_close(torch.cat(got), hidden)
    last = head.mlp[-1] if layers > 1 else head.mlp
    assert last.out_features == 11 and head.cls_layer is last
    other = last if shared else head.mlp2
    assert head.patch_layer is other and other.out_features == (11 if shared else 7)
    torch.testing.assert_close(head.logits(*got), (last(hidden[:3]), other(hidden[3:])))


@pytest.mark.parametrize("common", [0, 1, 2])
@pytest.mark.parametrize("norm", ["none", "ln"])
def test_patches_leave_the_common_layers_where_it_was_asked(common, norm):
    head, config = head_of(True, shared_layers=common, norm=norm)
    cls, patches = torch.randn(3, 6).double(), torch.randn(5, 6).double()
    whole, own = list(head.mlp), list(head.patch_mlp)
    linear = [place for place, part in enumerate(whole) if isinstance(part, nn.Linear)]
    assert len(own) == len(whole) - linear[common]
    assert [type(part) for part in own] == [type(part) for part in whole[linear[common] :]]
    got = head.project_both(cls, patches)
    way = [*whole[: linear[common]], *own]
    torch.testing.assert_close(got[0], F.normalize(plain_mlp(whole, config, cls), dim=1))
    torch.testing.assert_close(got[1], F.normalize(plain_mlp(way, config, patches), dim=1))
    assert not {*map(id, own)} & {*map(id, whole)}


def test_lengths_of_prototypes_start_at_one_and_are_trained_unless_they_are_to_stay():
    for fixed in (True, False):
        head = ProjectionHead(6, HeadConfig(out_dim=4, norm_last_layer=fixed), shared=False)
        for layer in (head.last_layer, head.last_layer2):
            assert (layer.weight_g == 1).all() and layer.weight_g.shape[1] == 1
            assert layer.weight_g.requires_grad != fixed and layer.weight_v.requires_grad


@pytest.mark.parametrize("init", ["published", "xavier"])
def test_linear_layers_start_by_their_scheme_and_patch_layers_too(init):
    torch.manual_seed(0)
    sizes = HeadConfig(hidden_dim=96, bottleneck_dim=64, shared_layers=1)
    head = ProjectionHead(64, sizes, shared=True, init=init)
    for part in (*head.mlp, *head.patch_mlp):
        if isinstance(part, nn.Linear):
            spread = 0.02 if init == "published" else (2 / sum(part.weight.shape)) ** 0.5
            assert part.weight.std().item() == pytest.approx(spread, rel=0.05)
            assert (part.bias == 0).all()


def test_only_half_precision_is_widened():
    for kind, wide in (
        (torch.float16, 4),
        (torch.bfloat16, 4),
        (torch.float32, 4),
        (torch.float64, 8),
    ):
        assert at_least_float32(torch.zeros(1, dtype=kind)).element_size() == wide
    head = ProjectionHead(6, SIZES, shared=True)
    with torch.autocast("cpu", torch.bfloat16):
        cls, patches = head.logits(torch.randn(2, 5), torch.randn(3, 5))
    assert cls.dtype is patches.dtype is torch.float32


@pytest.mark.parametrize("layers", [{}, {"shared_layers": 1}])
def test_rows_of_residual_patches_are_less_the_mean_of_their_view(layers):
    config = HeadConfig(out_dim=9, patch_out_dim=9, hidden_dim=7, bottleneck_dim=5, **layers)
    head = ProjectionHead(6, config, shared=True, residual=True).double()
    patches = torch.randn(3, 4, 6, dtype=torch.float64)
    rows = head.patch_rows(patches)
    for view, found in zip(patches, rows, strict=True):
        z = head.project_patches(view)
        wanted = [row - sum(z) / 4 for row in z]
        torch.testing.assert_close(found, torch.stack([row / row.norm() for row in wanted]))
    head.residual = False
    plain = head.project_patches(patches.flatten(0, 1)).unflatten(0, (3, 4))
    assert torch.equal(head.patch_rows(patches), plain)
