"""Lists of occurrences: as sorting all of them at once gives them, and without holding them."""

import tracemalloc

import numpy as np
import pytest

from ibot.vocabulary.postings import falling, write_postings


def random_case(images, patches, count, seed=0):
    """Words and scores of which many are equal, some negative."""
    random = np.random.default_rng(seed)
    words = random.integers(0, count, (images, patches)).astype(np.int32)
    scores = (random.integers(-6, 6, (images, patches)) / 8).astype(np.float16)
    return words, scores


def read(folder, name="patch"):
    return [np.load(folder / f"{name}_{part}.npy") for part in ("starts", "rows", "places")]


def by_loop(words, scores, word):
    found = [
        (-float(scores[row, place]), row, place)
        for row in range(len(words))
        for place in range(words.shape[1])
        if words[row, place] == word
    ]
    return [(row, place) for _, row, place in sorted(found)]


@pytest.mark.parametrize("block", [1, 7, 64, 10**6])
@pytest.mark.parametrize(
    ("images", "patches", "count"), [(11, 9, 7), (23, 1, 5), (1, 30, 3), (6, 5, 200)]
)
def test_postings_are_those_of_a_plain_loop(images, patches, count, block, tmp_path):
    words, scores = random_case(images, patches, count)
    write_postings(tmp_path, "patch", words, scores, count, block)
    starts, rows, places = read(tmp_path)
    assert starts.shape == (count + 1,) and starts.dtype == np.int64
    assert rows.dtype == np.int32 and places.dtype == np.int16 and starts[-1] == words.size
    for word in range(count):
        part = slice(starts[word], starts[word + 1])
        got = list(zip(rows[part].tolist(), places[part].tolist(), strict=True))
        assert got == by_loop(words, scores, word)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "patch_places.npy",
        "patch_rows.npy",
        "patch_starts.npy",
    ]


def test_one_word_may_have_all(tmp_path):
    words, scores = random_case(40, 6, 1)
    write_postings(tmp_path, "patch", words + 4, scores, 9, block=16)
    starts, rows, places = read(tmp_path)
    assert starts.tolist() == [0] * 5 + [240] * 5
    assert list(zip(rows.tolist(), places.tolist(), strict=True)) == by_loop(words, scores, 0)


def test_more_words_and_patches_than_16_bits_hold(tmp_path):
    random = np.random.default_rng(0)
    words = random.integers(0, 2**17, (2, 40_000)).astype(np.int32)
    scores = random.standard_normal((2, 40_000)).astype(np.float16)
    write_postings(tmp_path, "patch", words, scores, 2**17, block=2**15)
    starts, rows, places = read(tmp_path)
    order = np.lexsort((-scores.ravel().astype(np.float32), words.ravel()))
    assert places.dtype == np.int32
    np.testing.assert_array_equal(rows, order // 40_000)
    np.testing.assert_array_equal(places, order % 40_000)
    np.testing.assert_array_equal(np.diff(starts), np.bincount(words.ravel(), minlength=2**17))


def test_codes_fall_as_scores_rise_for_every_number_of_16_bits():
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)]
    codes = falling(numbers).astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    rises = np.diff(numbers[order].astype(np.float32)) > 0
    np.testing.assert_array_equal(np.diff(codes[order]) < 0, rises)


def test_memory_does_not_grow_with_the_number_of_places(tmp_path):
    def peak(images):
        words, scores = random_case(images, 50, 300)
        tracemalloc.start()
        write_postings(tmp_path, "patch", words, scores, 300, block=2**12)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)  # what is imported and cached at the first call
    assert peak(8000) < 1.2 * peak(800)


def test_nothing_is_left_of_a_sort_that_fails_or_was_killed(tmp_path, monkeypatch):
    words, scores = random_case(5, 5, 3)
    (tmp_path / ".sorting").mkdir()
    (tmp_path / ".sorting" / "0.npy").write_text("of a process that is gone")
    monkeypatch.setattr("ibot.vocabulary.postings._sort", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_postings(tmp_path, "patch", words, scores, 3)
    assert not list(tmp_path.iterdir())
