"""Words of tokens: as a plain loop over the logits gives them, for any head, in bounded memory."""

import math

import pytest
import torch

from ibot.config.schema import HeadConfig
from ibot.models.head import ProjectionHead
from ibot.vocabulary import assign as module
from ibot.vocabulary.assign import Temperatures, assign
from ibot.vocabulary.tokenizer import prototypes

HEADS = {
    "shared": ({}, True),
    "unshared": ({"patch_out_dim": 29}, False),
    "layers of their own": ({"shared_layers": 1}, True),
    "no bottleneck": ({"bottleneck_dim": 0}, True),
    "no bottleneck, unshared": ({"bottleneck_dim": 0, "patch_out_dim": 5}, False),
    "batch norm": ({"norm": "bn"}, True),
}


def head_of(name, residual=False, **more):
    settings, shared = HEADS[name]
    config = {"out_dim": 17, "patch_out_dim": 17, "hidden_dim": 24, "bottleneck_dim": 8}
    torch.manual_seed(0)
    head = ProjectionHead(
        12, HeadConfig(**{**config, **settings, **more}), shared, "xavier", residual
    )
    return head.eval().requires_grad_(False)


def by_loop(project, layer, tokens, temperature):
    """Word, score, confidence and entropy of each of the tokens [m, D], one by one."""
    found = []
    for token in tokens:
        logits = layer(project(token[None]))[0].tolist()
        word = max(range(len(logits)), key=lambda k: (logits[k], -k))
        powers = [math.exp((one - logits[word]) / temperature) for one in logits]
        probs = [power / sum(powers) for power in powers]
        entropy = -sum(p * math.log(p) for p in probs if p)
        found.append((word, logits[word], probs[word], entropy))
    return torch.tensor(found, dtype=torch.float64).unbind(dim=1)


def in_chunks(monkeypatch, tokens, rows):
    """Logits of so many tokens at a time, whatever the number of words."""
    for name, value in {"TOKENS": tokens, "LOGITS": 1, "LEAST_ROWS": rows}.items():
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (5, 2), (1024, 128)])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_the_words_of_a_plain_loop(name, tokens, rows, monkeypatch):
    in_chunks(monkeypatch, tokens, rows)
    head = head_of(name)
    cls, patches = torch.randn(3, 12), torch.randn(3, 7, 12)
    got = assign(head, cls, patches, Temperatures(cls=0.04, patch=0.2))
    exact = head_of(name).double()
    want = (
        by_loop(exact.project, exact.cls_layer, cls.double(), 0.04),
        by_loop(exact.project_patches, exact.patch_layer, patches.flatten(0, 1).double(), 0.2),
    )
    for found, wanted, shape in zip(got, want, [(3,), (3, 7)], strict=True):
        assert found.word.dtype == torch.int64 and found.word.shape == shape
        assert torch.equal(found.word.flatten(), wanted[0].long())
        for name_, value in zip(("score", "confidence", "entropy"), wanted[1:], strict=True):
            column = getattr(found, name_)
            assert column.dtype == torch.float32 and column.shape == shape
            torch.testing.assert_close(column.flatten(), value.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (5, 2), (20, 3), (1024, 128)])
@pytest.mark.parametrize("name", ["shared", "unshared", "layers of their own"])
def test_residual_words_are_of_what_a_patch_adds_to_its_view(name, tokens, rows, monkeypatch):
    in_chunks(monkeypatch, tokens, rows)
    head, exact = head_of(name, residual=True), head_of(name).double()
    cls, patches = torch.randn(5, 12), torch.randn(5, 7, 12)
    of_class, found = assign(head, cls, patches, Temperatures(cls=0.04, patch=0.2))
    for number, view in enumerate(patches.double()):
        z = torch.stack([exact.project_patches(patch[None])[0] for patch in view])
        added = [row - sum(z) / 7 for row in z]
        z = torch.stack([row / row.square().sum().sqrt() for row in added])
        wanted = by_loop(lambda row: row, exact.patch_layer, z, 0.2)
        assert torch.equal(found.word[number], wanted[0].long())
        for name_, value in zip(("score", "confidence", "entropy"), wanted[1:], strict=True):
            column = getattr(found, name_)[number]
            torch.testing.assert_close(column, value.float(), rtol=1e-4, atol=1e-5)
    _, plain = assign(head_of(name), cls, patches)
    assert not torch.equal(plain.word, found.word)
    assert torch.equal(of_class.word, assign(head_of(name), cls, patches)[0].word)


@pytest.mark.parametrize("residual", [False, True])
def test_words_do_not_depend_on_what_is_assigned_together(residual, monkeypatch):
    in_chunks(monkeypatch, 20, 8)
    head = head_of("shared", residual)
    cls, patches = torch.randn(6, 12), torch.randn(6, 7, 12)
    together = assign(head, cls, patches)[1]
    for start, end in ((0, 1), (1, 4), (4, 6)):
        part = assign(head, cls[start:end], patches[start:end])[1]
        assert torch.equal(part.word, together.word[start:end])
        torch.testing.assert_close(part.score, together.score[start:end])


def test_plain_words_are_bit_by_bit_those_of_flat_chunks(monkeypatch):
    in_chunks(monkeypatch, 16, 16)
    head, patches = head_of("shared"), torch.randn(5, 7, 12)
    found = assign(head, patches[:, 0], patches)[1]
    chunks = patches.flatten(0, 1).split(16)
    logits = torch.cat([head.patch_layer(head.project_patches(chunk)) for chunk in chunks])
    score, word = logits.max(dim=1)
    assert torch.equal(found.word.flatten(), word) and torch.equal(found.score.flatten(), score)


def test_words_of_negative_logits_are_the_largest_of_them():
    head = head_of("no bottleneck")
    head.cls_layer.bias.sub_(1000)
    found, _ = assign(head, torch.randn(5, 12), torch.randn(5, 2, 12))
    assert (found.score < -900).all()
    assert ((found.confidence > 0) & (found.confidence <= 1)).all()
    assert (found.entropy >= 0).all()


def test_of_equal_logits_the_first_word_is_taken():
    head = head_of("shared")
    head.last_layer.weight_v.copy_(head.last_layer.weight_v[:1].expand(17, -1))
    found, _ = assign(head, torch.randn(4, 12), torch.randn(4, 2, 12))
    assert found.word.tolist() == [0] * 4
    torch.testing.assert_close(found.confidence, torch.full((4,), 1 / 17))
    torch.testing.assert_close(found.entropy, torch.full((4,), math.log(17)))


def test_float64_tokens_are_reduced_in_float64():
    head = head_of("shared").double()
    cls = torch.randn(2, 12, dtype=torch.float64)
    found, _ = assign(head, cls, cls[:, None])
    logits = head.logits(head.project(cls), head.project(cls))[0]
    assert torch.equal(found.score, logits.amax(dim=1).float())


def test_no_table_of_all_patches_and_words_is_held(largest_tensor, monkeypatch):
    in_chunks(monkeypatch, 256, 128)
    head = head_of("shared", out_dim=200, patch_out_dim=200)
    cls, patches = torch.randn(16, 12), torch.randn(16, 50, 12)
    with largest_tensor() as noted:
        assign(head, cls, patches)
    assert noted.numel == 128 * 200


def test_prototypes_are_rows_of_length_one_of_the_layer_that_patches_use():
    for name in HEADS:
        head = head_of(name)
        rows = prototypes(head.patch_layer)
        raw = head.patch_layer.weight if "no" in name else head.patch_layer.weight_v
        torch.testing.assert_close(rows, torch.nn.functional.normalize(raw, dim=1))
