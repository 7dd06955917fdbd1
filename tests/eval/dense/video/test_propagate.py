"""Label propagation: the published vector, slow loops, and windows against the full affinity."""

import math

import pytest
import torch
import torch.nn.functional as F

from ibot.eval.dense.video import propagate as module
from ibot.eval.dense.video.propagate import Rule, Source, propagate, propagate_plainly

BOTH = (propagate, propagate_plainly)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def random_case(height, width, frames, channels=3, dims=6):
    """Tokens of a frame, and sources with soft maps."""
    soft = [torch.rand(height, width, channels).softmax(-1) for _ in range(frames)]
    return unit(height, width, dims), [Source(unit(height, width, dims), one) for one in soft]


def by_loops(tokens, sources, rule):
    """Steps 5 and 6 of 8.12 with numbers one by one."""
    height, width = tokens.shape[:2]
    out = torch.zeros(height, width, sources[0].soft.shape[-1])
    for y in range(height):
        for x in range(width):
            found = []
            for source in sources:
                for v in range(height):
                    for u in range(width):
                        near = abs(v - y) <= rule.radius and abs(u - x) <= rule.radius
                        cosine = (tokens[y, x] * source.tokens[v, u]).sum().item()
                        value = math.exp(cosine / rule.temperature) if near else 0.0
                        found.append((value, source.soft[v, u]))
            fifth = sorted((value for value, _ in found), reverse=True)[: rule.topk][-1]
            kept = [(value, soft) for value, soft in found if value >= fifth]
            out[y, x] = sum(value * soft for value, soft in kept) / sum(v for v, _ in kept)
    return out


@pytest.mark.parametrize("function", BOTH)
def test_the_published_vector(function):
    torch.manual_seed(0)
    target, source = (F.normalize(torch.randn(9, 4), dim=1).view(3, 3, 4) for _ in range(2))
    soft = torch.tensor([1.0, 0.0]).repeat(3, 3, 1)
    soft[1, 1] = torch.tensor([0.0, 1.0])
    found = function(target, [Source(source, soft)], Rule(radius=1, topk=2))[..., 1]
    want = torch.tensor([[0, 0, 0], [0.7498, 0, 0], [0, 0.5723, 0.6960]])
    assert torch.allclose(found, want, atol=5e-5)  # as printed


@pytest.mark.parametrize(
    ("height", "width", "frames", "rule"),
    [
        (9, 19, 3, Rule(radius=2)),
        (17, 8, 8, Rule(radius=12, topk=7)),
        (5, 23, 1, Rule(radius=30)),
        (11, 10, 2, Rule(radius=0, topk=3, temperature=0.03)),
        (1, 1, 1, Rule()),
        (1, 12, 2, Rule(radius=1, topk=400)),
    ],
)
def test_windows_of_tiles_equal_the_full_affinity(height, width, frames, rule):
    tokens, sources = random_case(height, width, frames)
    want = propagate_plainly(tokens, sources, rule)
    assert torch.allclose(propagate(tokens, sources, rule), want, atol=1e-5)
    assert torch.allclose(want.sum(-1), torch.ones(height, width), atol=1e-5)


@pytest.mark.parametrize("function", BOTH)
def test_both_equal_slow_loops(function):
    tokens, sources = random_case(4, 5, frames=2)
    rule = Rule(radius=2, topk=4)
    assert torch.allclose(
        function(tokens, sources, rule), by_loops(tokens, sources, rule), atol=1e-5
    )


@pytest.mark.parametrize("function", BOTH)
def test_values_equal_to_the_last_one_that_is_kept_stay(function):
    codes = F.one_hot(torch.randint(3, (2, 4, 5)), 3).float()
    soft = torch.rand(4, 5, 2)
    rule = Rule(radius=1, topk=2)
    found = function(codes[0], [Source(codes[1], soft)], rule)
    assert torch.allclose(found, by_loops(codes[0], [Source(codes[1], soft)], rule), atol=1e-5)


def test_memory_grows_with_the_window_and_not_with_the_frame(largest_tensor):
    rule, frames = Rule(radius=2), 2
    tokens, sources = random_case(12, 20, frames)
    with largest_tensor() as tiled:
        propagate(tokens, sources, rule)
    with largest_tensor() as plain:
        propagate_plainly(tokens, sources, rule)
    window = math.prod(side + 2 * rule.radius for side in module.TILE)
    assert tiled.numel <= frames * math.prod(module.TILE) * window
    assert plain.numel == frames * (12 * 20) ** 2
