"""Heads and loss against what the sections say, computed plainly."""

import math

import pytest
import torch
import torch.nn.functional as F

from ibot.eval.dense.norm import BatchNorm
from ibot.eval.dense.segmentation.heads import (
    AuxiliaryHead,
    ChannelDropout,
    LinearHeads,
    UPerHead,
    pixel_loss,
    resized,
)
from ibot.eval.dense.segmentation.network import Segmenter
from ibot.models.layers import set_part


def test_the_loss_is_averaged_over_the_pixels_that_are_left_out_too():
    logits = torch.tensor([[[2.0, 0], [0, 1]], [[0, 2], [0, 1]]])[None]
    labels = torch.tensor([[0, 1], [-1, 0]])[None]
    assert pixel_loss(logits, labels).item() == pytest.approx(0.236751, abs=1e-6)
    assert F.cross_entropy(logits, labels, ignore_index=-1).item() == pytest.approx(0.315668)
    assert pixel_loss(logits, torch.full_like(labels, -1)).item() == 0


def test_scores_are_resized_to_the_labels_before_the_loss():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 9, 11))
    large = F.interpolate(logits, (9, 11), mode="bilinear", align_corners=False)
    assert pixel_loss(logits, labels).item() == pytest.approx(
        F.cross_entropy(large, labels).item(), abs=1e-6
    )


def test_resizing_scores_is_resizing_channels():
    heads = LinearHeads((4, 6, 2), 3, count=2)
    first, second = heads.classify
    assert torch.equal(first.weight, second.weight), "rates are compared from one start"
    torch.nn.init.normal_(first.bias)
    torch.nn.init.normal_(second.weight)
    maps = [torch.randn(2, c, s, s + 1) for c, s in ((4, 12), (6, 6), (2, 3))]
    joined = torch.cat([resized(one, (12, 13)) for one in maps], dim=1)
    same = [one[:, :, :2, :3] for one in maps]
    for head, large, small in zip(heads.classify, heads(maps), heads(same), strict=True):
        assert torch.allclose(large, head(joined), atol=1e-5)
        assert torch.equal(small, head(torch.cat(same, dim=1)))
    assert first.weight.std().item() == pytest.approx(0.01, rel=0.4)


def test_dropped_channels_are_drawn_for_every_image_of_a_step():
    dropout, maps = ChannelDropout(0.3).train(), torch.ones(6, 400, 2, 2)

    def drawn(images, part, parts):
        set_part(dropout, part, parts)
        torch.manual_seed(0)
        return dropout(images)

    whole = drawn(maps, 0, 1)
    for part in (0, 1):
        assert torch.equal(drawn(maps[part::2], part, 2), whole[part::2])
    values, counts = whole.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, 1 / 0.7])
    assert (counts[0] / counts.sum()).item() == pytest.approx(0.3, abs=0.03)
    assert (whole.flatten(2).std(dim=2) == 0).all()
    assert torch.equal(dropout.eval()(maps), maps)


def plain_upernet(head, maps):
    """The head written down as 8.11 has it."""

    def block(sequence, x):
        conv, norm = sequence[0], sequence[1]
        x = F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2)
        mean, scale = norm.running_mean, (norm.running_var + 1e-5).rsqrt() * norm.weight
        return F.relu((x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None])

    def up(x, like):
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)

    a, b, c, d = maps
    pooled = [
        up(block(pool[1], F.adaptive_avg_pool2d(d, side)), d)
        for side, pool in zip((1, 2, 3, 6), head.pools, strict=True)
    ]
    top = block(head.context, torch.cat([d, *pooled], 1))
    third = block(head.lateral[2], c) + up(top, c)
    second = block(head.lateral[1], b) + up(third, b)
    first = block(head.lateral[0], a) + up(second, a)
    outs = [block(head.smooth[i], x) for i, x in enumerate((first, second, third))]
    joined = torch.cat([outs[0], *(up(x, first) for x in (*outs[1:], top))], 1)
    return F.conv2d(block(head.join, joined), head.classify.weight, head.classify.bias)


def test_upernet_is_what_the_section_says():
    head = UPerHead((5, 6, 7, 8), 4, 3).eval()
    for part in head.modules():
        if isinstance(part, BatchNorm):
            torch.nn.init.normal_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    maps = [torch.randn(2, 5 + i, 16 >> i, 24 >> i) for i in range(4)]
    with torch.no_grad():
        assert torch.allclose(head(maps), plain_upernet(head, maps), atol=1e-5)
        assert head(maps).shape == (2, 3, 16, 24)
    assert all(c.bias is None for c in head.modules() if getattr(c, "padding", None) == (1, 1))


def test_the_published_heads_have_the_published_size():
    """Weights of the convolutions counted by hand, and two numbers a channel of a norm."""
    c, classes = 24, 150
    convs = 4 * c * c + 9 * 5 * c * c + 3 * c * c + 3 * 9 * c * c + 9 * 4 * c * c
    norms = 2 * c * (4 + 1 + 3 + 3 + 1)
    head, auxiliary = UPerHead((c,) * 4, c, classes), AuxiliaryHead(c, classes)
    assert sum(p.numel() for p in head.parameters()) == convs + norms + (c + 1) * classes
    expected = 9 * c * 256 + 512 + 257 * classes
    assert sum(p.numel() for p in auxiliary.parameters()) == expected


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_all_that_is_trained_gets_a_gradient_and_what_is_frozen_stays(network, kind, head):
    model = Segmenter(network(kind), head, 3, channels=8, drop_path=0.2).train()
    logits = model(torch.randn(2, 3, 32, 32))
    labels = torch.randint(-1, 3, (2, 32, 32))
    loss = model.loss(logits, labels)
    weighted = sum(w * pixel_loss(x, labels) for w, x in zip((1, 0.4), logits, strict=False))
    assert loss.item() == pytest.approx(weighted.item())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [p for p in model.backbone.parameters() if not p.requires_grad]
    assert model.backbone.training == (head == "upernet")
    assert (
        len(logits) == 2
        if head == "upernet"
        else len(frozen) == len(list(model.backbone.parameters()))
    )
    # A new head knows nothing.
    assert pixel_loss(logits[0], labels.clamp(min=0)).item() == pytest.approx(math.log(3), abs=0.4)
    assert len(model.eval()(torch.randn(1, 3, 32, 32))) == 1


def test_blocks_that_are_computed_again_give_the_same_gradients(network):
    def gradients(checkpointing):
        model = Segmenter(
            network(), "upernet", 3, channels=8, drop_path=0.5, checkpointing=checkpointing
        ).train()
        torch.manual_seed(1)
        labels = torch.zeros(2, 32, 32, dtype=torch.int64)
        model.loss(model(torch.ones(2, 3, 32, 32)), labels).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, again)
