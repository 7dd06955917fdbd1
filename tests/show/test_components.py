"""Patch tokens as colours, against numpy's SVD."""

import numpy as np
import pytest
import torch

from ibot.show.components import border_of, fit_components, principal


def scene(seed=0, grid=(8, 10), width=12):
    """Tokens of a picture: an object in the middle on a background, and where the object is."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(grid, bool)
    inside[2:6, 3:7] = True
    there = inside.ravel()
    base, direction = rng.normal(size=(2, width))
    tokens = base + np.outer(np.where(there, 5.0, -1.0), direction)
    tokens += np.where(there[:, None], rng.normal(size=(there.size, 4)), 0) @ rng.normal(
        size=(4, width)
    )
    return torch.from_numpy(tokens + 0.01 * rng.normal(size=tokens.shape)).float(), there


def reference(tokens, there):
    """Colours of the foreground by numpy's SVD."""
    kept = tokens.numpy().astype(np.float64)[there]
    centered = kept - kept.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    axes = axes[:3]
    largest = np.abs(axes).argmax(1)
    axes *= np.sign(axes[np.arange(3), largest])[:, None]
    found = centered @ axes.T
    low, high = np.percentile(found, (1, 99), axis=0)
    return ((found - low) / (high - low)).clip(0, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_object_is_found_and_coloured_whatever_the_sign_of_the_features(sign):
    tokens, there = scene()
    tokens = sign * tokens
    made = fit_components(tokens, border_of((8, 10)))
    colours = made.colours(tokens)
    np.testing.assert_array_equal(colours.foreground.numpy(), there)
    assert (colours.first.numpy() > 0).tolist() == there.tolist()
    np.testing.assert_allclose(
        colours.rgb.numpy()[there], reference(tokens, there), rtol=0, atol=1e-6
    )
    assert (colours.rgb.numpy()[~there] == 0).all()
    assert "20 % of the patches" in made.steps[0] and len(made.steps) == 3


def test_without_the_rule_all_patches_are_coloured_and_the_steps_say_so():
    tokens, there = scene(1)
    made = fit_components(tokens, foreground=False)
    everything = np.ones_like(there)
    np.testing.assert_allclose(
        made.colours(tokens).rgb.numpy(), reference(tokens, everything), atol=1e-6
    )
    assert made.colours(tokens).foreground.all()
    assert not any("foreground" in step for step in made.steps)


def test_the_same_twice_bit_for_bit_and_colours_depend_on_the_fit_alone():
    tokens, _ = scene(2)
    one, two = (fit_components(tokens.clone(), border_of((8, 10))) for _ in range(2))
    assert torch.equal(one.colours(tokens).rgb, two.colours(tokens).rgb)
    alone = torch.cat([one.colours(part).rgb for part in tokens.split(7)])
    torch.testing.assert_close(alone, one.colours(tokens).rgb, rtol=0, atol=1e-6)


def test_a_fit_over_pictures_gives_the_same_thing_the_same_colour():
    first, there = scene(3)
    second = first.flip(0)
    edge = border_of((8, 10))
    made = fit_components(torch.cat([first, second]), torch.cat([edge, edge]))
    torch.testing.assert_close(
        made.colours(first).rgb.flip(0), made.colours(second).rgb, rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(made.colours(first).foreground.numpy(), there)


def test_without_borders_the_smaller_side_is_the_foreground():
    tokens, there = scene(4)
    np.testing.assert_array_equal(fit_components(tokens).colours(tokens).foreground.numpy(), there)
    # All patches of a strip lie at its border.
    np.testing.assert_array_equal(
        fit_components(tokens, torch.ones(80, dtype=torch.bool)).colours(tokens).foreground, there
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("foreground", [True, False])
def test_fewer_patches_than_components_have_colours(count, foreground):
    tokens = torch.randn(count, 6, generator=torch.Generator().manual_seed(count))
    made = fit_components(tokens, foreground=foreground)
    colours = made.colours(tokens)
    assert colours.rgb.isfinite().all() and colours.foreground.any()
    kept = int(colours.foreground.sum())
    missing = max(0, 3 - (kept - 1))
    shown = colours.rgb[colours.foreground]
    assert (shown[:, 3 - missing :] == 0.5).all(), "no component: the middle"
    assert sum(share > 0 for share in made.variance) == 3 - missing


def test_constant_features_are_gray_foreground_throughout():
    tokens = torch.full((12, 5), 3.7)
    made = fit_components(tokens, border_of((3, 4)))
    colours = made.colours(tokens)
    assert colours.foreground.all() and (colours.rgb == 0.5).all()
    assert "constant" in made.steps[0]


def test_principal_axes_agree_with_numpy():
    rows = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, axes, shares = principal(rows, 3)
    centered = rows.numpy() - rows.numpy().mean(0)
    _, values, vectors = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(mean.numpy(), rows.numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:3], rtol=1e-10)
    np.testing.assert_allclose(np.abs(axes.numpy().T @ vectors[:3].T), np.eye(3), atol=1e-9)
    assert (axes[axes.abs().argmax(0), range(3)] > 0).all()


def test_what_is_no_list_of_tokens_is_refused():
    for tokens, words in (
        (torch.zeros(0, 4), "at least 1"),
        (torch.zeros(2, 3, 4), "not .2, 3, 4."),
        (torch.tensor([[1.0, torch.nan]]), "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_components(tokens)


def test_the_border_of_a_grid():
    assert border_of((3, 4)).view(3, 4).tolist() == [
        [True] * 4,
        [True, False, False, True],
        [True] * 4,
    ]
    assert border_of((1, 5)).all() and border_of((2, 2)).all()
