import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ibot.data.decode import UnreadableImage
from ibot.data.pixels import MEAN, STD, normalize
from ibot.errors import DataError, MissingExtra
from ibot.eval.tune.augment import (
    Mixing,
    TrainingViews,
    ValidationViews,
    deal,
    epoch_size,
    finetune_transform,
    seeded,
    validation_view,
)
from ibot.eval.tune.settings import FinetuneSettings, imagenet_settings, semi_supervised_settings
from ibot.rng import permutation

SETTINGS = FinetuneSettings()


class Pictures:
    """Smooth noise; some numbers cannot be read."""

    def __init__(self, count=6, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{index}.png"

    def label(self, index):
        return index % 3

    def read(self, index):
        if index in self.broken:
            raise UnreadableImage("corrupt")
        coarse = np.random.default_rng(index).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        return np.asarray(
            Image.fromarray(coarse).resize((50, 60 + index), Image.Resampling.BICUBIC)
        )


def views(images, seed=0, settings=SETTINGS):
    return TrainingViews(images, finetune_transform(settings, 32), seed)


def test_the_training_transform_is_the_published_list():
    text = str(finetune_transform(SETTINGS, 224))
    order = [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandAugment",
        "ToTensor",
        "Normalize",
        "RandomErasing",
    ]
    places = [text.index(word) for word in order]
    assert places == sorted(places)
    crop, _, augment, _, norm, erasing = finetune_transform(SETTINGS, 224).transforms
    assert (
        crop.interpolation.value == "bicubic"
        and crop.scale == (0.08, 1.0)
        and crop.ratio == (3 / 4, 4 / 3)
    )
    assert len(augment.ops) == 15 and augment.num_layers == 2
    assert all((op.prob, op.magnitude, op.magnitude_std) == (0.5, 9, 0.5) for op in augment.ops)
    assert erasing.probability == 0.25 and erasing.per_pixel and erasing.max_count == 1
    torch.testing.assert_close(norm.mean, torch.tensor(MEAN))


def test_posterizing_to_no_bits_gives_black_as_in_older_pillow():
    for level in (10, 5):
        [posterize] = [
            op
            for op in finetune_transform(SETTINGS, 32).transforms[2].ops
            if "Posterize" in op.name
        ]
        posterize.prob, posterize.magnitude, posterize.magnitude_std = 1.0, level, 0
        pixels = np.asarray(posterize(Image.fromarray(Pictures().read(1))))
        wanted = Pictures().read(1) & (0 if level == 10 else 0b11000000)
        np.testing.assert_array_equal(pixels, wanted)


def test_without_randaugment_colours_are_jittered():
    assert "ColorJitter" in str(finetune_transform(FinetuneSettings(auto_augment=""), 32))


@pytest.mark.parametrize(
    ("settings", "size", "crop_pct"),
    [
        (SETTINGS, 224, 224 / 256),
        (SETTINGS, 384, 1.0),
        (SETTINGS, 100, 224 / 256),
        (semi_supervised_settings(), 224, 224 / 256),
        (semi_supervised_settings(), 384, 224 / 256),
    ],
)
def test_validation_views_equal_those_of_timm(settings, size, crop_pct):
    from timm.data import create_transform

    image = Pictures().read(1)
    wanted = create_transform(
        size,
        is_training=False,
        interpolation=settings.test_interpolation,
        crop_pct=crop_pct,
        mean=MEAN,
        std=STD,
    )(Image.fromarray(image))
    got = normalize(
        torch.from_numpy(validation_view(settings, size).render(image)).permute(2, 0, 1)
    )
    assert got.shape == (3, size, size)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_validation_rules_of_the_protocols():
    assert (
        validation_view(SETTINGS, 224).resize == 256
        and validation_view(SETTINGS, 383).resize == 437
    )
    assert validation_view(SETTINGS, 384).resize == 384
    assert validation_view(SETTINGS, 224).interpolation == "bilinear"
    assert validation_view(semi_supervised_settings(), 384).resize == 438
    assert validation_view(semi_supervised_settings(), 224).interpolation == "bicubic"


def test_an_image_of_the_inputs_size_is_enlarged_and_cropped_where_it_was_published():
    from timm.data import create_transform

    pixels = np.asarray(Image.fromarray(Pictures().read(1)).resize((48, 48)))
    assert validation_view(SETTINGS, 48).render(pixels) is pixels
    for settings in (imagenet_settings("small"), semi_supervised_settings()):
        wanted = create_transform(
            48,
            is_training=False,
            interpolation=settings.test_interpolation,
            crop_pct=224 / 256,
            mean=MEAN,
            std=STD,
        )(Image.fromarray(pixels))
        got = normalize(
            torch.from_numpy(validation_view(settings, 48).render(pixels)).permute(2, 0, 1)
        )
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_a_view_depends_on_seed_epoch_image_and_copy_alone():
    source = views(Pictures())
    keys = [(0, i, 0) for i in range(6)]
    one_after_the_other = [source[key].view for key in keys]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    for key in reversed(keys):
        torch.testing.assert_close(source[key].view, one_after_the_other[key[1]], rtol=0, atol=0)
    loader = DataLoader(source, batch_sampler=[keys[:3], keys[3:]], num_workers=2, collate_fn=list)
    for sample, wanted in zip(
        [s for batch in loader for s in batch], one_after_the_other, strict=True
    ):
        torch.testing.assert_close(sample.view, wanted, rtol=0, atol=0)
    first = source[(0, 2, 0)].view
    for other in (source[(1, 2, 0)], source[(0, 2, 1)], views(Pictures(), seed=1)[(0, 2, 0)]):
        assert (other.view != first).float().mean() > 0.5


def test_the_global_generators_are_left_as_they_were():
    source = views(Pictures())
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    wanted = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    source[(0, 1, 0)]
    with pytest.raises(ZeroDivisionError), seeded((0, 1), (0, 0, 0, 0)):
        raise ZeroDivisionError
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == wanted


def test_an_unreadable_image_is_replaced_by_the_next_one():
    sample = views(Pictures(6, broken=(4, 5)))[(0, 4, 0)]
    assert sample.label == 0 and sample.bad == [(4, "corrupt"), (5, "corrupt")]
    own = views(Pictures(6, broken=(4, 5)))[(0, 0, 0)]
    assert (
        not own.bad and (own.view != sample.view).any()
    )  # the same image, but not the same view of it
    answer = views(Pictures(3, broken=(0, 1, 2)))[(0, 1, 0)]
    assert (
        isinstance(answer, DataError)
        and "3 training images in a row" in str(answer)
        and "'0.png'" in str(answer)
    )


def test_unreadable_validation_images_are_named_not_replaced():
    source = ValidationViews(Pictures(3, broken=(1,)), [2, 1], validation_view(SETTINGS, 32))
    assert len(source) == 2 and source[1] == (1, "corrupt")
    assert (
        source[0][0] == 2
        and source[0][1].dtype == torch.uint8
        and source[0][1].shape == (3, 32, 32)
    )


def mix(mixing, step=0, part=0):
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return mixing(images, torch.arange(8) % 5, step, part)


def test_mixing_is_timms_under_a_seed_of_step_and_part():
    mixing = Mixing(SETTINGS, 5, 0, enabled=True)
    images, targets = mix(mixing, 3, 1)
    np.random.seed(1)
    again, same = mix(mixing, 3, 1)
    torch.testing.assert_close(again, images, rtol=0, atol=0)
    torch.testing.assert_close(same, targets, rtol=0, atol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert targets.min().item() == pytest.approx(0.1 / 5)
    others = [mix(mixing, *where)[0] for where in ((4, 1), (3, 0))]
    assert all((other != images).any() for other in others)


def test_both_kinds_of_mixing_occur_and_each_can_be_off():
    plain = mix(Mixing(SETTINGS, 5, 0, enabled=False))[0]

    def kinds(settings):
        mixing = Mixing(settings, 5, 0, enabled=True)
        # CutMix leaves pixels as they are outside of its box.
        return {bool((mix(mixing, step)[0] == plain).all(1).any()) for step in range(20)}

    assert kinds(SETTINGS) == {True, False}
    assert kinds(FinetuneSettings(cutmix=0)) == {False}


def test_without_mixing_targets_are_smoothed_only():
    images, targets = mix(Mixing(SETTINGS, 5, 0, enabled=False))
    assert targets[1].tolist() == pytest.approx([0.02, 0.92, 0.02, 0.02, 0.02])
    labels = torch.arange(8) % 5
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets), wanted)
    torch.testing.assert_close(images, mix(Mixing(SETTINGS, 5, 0, enabled=False))[0])


@pytest.mark.parametrize(("count", "world"), [(1000, 8), (512, 3), (256, 1)])
def test_repeated_augmentation_deals_like_timms_sampler(count, world):
    from timm.data.distributed_sampler import RepeatAugSampler

    for rank in range(world):
        wanted = list(RepeatAugSampler(range(count), world, rank, shuffle=False))
        assert deal(np.arange(count), 3, rank, world)[0].tolist() == wanted
        assert len(wanted) == count // 256 * 256 // world


def test_copies_of_an_image_go_to_different_receivers_and_have_their_own_numbers():
    order = permutation(0, 4, 600)
    received = [deal(order, 3, rank, 3) for rank in range(3)]
    images = np.stack([images for images, _ in received])
    assert (images == order[: images.shape[1]]).all()
    assert [set(copies.tolist()) for _, copies in received] == [{0}, {1}, {2}]


def test_small_sets_keep_all_their_images():
    assert [epoch_size(n, 3) for n in (100, 255, 256, 511, 50_000)] == [100, 255, 256, 256, 49_920]
    assert epoch_size(511, 1) == 511
    assert len(deal(np.arange(100), 3, 0, 1)[0]) == 100


def test_without_repeats_every_image_is_dealt_once():
    order = permutation(0, 0, 50)
    received = np.concatenate([deal(order, 1, rank, 4)[0] for rank in range(4)])
    assert len(set(received.tolist())) == len(received) == 48


def test_a_missing_timm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(MissingExtra, match="timm"):
        finetune_transform(SETTINGS, 32)
