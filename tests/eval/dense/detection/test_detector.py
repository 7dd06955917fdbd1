"""The whole detector: losses at the start, gradients, shapes, and what must not change numbers."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from drawn_objects import SMALL, SWIN, VIT, drawn_batch, small_detector

from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.detector import Detector
from ibot.eval.dense.detection.target import Target
from ibot.eval.dense.detection.training import padded_to
from ibot.eval.dense.detection.views import Sample, collate
from ibot.models.layers import resample_positions

BACKBONES = pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])


def gradients(detector, batch):
    """Sum of the losses and the gradient of each parameter."""
    detector.train().zero_grad()
    torch.manual_seed(0)  # of stochastic depth
    total = sum(detector(batch, Draws(0, 0)).values())
    total.backward()
    return total.item(), {
        name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None
    }


@BACKBONES
def test_losses_start_where_an_untrained_network_guesses(config):
    settings = replace(SMALL, channels=64, samples=64, anchors=256)
    detector, batch = small_detector(config, 80, settings).train(), drawn_batch()
    losses = {name: loss.item() for name, loss in detector(batch, Draws(0, 0)).items()}
    weights = (1, 0.5, 0.25)
    classes = [losses[f"class_{i + 1}"] / weight for i, weight in enumerate(weights)]
    assert classes == pytest.approx([math.log(81)] * 3, abs=0.1)  # 4.394
    assert sum(losses[f"class_{i}"] for i in (1, 2, 3)) == pytest.approx(7.69, abs=0.15)
    assert losses["proposal_class"] == pytest.approx(math.log(2), abs=0.02)
    masks = [losses[f"mask_{i + 1}"] / weight for i, weight in enumerate(weights)]
    # Of few boxes, and the published start of the last layer spreads the logits of large features:
    # those of a Swin come from a layer norm.
    assert masks == pytest.approx([math.log(2)] * 3, abs=0.25 if config is VIT else 0.6)
    assert len(losses) == 11


@BACKBONES
@pytest.mark.parametrize("counts", [(2, 1), (0, 0)], ids=["objects", "nothing to see"])
def test_every_parameter_that_is_trained_has_a_gradient(config, counts):
    detector = small_detector(config)
    _, found = gradients(detector, drawn_batch(counts=counts))
    trained = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    still = {name for name, p in detector.named_parameters() if not p.requires_grad}
    assert still == {"backbone.norm.weight", "backbone.norm.bias", "backbone.masked_embed"}
    if counts == (2, 1):
        # No box of such small images is looked at on the coarse levels.
        zero = {name for name, gradient in found.items() if not gradient.any()}
        assert {name.rpartition(".")[0] for name in zero} == {"fpn.smooth.2", "fpn.smooth.3"}
    else:  # nothing says where an object is
        assert not found["cascade.box_heads.0.delta.weight"].any()
        assert found["cascade.box_heads.0.score.weight"].any()


@BACKBONES
def test_five_levels_halve_and_the_last_is_every_second_cell(config):
    detector = small_detector(config).eval()
    levels = detector._levels(torch.randn(2, 3, 96, 128))
    assert detector.strides == (4, 8, 16, 32, 64)
    assert [one.shape for one in levels] == [
        (2, 32, h, w) for h, w in ((24, 32), (12, 16), (6, 8), (3, 4), (2, 2))
    ]
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


def test_the_pyramid_adds_coarse_maps_to_fine_ones():
    fpn = small_detector().fpn
    maps = [torch.randn(1, 32, side, side) for side in (16, 8, 4, 2)]
    lateral = [conv(one) for conv, one in zip(fpn.lateral, maps, strict=True)]
    for fine in (2, 1, 0):
        up = lateral[fine + 1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        lateral[fine] = lateral[fine] + up
    for got, one, conv in zip(fpn(maps), lateral, fpn.smooth, strict=False):
        torch.testing.assert_close(got, conv(one))


def test_patches_of_32_pixels_make_a_pyramid_of_the_smallest_image():
    settings = replace(SMALL, short=32, long=32, policy="none")
    detector = small_detector(replace(VIT, patch=32), settings=settings).eval()
    assert detector.strides == (8, 16, 32, 64, 128)
    image = Sample(
        image=torch.randn(3, 32, 32),
        target=Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None),
        factors=(1.0, 1.0),
        index=0,
        bad=[],
    )
    batch = collate([image], padded_to(detector)).batch
    assert batch.images.shape == (1, 3, 64, 64)
    (found,) = detector.detect(batch)
    assert found.masks.shape[1:] == (32, 32)


@BACKBONES
def test_detections_are_of_the_files_size(config):
    detector = small_detector(config).eval()
    with torch.no_grad():
        for head in detector.cascade.box_heads:
            head.score.weight.mul_(100)  # so that some class is likely
    found = detector.detect(drawn_batch())
    for one, (height, width) in zip(found, ((180, 240), (140, 256)), strict=True):
        count = len(one.scores)
        assert 0 < count <= 100 and one.boxes.shape == (count, 4)
        assert one.masks.shape == (count, height, width) and one.masks.dtype == torch.bool
        assert one.boxes.min() >= 0 and one.boxes[:, 2].max() <= width
        assert one.boxes[:, 3].max() <= height
        assert (one.scores[:-1] >= one.scores[1:]).all() and one.labels.max() < 3
        assert not one.scores.requires_grad


def test_what_one_image_gives_does_not_hang_on_the_others_of_its_micro_batch():
    detector = small_detector().eval()
    batch, (first, second) = drawn_batch(), detector.detect(drawn_batch())
    alone = replace(
        batch,
        images=batch.images[1:],
        sizes=batch.sizes[1:],
        targets=batch.targets[1:],
        factors=batch.factors[1:],
        index=batch.index[1:],
    )
    (only,) = detector.detect(alone)
    torch.testing.assert_close(only.scores, second.scores, atol=1e-5, rtol=1e-4)
    assert len(first.scores) != len(only.scores) or first.scores[0] != only.scores[0]


@BACKBONES
def test_blocks_that_are_computed_again_change_no_number(config):
    batch = drawn_batch()
    settings = replace(SMALL, drop_path=0.4)
    plain = gradients(
        small_detector(config, settings=replace(settings, checkpointing=False)), batch
    )
    again = gradients(small_detector(config, settings=replace(settings, checkpointing=True)), batch)
    other = gradients(small_detector(config, settings=replace(settings, drop_path=0.0)), batch)
    assert plain[0] == again[0] != other[0]
    assert plain[1].keys() == again[1].keys()
    for name, gradient in plain[1].items():
        assert torch.equal(gradient, again[1][name]), name


def test_blocks_are_really_computed_again():
    calls = []
    detector = small_detector()
    detector.backbone.blocks[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(detector, drawn_batch())
    assert len(calls) == 2
    detector.eval().detect(drawn_batch())
    assert len(calls) == 3


def test_products_in_bfloat16_give_about_the_same_losses():
    detector, batch = small_detector().train(), drawn_batch()
    exact = detector(batch, Draws(0, 0))
    with torch.autocast("cpu", torch.bfloat16):
        rough = detector(batch, Draws(0, 0))
    assert exact.keys() == rough.keys()
    for name in ("proposal_class", "class_1", "class_2", "class_3"):
        # Eight bits of mantissa.
        assert rough[name].item() == pytest.approx(exact[name].item(), rel=0.02)
        assert rough[name].item() != exact[name].item() and rough[name].dtype == torch.float32


def test_draws_hang_on_the_images_not_on_their_order():
    settings = replace(SMALL, samples=8, anchors=8, norm="group")
    batch, turned = drawn_batch(), drawn_batch((1, 0), (1, 2), ((70, 128), (90, 120)))
    detector = small_detector(settings=settings).eval()  # without statistics of the batch
    one, other = (detector(which, Draws(0, 5)) for which in (batch, turned))
    later = detector(batch, Draws(0, 6))
    for name in one:
        assert one[name].item() == pytest.approx(other[name].item(), rel=1e-5, abs=1e-6)
    assert one["class_1"].item() != later["class_1"].item()


def test_the_position_table_is_resampled_once_without_the_published_shift():
    torch.manual_seed(0)
    plain = small_detector(settings=SMALL).backbone
    fitted = small_detector(settings=replace(SMALL, table=(160, 224))).backbone
    expected = resample_positions(plain.pos_embed[:, 1:], (4, 4), (10, 14), "exact")
    assert fitted.table_grid == (10, 14)
    assert torch.equal(fitted.pos_embed[:, 1:], expected)
    assert torch.equal(fitted.pos_embed[:, :1], plain.pos_embed[:, :1])
    # To the grid of an input it comes with the shift (variant A).
    seen = fitted.positions((6, 8), square=False)
    shifted = resample_positions(fitted.pos_embed[:, 1:], (10, 14), (6, 8), "published")
    assert torch.equal(seen[:, 1:], shifted)


def test_new_weights_hang_on_the_seed_alone_and_leave_the_generator():
    detectors = []
    for state in (5, 99):
        backbone = copy.deepcopy(small_detector().backbone)
        torch.manual_seed(state)
        detectors.append(Detector(backbone, 3, SMALL, seed=1))
        drawn = torch.rand(3)
        torch.manual_seed(state)
        assert torch.equal(drawn, torch.rand(3))
    for a, b in zip(*(one.parameters() for one in detectors), strict=True):
        assert torch.equal(a, b)
    other = Detector(copy.deepcopy(detectors[0].backbone), 3, SMALL, seed=2)
    assert not torch.equal(other.rpn.conv.weight, detectors[0].rpn.conv.weight)
    assert not torch.equal(other.pyramid.steps[1].weight, detectors[0].pyramid.steps[1].weight)


def test_new_layers_start_as_published():
    detector = small_detector(settings=replace(SMALL, channels=128, hidden=256), num_classes=20)

    def std(weight):
        return weight.std().item()

    box, mask = detector.cascade.box_heads[1], detector.cascade.mask_heads[2]
    for weight in (detector.rpn.conv.weight, detector.rpn.score.weight, detector.rpn.delta.weight):
        assert std(weight) == pytest.approx(0.01, rel=0.1)
    assert std(box.score.weight) == pytest.approx(0.01, rel=0.05)
    assert std(box.delta.weight) == pytest.approx(0.001, rel=0.05)
    # kaiming normal by what leaves: 2 / (9 * channels).
    for conv in (box.convs[0][0], mask.convs[2]):
        assert std(conv.weight) == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.05)
    assert std(mask.score.weight) == pytest.approx(math.sqrt(2 / 20), rel=0.1)
    # xavier uniform: the largest value is sqrt(6 / (in + out)).
    assert box.fc.weight.abs().max().item() == pytest.approx(
        math.sqrt(6 / (128 * 49 + 256)), rel=0.01
    )
    lateral = detector.fpn.lateral[0].weight
    assert lateral.abs().max().item() == pytest.approx(math.sqrt(6 / (32 + 128)), rel=0.02)
    for part in (detector.fpn, detector.rpn, detector.cascade):
        biases = [p for name, p in part.named_parameters() if name.endswith("bias")]
        assert biases and not any(bias.any() for bias in biases)
