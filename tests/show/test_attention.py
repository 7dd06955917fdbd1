"""Attention of the last block as maps, masks and overlays."""

import numpy as np
import pytest
import torch

from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone
from ibot.show.attention import (
    DARK,
    LEAST_COVER,
    Attention,
    attention_maps,
    attention_of,
    class_attention,
    head_color,
    overlay,
)
from ibot.show.colours import PALETTE
from ibot.show.inputs import WholeView, network_input


def network(kind="vit", size=(32, 32), **settings):
    """A random network with weights so large that its attention is far from even."""
    sizes = {"width": 24, "patch": 4} if kind == "vit" else {"width": 8, "patch": 4}
    if kind == "swin":
        sizes |= {"depths": (1, 2), "stage_heads": (1, 2), "window": 4}
    else:
        sizes |= {"depth": 2, "heads": 3}
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(kind=kind, **{**sizes, **settings}), size).eval()
    for name, parameter in backbone.named_parameters():
        if parameter.ndim > 1 and "norm" not in name:
            parameter.data.mul_(8)
    return backbone


def input_of(backbone, size, seed=1):
    view = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return network_input(view, backbone)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (32, 32)),
        ({"registers": 3}, (32, 32)),
        ({}, (16, 48)),
        ({"heads": 12}, (24, 20)),
        ({"heads": 1}, (4, 4)),
    ],
)
def test_maps_are_the_softmax_of_scaled_products_of_the_class_query(settings, size):
    backbone = network(**settings)
    images = input_of(backbone, size)
    seen = []
    handle = backbone.blocks[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        backbone(images)
    handle.remove()
    block = backbone.blocks[-1]
    heads, width = block.attn.heads, backbone.embed_dim
    with torch.no_grad():
        tokens = block.norm1(seen[0]).numpy().astype(np.float64)[0]
    weight, bias = (
        getattr(block.attn.qkv, name).detach().numpy().astype(np.float64)
        for name in ("weight", "bias")
    )
    q, k, _ = (tokens @ weight.T + bias).reshape(-1, 3, heads, width // heads).transpose(1, 2, 0, 3)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(width // heads)
    full = np.exp(scores - scores.max(-1, keepdims=True))
    full /= full.sum(-1, keepdims=True)
    rows, columns = size[0] // 4, size[1] // 4
    want = full[:, 0, 1 : 1 + rows * columns].reshape(heads, rows, columns)
    got = class_attention(backbone, images)[0]
    assert got.shape == (heads, rows, columns)
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-5)
    # All that a token attends to, the class token itself and registers included, is 1.
    with torch.no_grad():
        whole = backbone.attention_maps(images)
    np.testing.assert_allclose(whole.sum(-1).numpy(), 1, atol=1e-5)
    np.testing.assert_allclose(whole[0].numpy(), full, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (40, 72), (8, 8)])
def test_a_swin_s_patches_receive_what_the_queries_of_their_window_give(size):
    # The last block is the second of its stage: its windows are shifted where the map allows it.
    backbone = network("swin", (64, 64))
    images = input_of(backbone, size)
    block = backbone.stages[-1].blocks[-1]
    assert block.shift == 2
    with torch.no_grad():
        got, source = attention_maps(backbone, images)
        windows = backbone.attention_maps(images)
    rows, columns = backbone.token_grid(*size)
    side, shift = block.side, block.shift
    down, across = (-(-length // side) * side for length in (rows, columns))
    want = np.zeros((2, rows, columns))

    def place(window, cell):
        """Where a cell of a window lies in the map before it was shifted."""
        top, left = divmod(window, across // side)
        row, column = divmod(cell, side)
        return (top * side + row + shift) % down, (left * side + column + shift) % across

    for window in range(len(windows)):
        for query in range(side * side):
            y, x = place(window, query)
            if y >= rows or x >= columns:
                continue
            given = np.zeros_like(want)  # by one patch to the patches of its window, not to padding
            for key in range(side * side):
                y, x = place(window, key)
                if y < rows and x < columns:
                    given[:, y, x] += windows[window, :, query, key].numpy()
            want += given / given.sum((1, 2), keepdims=True)
    assert source == "windows"
    np.testing.assert_allclose(got[0].numpy(), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.mean((2, 3)).numpy(), 1, atol=1e-5)


def test_norms_are_the_lengths_of_the_patch_tokens():
    for backbone in (network(), network("swin")):
        images = input_of(backbone, (32, 64))
        with torch.no_grad():
            got, source = attention_maps(backbone, images, norms=True)
            tokens = backbone(images)
        want = np.linalg.norm(tokens.patches[0].numpy(), axis=-1).reshape(tokens.grid)
        assert source == "norms"
        np.testing.assert_allclose(got[0, 0].numpy(), want, rtol=1e-5)


def test_the_mass_is_held_by_the_fewest_patches():
    maps = np.array([[[0.5, 0.2], [0.2, 0.1]], [[0.0, 0.0], [0.0, 1.0]]], np.float32)
    backbone = network()
    found = attention_of(backbone, np.zeros((8, 8, 3), np.uint8), WholeView(8), mass=0.6)
    assert found.mass.shape == found.maps.shape == (3, 2, 2)
    for head, mask in zip((*found.maps, found.mean), (*found.mass, found.mean_mass), strict=True):
        order = np.sort(head.ravel())[::-1]
        held = np.sort(head[mask])[::-1]
        np.testing.assert_array_equal(held, order[: len(held)])
        assert held.sum() >= 0.6 * head.sum() - 1e-6 > held[:-1].sum() - 2e-6
    from ibot.models.attention import foreground

    toy = foreground(torch.from_numpy(maps).flatten(1), 0.6).view(2, 2, 2)
    assert toy.tolist() == [[[True, False], [True, False]], [[False, False], [False, True]]]


def toy_overlay(maps, image=None, colors=PALETTE):
    image = np.full((2, 2, 3), 77, np.uint8) if image is None else image
    return overlay(image, np.array(maps, float), colors[: len(maps)])


def test_at_each_place_only_the_strongest_head_colours_and_of_equal_ones_the_first():
    # Places: head 1 wins, a tie, head 0 wins, nobody.
    maps = [[[0.1, 0.4], [0.8, 0.0]], [[0.9, 0.4], [0.3, 0.0]]]
    got = toy_overlay(maps)
    ground = np.rint(DARK * 192)  # an image of one level is black between its ends

    def covered(value, color):
        share = np.sqrt(value)
        return np.rint(DARK * 192 * (1 - share) + share * np.array(color))

    np.testing.assert_array_equal(got[0, 0], covered(1.0, PALETTE[1]))
    np.testing.assert_array_equal(got[0, 1], covered(0.4 / 0.8, PALETTE[0]))
    np.testing.assert_array_equal(got[1, 0], covered(1.0, PALETTE[0]))
    np.testing.assert_array_equal(got[1, 1], [ground] * 3)


def test_weak_places_stay_dark_and_the_ground_is_the_gray_image():
    image = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    just = LEAST_COVER
    got = toy_overlay([[[1.0, just], [just + 0.01, 0.0]]], image)
    span = (image.astype(float) - image.min()) / (float(image.max()) - image.min())
    gray = np.rint(DARK * (192 + 64 * span).mean(-1))
    for row, column in ((0, 1), (1, 1)):
        np.testing.assert_array_equal(got[row, column], gray[row, column])
    assert (got[0, 0] == PALETTE[0]).all() and (got[1, 0] > gray[1, 0]).any()


def test_a_head_that_wins_nowhere_colours_nothing_and_divides_by_nothing():
    with np.errstate(all="raise"):
        got = toy_overlay([np.full((2, 2), 0.5), np.full((2, 2), 0.4), np.zeros((2, 2))])
        alone = toy_overlay([np.full((2, 2), 0.5)])
    assert (got == np.rint(DARK * 192)).all() and (alone == got).all()


def test_any_number_of_heads_has_colours_which_stay_those_of_the_head():
    published = [(0, 160, 215), (220, 55, 60), (245, 180, 0), (10, 120, 190), (40, 150, 100)]
    assert [head_color(i) for i in range(6)] == [*published, (135, 75, 145)]
    assert len({head_color(i) for i in range(16)}) == 16 and head_color(40) in PALETTE
    maps = np.eye(9, dtype=np.float32).reshape(9, 3, 3)
    found = Attention(np.zeros((9, 9, 3), np.uint8), maps, maps > 0, maps.sum(0) > 0, "class")
    colours = found.overlay()
    for head in range(9):
        row, column = divmod(head, 3)
        assert tuple(colours[3 * row + 1, 3 * column + 1]) == head_color(head)
    some = found.overlay([7, 2])
    assert tuple(some[7, 4]) == head_color(7) and tuple(some[1, 7]) == head_color(2)
    assert (some[:3, :3] == np.rint(DARK * 192)).all()


def test_arrays_of_any_channels_and_levels_are_seen_in_their_false_colours():
    backbone = network()
    image = np.random.default_rng(3).random((40, 60, 7)).astype(np.float32)
    found = attention_of(backbone, image, WholeView(16))
    assert found.view.shape == (16, 24, 3) and found.maps.shape == (3, 4, 6)
    assert found.source == "class" and np.isfinite(found.maps).all()
    again = attention_of(backbone, found.view, WholeView(fit="natural"))
    np.testing.assert_array_equal(again.maps, found.maps)


def test_heads_are_coloured_between_their_own_ends_and_black_outside_of_their_mass():
    pytest.importorskip("matplotlib")
    found = attention_of(network(), np.arange(48, dtype=np.uint8).reshape(4, 4, 3), WholeView(16))
    shown = found.coloured(1)
    peak = np.unravel_index(found.maps[1].argmax(), found.maps[1].shape)
    low = np.unravel_index(found.maps[1].argmin(), found.maps[1].shape)
    assert shown[peak].tolist() == [253, 231, 37] and shown[low].tolist() == [68, 1, 84]
    masked = found.coloured(1, masked=True)
    np.testing.assert_array_equal((masked > 0).any(-1), found.mass[1])
    assert found.coloured(None, colors="inferno").shape == (4, 4, 3)
