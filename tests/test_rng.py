import numpy as np
import pytest

from ibot.rng import MAX_DRAWS, Purpose, permutation, philox, torch_seed, uniform, words


def test_philox_gives_the_published_words():
    zeros, ones = np.zeros(4, np.uint64), np.full(4, 0xFFFFFFFF, np.uint64)
    assert [f"{int(w):08x}" for w in philox((0, 0), zeros)] == [
        "6627e8d5",
        "e169c58d",
        "bc57ac4c",
        "9b00dbd8",
    ]
    assert [f"{int(w):08x}" for w in philox((0xFFFFFFFF, 0xFFFFFFFF), ones)] == [
        "408f276d",
        "41c83b0e",
        "a20bc7c6",
        "6d5451fd",
    ]


def test_a_number_depends_on_its_coordinates_alone():
    together = uniform(3, 1, np.arange(50)[:, None], np.arange(4), Purpose.BOX, 7)
    for i, v in ((0, 0), (17, 3), (49, 2)):
        np.testing.assert_array_equal(together[i, v], uniform(3, 1, i, v, Purpose.BOX, 7))
    np.testing.assert_array_equal(
        together[..., :3], uniform(3, 1, np.arange(50)[:, None], np.arange(4), Purpose.BOX, 3)
    )


@pytest.mark.parametrize("changed", ["seed", "epoch", "index", "view", "purpose"])
def test_every_coordinate_changes_the_numbers(changed):
    base = {"seed": 1, "epoch": 2, "index": 3, "view": 4, "purpose": Purpose.BOX}
    other = base | {changed: Purpose.COLOR if changed == "purpose" else base[changed] + 1}
    assert (words(**base, count=8) != words(**other, count=8)).all()


def plain_philox(key, counter):
    """The published algorithm with Python's integers."""
    c, k = [int(word) for word in counter], list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & 0xFFFFFFFF, (p >> 32) ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize("seed", range(5))
def test_philox_equals_the_same_in_integers(seed):
    key, counter = np.random.default_rng(seed).integers(0, 2**32, (2, 4), dtype=np.uint64)
    key = int(key[0]), int(key[1])
    assert philox(key, counter).tolist() == plain_philox(key, counter)
    wide = key[0] + (seed << 32), key[1] + (seed << 40)  # more than 32 bits
    assert philox(wide, counter).tolist() == plain_philox(key, counter)


def test_words_are_those_of_the_coordinates_in_key_and_counter():
    index, view = 5 * 2**32 + 7, 3
    got = words(11, 2, index, view, Purpose.MASK_BLOCK, 9)
    blocks = [
        plain_philox((11, Purpose.MASK_BLOCK), (7, 5, 2, 64 * view + block)) for block in range(3)
    ]
    assert got.tolist() == [word for block in blocks for word in block][:9] and got.shape == (9,)
    np.testing.assert_array_equal(uniform(11, 2, index, view, Purpose.MASK_BLOCK, 9), got / 2**32)
    assert words(11, 2, index, view, Purpose.BOX, MAX_DRAWS).shape == (256,)
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"not {count}"):
            words(0, 0, 0, 0, Purpose.BOX, count)


def test_an_order_sorts_the_words_of_the_images():
    drawn = [words(4, 2, i, 0, Purpose.ORDER, 2) for i in range(50)]
    want = sorted(range(50), key=lambda i: int(drawn[i][0]) * 2**32 + int(drawn[i][1]))
    assert permutation(4, 2, 50).tolist() == want


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 50])
def test_an_order_drawn_in_blocks_is_that_drawn_at_once(size, monkeypatch):
    whole = permutation(4, 2, size)
    monkeypatch.setattr("ibot.rng.AT_ONCE", 7)
    np.testing.assert_array_equal(permutation(4, 2, size), whole)


def test_a_seed_of_a_step_is_made_of_two_words():
    high, low = words(9, 0, 12, 3, Purpose.DROP_PATH, 2)
    assert torch_seed(9, 12, 3, Purpose.DROP_PATH) == (int(high) % 2**31) * 2**32 + int(low)


def test_purposes_keep_their_numbers():
    of_training = [
        "ORDER",
        "BOX",
        "COLOR",
        "MASK_RATIO",
        "MASK_BLOCK",
        "REPLACE",
        "DROP_PATH",
        "INIT",
        "SCENE",
        "MASK_RANDOM",
        "WINDOW",
        "BRANCH",
        "REEF",
    ]
    assert [Purpose[name].value for name in of_training] == list(range(13))
    of_evaluations = {
        "DROP_PATCHES": 0x45560000,
        "SHUFFLE_BLOCKS": 0x45560001,
        "CORRUPTION": 0x45560002,
        "FINETUNE_VIEW": 0x46540000,
        "FINETUNE_MIX": 0x46540001,
        "MATCH_BOX": 0x4D540000,
        "MATCH_COLOR": 0x4D540001,
        "DENSE_BANK": 0x4D540002,
        "SEGMENT_VIEW": 0x53450000,
        "SEGMENT_COLOUR": 0x53450001,
        "COPY_ATTACK": 0x52540000,
        "DETECTION_ANCHORS": 0x44450000,
        "DETECTION_BOXES_1": 0x44450001,
        "DETECTION_BOXES_2": 0x44450002,
        "DETECTION_BOXES_3": 0x44450003,
        "DETECTION_VIEW": 0x44450100,
        "DETECTION_ORDER": 0x44450101,
    }
    assert {name: Purpose[name].value for name in of_evaluations} == of_evaluations
    # One that is added gets a number of its own, and a line here.
    assert len(Purpose.__members__) == len(Purpose) == len(of_training) + len(of_evaluations)


def test_numbers_are_uniform_and_uncorrelated():
    drawn = uniform(0, 0, np.arange(20000), 0, Purpose.BOX, 4)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / drawn.size) ** 0.5
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.03


def test_an_order_is_a_permutation_that_differs_between_epochs_and_seeds():
    orders = [permutation(seed, epoch, 1000) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert (orders[0] != orders[1]).mean() > 0.9 and (orders[0] != orders[2]).mean() > 0.9


def test_more_draws_than_a_counter_holds_are_refused():
    with pytest.raises(ValueError, match=str(MAX_DRAWS)):
        words(0, 0, 0, 0, Purpose.BOX, MAX_DRAWS + 1)


def test_seeds_of_steps_and_ranks_differ():
    seeds = {
        torch_seed(0, step, rank, Purpose.DROP_PATH) for step in range(50) for rank in range(8)
    }
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)
