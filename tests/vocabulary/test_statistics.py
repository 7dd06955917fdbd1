"""How words are used, and how they live: as plain loops count it."""

from types import SimpleNamespace

import numpy as np
import pytest

from ibot.vocabulary import statistics as module
from ibot.vocabulary.life import lives_of
from ibot.vocabulary.opened import Vocabulary
from ibot.vocabulary.statistics import Statistics, count_words

COUNT = 9


def random_words(images=13, patches=6, seed=0, below=COUNT - 1):
    random = np.random.default_rng(seed)
    words = random.integers(0, below, (images, patches)).astype(np.int32)
    return words, random.standard_normal((3, images, patches)).astype(np.float16)


@pytest.mark.parametrize("block", [1, 20, 2**20])
def test_statistics_are_those_of_a_loop(block, monkeypatch, tmp_path):
    monkeypatch.setattr(module.row_blocks, "__defaults__", (block,))
    words, numbers = random_words()
    count_words(words, *numbers, COUNT).save(tmp_path / "statistics.npz")
    got = Statistics.load(tmp_path / "statistics.npz")
    assert got.uses.sum() == words.size and got.uses[COUNT - 1] == 0
    for word in range(COUNT):
        here = words == word
        assert got.uses[word] == sum(int(one) for one in here.ravel())
        assert got.images[word] == sum(any(row) for row in here)
        for name, table in zip(("score", "confidence", "entropy"), numbers, strict=True):
            mean = table[here].astype(np.float64).mean() if here.any() else 0
            assert getattr(got, name)[word] == pytest.approx(mean, abs=1e-6)


def index_of(words, numbers, index=None):
    """What the life of words asks of an index."""
    patch = count_words(words, *numbers, COUNT)
    return SimpleNamespace(
        words=words,
        class_words=words[:, 0],
        index=np.arange(len(words)) if index is None else np.asarray(index),
        num_words=COUNT,
        num_class_words=COUNT,
        statistics=lambda kind: {"patch": patch, "class": patch}[kind],
    )


def test_overlap_is_the_share_that_carried_the_word_before_among_images_of_both():
    before, now = random_words(seed=1, below=3), random_words(images=12, seed=2, below=3)
    here = [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 14, 20]
    lives = lives_of([index_of(*before), index_of(*now, index=here)])
    assert np.isnan(lives.overlap[0]).all() and np.isnan(lives.overlap[1, 3:]).all()
    for word in range(3):
        kept = every = 0
        for row, image in enumerate(here):
            for patch in range(6):
                if image < 13 and now[0][row, patch] == word:
                    every += 1
                    kept += before[0][image, patch] == word
        assert lives.overlap[1, word] == pytest.approx(kept / every)


def test_words_are_born_and_die_where_their_use_crosses_the_limit():
    # Of 10,000 patches and 9 words the mean use is 1,111, so that 12 are enough and 11 are not.
    uses = np.array([[0, 11, 12, 1, 12, 0], [12, 12, 0, 1, 0, 0], [12, 0, 12, 1, 0, 0]])
    indexes = []
    for row in uses:
        words = np.full(10_000, 8, np.int32)
        words[: row.sum()] = np.repeat(np.arange(6), row)
        words = words.reshape(-1, 10)
        indexes.append(index_of(words, np.zeros((3, *words.shape), np.float16)))
    vocabulary = Vocabulary(None, None, indexes)
    found = [(vocabulary.life(k).born, vocabulary.life(k).died) for k in range(9)]
    assert found[:6] == [(1, None), (1, 1), (0, None), (None, None), (0, 0), (None, None)]
    assert found[8] == (0, None)
    np.testing.assert_array_equal(vocabulary.life(2).uses, [12, 0, 12])
    with pytest.raises(IndexError):
        vocabulary.life(9)


def test_a_single_patch_is_no_life_however_small_the_set():
    words = np.array([[0, 1, 1]], np.int32)
    lives = lives_of([index_of(words, np.zeros((3, 1, 3), np.float16))])
    assert lives.born[:2].tolist() == [-1, 0]
