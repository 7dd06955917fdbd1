"""Patches that stand for a word: against plain loops, with logits that are all negative."""

import numpy as np
import pytest

from ibot.show.patterns import (
    COVER,
    FRAME,
    best_of_each_image,
    brightness,
    covered,
    first_bright,
    framed,
    layout,
    purity,
    ranked_words,
    window_around,
)


def published(words, scores, word, top_k, value):
    """A loop over images as 10.2 describes it, with -inf where a patch has another word."""
    best = []
    for image in range(len(words)):
        own = np.where(words[image] == word, scores[image], -np.inf)
        if own.max() > -np.inf:
            best.append((image, int(own.argmax()), own.max()))
    best.sort(key=lambda found: -found[2])
    return [found[:2] for found in best[: 2 * top_k] if value[found[0]] > 40][:top_k]


@pytest.mark.parametrize("highest", [0.0, -3.0], ids=["both signs", "all negative"])
def test_patterns_equal_a_loop_over_words_and_images(highest):
    random = np.random.default_rng(0)
    words = random.integers(0, 12, (60, 20))
    words[words == 5] = 4  # nobody uses it
    scores = random.normal(highest - 2, 1, words.shape).clip(max=highest)
    value = random.integers(0, 120, 60)
    ranking = ranked_words(
        np.bincount(words.ravel(), minlength=12),
        np.bincount(words.ravel(), minlength=12),
        np.array([(words == word).any(axis=1).sum() for word in range(12)]),
    )
    counts = [(words == word).sum() for word in range(12)]
    assert ranking.tolist() == sorted(set(range(12)) - {5}, key=lambda word: -counts[word])
    for word in range(12):
        row, patch = np.nonzero(words == word)
        best = best_of_each_image(row, scores[row, patch])
        kept = first_bright(
            best.tolist(),
            9,
            lambda place, row=row: np.full((4, 4, 3), value[row[place]], np.uint8),
        )
        found = [(row[place], patch[place]) for place, _ in kept]
        assert found == published(words, scores, word, 9, value), word


def test_of_equal_words_and_scores_the_earlier_comes_first():
    uses = np.array([3, 0, 5, 3, 5])
    images = np.array([3, 0, 1, 2, 4])
    assert ranked_words(uses, uses, images).tolist() == [2, 4, 0, 3]
    assert ranked_words(uses, uses, images, least_images=2).tolist() == [4, 0, 3]
    share = np.array([0.5, np.nan, 0.1, np.nan, 0.9])
    assert ranked_words(share, uses, images).tolist() == [4, 0, 2]
    same = best_of_each_image(np.array([7, 2, 7, 2]), np.array([-1.0, -1.0, -1.0, -1.0]))
    assert same.tolist() == [0, 1]


def test_only_twice_as_many_candidates_are_looked_at_and_lost_images_are_passed_over():
    asked = []

    def look(candidate):
        asked.append(candidate)
        bright = np.full((2, 2, 3), 41, np.uint8)
        return {0: None, 1: bright // 2}.get(candidate, bright)

    assert [found for found, _ in first_bright(range(100), 2, look)] == [2, 3]
    assert asked == [0, 1, 2, 3]
    asked.clear()
    assert [found for found, _ in first_bright(range(100), 1, look)] == [] and asked == [0, 1]
    assert [found for found, _ in first_bright(range(3), 9, look)] == [2]


@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_window_shows_the_patches_around_one_and_black_beyond_the_view(side):
    view = np.random.default_rng(0).integers(1, 256, (24, 40, 3), dtype=np.uint8)
    for row in range(3):
        for column in range(5):
            got = window_around(view, (row, column), 8, side)
            want = np.zeros((side * 8, side * 8, 3), np.uint8)
            for y in range(side * 8):
                for x in range(side * 8):
                    from_y = (row - side // 2) * 8 + y
                    from_x = (column - side // 2) * 8 + x
                    if 0 <= from_y < 24 and 0 <= from_x < 40:
                        want[y, x] = view[from_y, from_x]
            np.testing.assert_array_equal(got, want)


def test_a_window_has_one_patch_in_its_middle():
    with pytest.raises(ValueError, match="4 patches"):
        window_around(np.zeros((8, 8, 3), np.uint8), (0, 0), 4, 4)


def test_the_middle_is_covered_as_published_or_framed_and_left_to_be_seen():
    window = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    centre = (slice(16, 24), slice(16, 24))
    want = (window[centre] * 128.0 + 127 * np.array(COVER)) / 255
    np.testing.assert_allclose(covered(window, 8)[centre], want, atol=1)
    kept = framed(window, 8)
    np.testing.assert_array_equal(kept[centre], window[centre])
    assert (kept[15, 15:25] == FRAME).all() and (kept[15:25, 24] == FRAME).all()
    for picture in (covered(window, 8), kept):
        outside = np.ones((40, 40), bool)
        outside[14:26, 14:26] = False
        np.testing.assert_array_equal(picture[outside], window[outside])


@pytest.mark.parametrize(
    ("top_k", "count", "cells"), [(9, 9, (3, 3)), (10, 9, (3, 4)), (36, 5, (1, 6)), (1, 1, (1, 1))]
)
def test_windows_stand_in_a_square_of_the_wanted_number_and_stop_with_their_members(
    top_k, count, cells
):
    windows = [np.full((4, 6, 3), number, np.uint8) for number in range(count)]
    sheet = layout(windows, top_k, gap=1)
    rows, columns = cells
    assert sheet.shape == (rows * 5 - 1, columns * 7 - 1, 3)
    for i in range(rows * columns):
        own = sheet[i // columns * 5 : i // columns * 5 + 4, i % columns * 7 : i % columns * 7 + 6]
        assert (own == (i if i < count else 255)).all()


def test_purity_is_the_share_of_the_most_frequent_label_among_the_patches_of_a_word():
    random = np.random.default_rng(0)
    words, labels = random.integers(0, 9, (50, 7)), random.integers(0, 4, 50)
    words[words == 3] = 2
    got = purity(words, labels, 9, 4)
    for word in range(9):
        own = [
            int(label) for row, label in zip(words, labels, strict=True) for w in row if w == word
        ]
        want = max(map(own.count, own)) / len(own) if own else np.nan
        np.testing.assert_equal(got[word], want)
    assert brightness(np.array([[[0, 10, 250], [30, 0, 0]]], np.uint8)) == 140
