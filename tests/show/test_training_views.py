"""What training sees of an image, against its loader; what hidden patches are to become."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.override import apply
from ibot.data.loader import Loader
from ibot.data.sets.scan import scan
from ibot.engine.loop import mask_grid
from ibot.method.model import Teacher
from ibot.recipes import recipe
from ibot.show.augment import page, unshown
from ibot.show.canvas import _Box, _Words
from ibot.show.layout import HIDDEN
from ibot.show.training_views import Targets, targets_of, training_views

SETTINGS = (
    *("augment.global_size=16,16", "augment.local_size=8,8", "augment.num_local=3"),
    *("model.patch=2", "model.width=24", "model.depth=1", "model.heads=3", "train.batch=4"),
    *("system.workers=0", "train.seed=5", "head.out_dim=12", "head.patch_out_dim=12"),
    "mask.ratio=[[0.4,0.1]]",
)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(9):
        pixels = rng.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return scan(tmp_path)


PAPER = ("method.patch_residual=false", "method.visible_weight=0")


@pytest.mark.parametrize(
    "settings", [(), (*PAPER, "mask.views=all"), (*PAPER, "method.patch_match=position")]
)
def test_views_and_masks_are_those_that_the_loader_gives(images, settings):
    config = apply(recipe("tiny32"), [*SETTINGS, *settings])
    loader = Loader(config, images, grid=mask_grid(config), start_step=2, end_step=5)
    seen_images = 0
    for step, (batch,) in enumerate(loader, 2):
        epoch = step // 2  # nine images are two batches of four
        for row, number in enumerate(batch.index.tolist()):
            seen = training_views(config, images.read(number), number, epoch)
            given = torch.cat([batch.global_views[:, row]]).permute(0, 2, 3, 1).numpy()
            local = batch.local_views[:, row].permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(np.stack(seen.views[:2]), given)
            np.testing.assert_array_equal(np.stack(seen.views[2:]), local)
            hidden = batch.masks.map[:, row].unflatten(1, (8, 8)).numpy()
            np.testing.assert_array_equal(seen.hidden, hidden)
            if batch.masks.local is None:
                assert seen.local_hidden is None and seen.hidden_in(2) is None
            else:
                hidden = batch.masks.local.map[:, row].unflatten(1, (4, 4)).numpy()
                np.testing.assert_array_equal(seen.local_hidden, hidden)
            seen_images += 1
    assert seen_images == 12
    assert seen.hidden.any() == (config.method.patch_match == "hidden")


@pytest.mark.parametrize("residual", [False, True])
def test_targets_are_the_centred_and_sharpened_teacher_s(images, residual):
    config = apply(recipe("tiny32"), [*SETTINGS, f"method.patch_residual={residual}".lower()])
    torch.manual_seed(3)
    teacher = Teacher(config).eval()
    center = torch.randn(12) * 0.3
    seen = training_views(config, images.read(4), 4, 1)
    made = targets_of(seen, teacher.backbone, teacher.head, center, 0.05)
    assert made.word.shape == made.share.shape == (2, 8, 8)
    views = torch.from_numpy(np.stack(seen.views[:2])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in config.model.statistics)
    with torch.no_grad():
        tokens = teacher.backbone((views / 255 - mean) / std)
        _, z = teacher.head.project_both(tokens.cls, tokens.patches.flatten(0, 1))
        if residual:
            z = z.unflatten(0, (2, 64))
            z = torch.nn.functional.normalize(z - z.mean(dim=1, keepdim=True), dim=-1).flatten(0, 1)
        _, logits = teacher.head.logits(tokens.cls[:0, :1].expand(0, z.shape[1]), z)
    scores = ((logits - center) / 0.05).double().numpy()
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    np.testing.assert_array_equal(made.word.ravel(), probs.argmax(-1))
    np.testing.assert_allclose(made.share.ravel(), probs.max(-1), rtol=1e-4)


@pytest.mark.parametrize(
    "setting",
    [
        "method.patch_match=position",
        "mask.shape=attention",
        "method.patch_target=color",
        "method.patch_target_norm=false",
    ],
)
def test_targets_that_a_head_alone_does_not_tell_are_not_shown(setting):
    assert setting in unshown(apply(recipe("tiny32"), [setting]))
    assert unshown(recipe("tiny32")) == ""


def test_the_words_say_what_was_done_to_a_view(images):
    config = apply(recipe("tiny32"), SETTINGS)
    every = replace(
        config.augment,
        flip=1.0,
        vertical_flip=1.0,
        turn=1.0,
        jitter=1.0,
        gray=1.0,
        blur=(1, 1, 1),
        solarize=(1, 1, 1),
    )
    never = replace(
        config.augment, flip=0.0, jitter=0.0, gray=0.0, blur=(0, 0, 0), solarize=(0, 0, 0)
    )
    image = images.read(0)
    words = training_views(replace(config, augment=every), image, 0, 0).done(4)
    for part in (
        "flipped",
        "flipped top to bottom",
        "turned by ",
        "colours changed",
        "gray",
        "blurred ",
        "solarized",
    ):
        assert part in words
    assert training_views(replace(config, augment=never), image, 0, 0).done(0) == ""


def test_a_page_shows_every_box_and_the_word_of_every_hidden_patch(images):
    config = apply(recipe("tiny32"), SETTINGS)
    seen = training_views(config, images.read(2), 2, 0)
    words = np.arange(128).reshape(2, 8, 8)
    sheet = page(seen, Targets(words, np.full((2, 8, 8), 0.5, np.float32)), height=240)
    pixels = sheet.pixels()
    assert seen.hidden.any()
    hidden_colour = (pixels == HIDDEN).all(-1).sum()
    assert hidden_colour >= seen.hidden.sum() * 30 * 30
    written = {one.text for one in sheet._placed if isinstance(one, _Words)}
    assert {str(word) for word in words[seen.hidden]} <= written
    assert not {str(word) for word in words[~seen.hidden]} & written
    boxes = [one for one in sheet._placed if isinstance(one, _Box) and one.line]
    across = down = 240 / seen.image.shape[0]
    for view, box in zip(reversed(range(5)), boxes, strict=True):
        top, _, height, width = seen.box(view)
        assert box.width == pytest.approx(width * across, rel=0.03)
        assert box.height == pytest.approx(height * down)
        assert (box.y - boxes[-1].y) == pytest.approx((top - seen.box(0)[0]) * down)


def test_small_pages_leave_numbers_out_and_trainings_without_local_views_have_a_page(images):
    config = apply(recipe("tiny32"), [*SETTINGS, "augment.num_local=0"])
    seen = training_views(config, images.read(2), 2, 0)
    words = np.full((2, 8, 8), 12345)
    sheet = page(seen, Targets(words, np.ones((2, 8, 8), np.float32)), height=40)
    assert "12345" not in {one.text for one in sheet._placed if isinstance(one, _Words)}
    assert page(seen).pixels().shape[0] < page(seen, Targets(words, np.ones((2, 8, 8)))).height
