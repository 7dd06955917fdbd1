import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.explore.duplicates import near_duplicates
from ibot.explore.resemblance import nearest_images, nearest_patches, outliers, unscalable

BLOCKS = [(1024, 4096), (5, 7), (1, 1), (23, 57)]


def unit(*shape, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=dtype), dim=-1)


def families(seed, centres=12, dim=5):
    """Copies of a few directions with noise, in random order: groups, chains and loners."""
    g = torch.Generator().manual_seed(seed)
    copies = torch.randint(1, 9, (centres,), generator=g)
    noise = 0.15 * torch.rand(int(copies.sum()), 1, generator=g, dtype=torch.float64)
    points = unit(centres, dim, seed=seed + 100).repeat_interleave(copies, 0)
    points = F.normalize(
        points + noise * torch.randn(points.shape, generator=g, dtype=torch.float64), dim=1
    )
    return points[torch.randperm(len(points), generator=g)]


def arc(num, step):
    """Points on a circle, `step` radians apart, in a random order."""
    angle = torch.randperm(num, generator=torch.Generator().manual_seed(num)).double() * step
    return torch.stack([angle.cos(), angle.sin()], 1)


def loop_neighbours(bank, query, k, own=None):
    similarity = [(float(query @ row), i) for i, row in enumerate(bank) if i != own]
    return sorted(similarity, reverse=True)[:k]


def loop_groups(points, threshold):
    """Members of each group with their cosines to the first, the largest groups first."""
    groups = []
    for i, point in enumerate(points):
        for group in groups:
            cosine = float(points[group[0][0]] @ point)
            if cosine >= threshold:
                group.append((i, cosine))
                break
        else:
            groups.append([(i, 1.0)])
    return sorted(
        (group for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0])
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("chunk", "block"), BLOCKS)
def test_nearest_images_equal_the_loop(seed, chunk, block):
    bank, queries = unit(57, 6, seed=seed), unit(11, 6, seed=seed + 50)
    similarity, index = nearest_images(bank, queries, 9, chunk=chunk, block=block)
    for row, query in enumerate(queries):
        want = loop_neighbours(bank, query, 9)
        assert index[row].tolist() == [i for _, i in want]
        assert similarity[row].tolist() == pytest.approx([value for value, _ in want], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_query_is_left_out_of_its_own_answers(seed):
    bank = unit(40, 6, seed=seed)
    own = torch.tensor([39, 0, 7, 7])
    _, index = nearest_images(bank, bank[own], 5, exclude=own, chunk=3, block=6)
    assert index.tolist() == [
        [i for _, i in loop_neighbours(bank, bank[o], 5, int(o))] for o in own
    ]


def test_a_query_is_left_out_among_many_copies_of_itself():
    bank = unit(1, 6, seed=0).repeat(30, 1)
    _, index = nearest_images(bank, bank, 3, exclude=torch.arange(30), block=4)
    assert index.shape == (30, 3) and (index != torch.arange(30)[:, None]).all()
    assert all(len(set(row)) == 3 for row in index.tolist())


def test_k_is_cut_to_the_images_there_are():
    bank = unit(4, 3, seed=0)
    assert nearest_images(bank, bank, 9)[1].shape == (4, 4)
    assert nearest_images(bank, bank, 9, exclude=torch.arange(4))[1].shape == (4, 3)
    assert nearest_images(bank[:1], bank[:1], 9, exclude=torch.tensor([0]))[1].shape == (1, 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.98])
def test_near_duplicates_equal_the_loop(seed, threshold):
    points = families(seed)
    want = loop_groups(points, threshold)
    assert want
    for block in (2048, 7, 1):
        got = near_duplicates(points, threshold, block=block)
        assert [group.index.tolist() for group in got] == [
            [i for i, _ in members] for members in want
        ]
        for group, members in zip(got, want, strict=True):
            assert group.similarity.tolist() == pytest.approx(
                [cosine for _, cosine in members], abs=1e-12
            )


@pytest.mark.parametrize("threshold", [-1, 0.0, 0.3, 0.6, 0.95])
def test_no_member_is_below_the_threshold_and_no_two_leaders_are_alike(threshold):
    """Where a network finds all images alike, pairs join nearly all of them in one chain."""
    points = unit(400, 6, seed=3, dtype=torch.float32)
    leader = torch.arange(400)
    for group in near_duplicates(points, threshold, block=64):
        assert group.similarity[0] == 1 and min(group.similarity.tolist()) >= threshold
        assert (group.index.diff() > 0).all()
        leader[group.index] = group.index[0]
        cosines = points[group.index].double() @ points[group.index[0]].double()
        assert group.similarity.tolist() == pytest.approx(cosines.tolist(), abs=1e-6)
    chosen = points[leader.unique()].double()
    between = (chosen @ chosen.T).fill_diagonal_(-2)
    assert between.max() < threshold + 1e-6 or len(chosen) == 1


@pytest.mark.parametrize("block", [2048, 64, 1])
def test_a_long_chain_is_cut_where_its_ends_differ(block):
    angle = torch.arange(100).double() * 0.01
    chain = torch.stack([angle.cos(), angle.sin()], 1)
    groups = near_duplicates(chain, math.cos(0.0901), block=block)
    assert [group.index.tolist() for group in groups] == [
        list(range(i, i + 10)) for i in range(0, 100, 10)
    ]
    assert [min(group.similarity.tolist()) for group in groups] == pytest.approx(
        [math.cos(0.09)] * 10
    )
    assert near_duplicates(chain, math.cos(0.0099), block=block) == []


@pytest.mark.parametrize("block", [2048, 2, 1])
def test_an_image_between_two_leaders_joins_the_earlier_one(block):
    angle = torch.tensor([0.0, 0.15, 0.08]).double()
    (group,) = near_duplicates(
        torch.stack([angle.cos(), angle.sin()], 1), math.cos(0.1), block=block
    )
    assert group.index.tolist() == [0, 2]


@pytest.mark.parametrize("step", range(-3, 4))
def test_a_threshold_between_two_numbers_of_32_bits_is_kept(step):
    """The number of 32 bits nearest to 0.95 is below it."""
    cosine = float(np.float32(0.95)) + step * 2.0**-24
    points = torch.tensor([[1, 0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float32)
    groups = near_duplicates(points, 0.95)
    assert len(groups) == (float(points[1, 0]) >= 0.95)
    assert all(similarity >= 0.95 for group in groups for similarity in group.similarity.tolist())


def test_equal_images_are_one_group_of_similarity_one():
    (group,) = near_duplicates(unit(1, 6, seed=0).repeat(1500, 1).float(), 0.9999, block=512)
    assert len(group.index) == 1500 and group.similarity.tolist() == pytest.approx(
        [1] * 1500, abs=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("chunk", "block"), BLOCKS)
def test_outliers_equal_the_loop(seed, chunk, block):
    points = families(seed)
    loop = [
        np.mean([value for value, _ in loop_neighbours(points, row, 4, i)])
        for i, row in enumerate(points)
    ]
    want = np.argsort(loop)[:6]
    similarity, index = outliers(points, 4, 6, chunk=chunk, block=block)
    assert index.tolist() == want.tolist()
    assert similarity.tolist() == pytest.approx([loop[i] for i in want], abs=1e-12)


def test_the_odd_one_out_comes_first():
    points = torch.cat([arc(20, 0.01), torch.tensor([[0.0, -1.0]]).double()])
    assert outliers(points, 5, 3)[1][0] == 20
    assert len(outliers(points, 500, 500)[1]) == 21


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [2**24, 100, 1])
def test_nearest_patches_equal_the_loop(seed, block):
    g = torch.Generator().manual_seed(seed)
    patches, query = (
        torch.randn(13, 9, 6, generator=g, dtype=torch.float64),
        3 * unit(6, seed=seed + 50),
    )
    cosine = [
        [float(F.cosine_similarity(patch, query, dim=0)) for patch in image] for image in patches
    ]
    want = sorted(
        ((max(row), i, int(np.argmax(row))) for i, row in enumerate(cosine)), reverse=True
    )
    for exclude in (None, want[0][1]):
        image, patch, similarity = nearest_patches(patches, query, 5, exclude, block=block)
        expected = [item for item in want if item[1] != exclude][:5]
        assert list(zip(image.tolist(), patch.tolist(), strict=True)) == [
            (i, j) for _, i, j in expected
        ]
        assert similarity.tolist() == pytest.approx([value for value, _, _ in expected], abs=1e-12)
    assert nearest_patches(patches, query, 99, 4)[0].shape == (12,)


@pytest.mark.filterwarnings("error")  # torch warns of memory that is read-only
def test_patches_may_be_mapped_from_a_file_of_16_bits(tmp_path):
    patches = torch.randn(20, 9, 6, generator=torch.Generator().manual_seed(0)).half()
    stored = np.memmap(tmp_path / "patches", np.float16, "w+", shape=(20, 9, 6))
    stored[:] = patches.numpy()
    stored.flush()
    mapped = np.memmap(tmp_path / "patches", np.float16, "r", shape=(20, 9, 6))
    image, patch, similarity = nearest_patches(mapped, patches[7, 3].float(), 20, block=120)
    assert (image[0], patch[0]) == (7, 3) and similarity[0] == pytest.approx(1, abs=1e-6)
    for got, want in zip(
        (image, patch, similarity), nearest_patches(patches, patches[7, 3].float(), 20), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_a_patch_without_length_resembles_nothing():
    image, _, similarity = nearest_patches(torch.zeros(2, 3, 4), torch.ones(4), 5)
    assert image.tolist() == [0, 1] and similarity.tolist() == [0, 0]


@pytest.mark.parametrize("alike", [False, True])
def test_no_tensor_of_all_pairs_is_built(alike, largest_tensor):
    features = unit(1, 8, seed=0).repeat(3000, 1) if alike else unit(3000, 8, seed=0)
    with largest_tensor() as search:
        near_duplicates(features, 0.5, block=128)
        nearest_images(features, features[:500], 20, chunk=64, block=256)
        outliers(features, 20, 10, chunk=64, block=256)
    assert search.numel <= 3000 * 21  # the answers; all pairs are 9,000,000


def scaled(seed, num=3000, width=64):
    """Rows of different lengths around few directions, float32, and those of length 1."""
    g = torch.Generator().manual_seed(seed)
    points = unit(50, width, seed=seed).repeat(num // 50, 1) + 0.05 * torch.randn(
        num, width, generator=g
    )
    rows = (10 * torch.rand(num, 1, generator=g) + 0.1) * points
    return rows.float(), F.normalize(rows.float(), dim=1)


def test_rows_scaled_on_the_way_give_what_rows_of_length_one_give():
    (rows, ones), (asked, asked_ones) = scaled(0, num=300), scaled(1, num=50)
    for threshold in (0.5, 0.8):
        got, want = (
            near_duplicates(x, threshold, scale=s, block=64)
            for x, s in ((rows, True), (ones, False))
        )
        assert len(got) > 1 and len(got) == len(want)
        for group, other in zip(got, want, strict=True):
            assert torch.equal(group.index, other.index)
            torch.testing.assert_close(group.similarity, other.similarity, atol=1e-6, rtol=0)
    own = torch.arange(20)
    pairs = [
        (
            nearest_images(rows, asked, 5, scale=True, block=64),
            nearest_images(ones, asked_ones, 5, block=64),
        ),
        (
            nearest_images(rows, rows[:20], 5, own, scale=True, chunk=7),
            nearest_images(ones, ones[:20], 5, own),
        ),
        (outliers(rows, 5, 9, scale=True, chunk=7, block=64), outliers(ones, 5, 9)),
    ]
    for got, want in pairs:
        for part, other in zip(got, want, strict=True):
            torch.testing.assert_close(part, other, atol=1e-6, rtol=0)


def test_rows_without_a_direction_are_named():
    rows = torch.ones(6, 3)
    rows[1], rows[3, 0], rows[4, 2] = 0, torch.nan, -torch.inf
    assert unscalable(rows).tolist() == [1, 3, 4]


def test_no_copy_of_rows_in_a_file_is_built(tmp_path, largest_tensor):
    features = scaled(0)[0]
    np.save(tmp_path / "rows.npy", features.numpy())
    rows = torch.from_numpy(np.load(tmp_path / "rows.npy", mmap_mode="c"))
    with largest_tensor() as search:
        assert not len(unscalable(rows))
        assert near_duplicates(rows, 0.5, scale=True, block=128)
        nearest_images(rows, features[:100], 5, scale=True, chunk=64, block=256)
        outliers(rows, 5, 10, scale=True, chunk=64, block=256)
    assert search.numel <= 3000 * 6 < features.numel() / 10  # the answers


def test_patches_are_read_in_parts(tmp_path, largest_tensor):
    np.memmap(tmp_path / "patches", np.float32, "w+", shape=(400, 16, 8))[:] = 1
    mapped = np.memmap(tmp_path / "patches", np.float32, "r", shape=(400, 16, 8))
    with largest_tensor() as search:
        nearest_patches(mapped, torch.ones(8), 3, block=1000)
    assert search.numel <= 1000


UNIT = unit(4, 3, seed=0)
WRONG = {
    "a flat bank": (lambda: nearest_images(UNIT[0], UNIT, 1), r"float64 \[3\]"),
    "no images": (lambda: near_duplicates(UNIT[:0], 0.5), r"\[0, 3\]"),
    "16 bits": (lambda: outliers(UNIT.half(), 1, 1), r"float16"),
    "another width": (
        lambda: nearest_images(UNIT, unit(2, 5, seed=0), 1),
        r"float64 \[4, 3\].*float64 \[2, 5\]",
    ),
    "another type": (lambda: nearest_images(UNIT, UNIT.float(), 1), "float32"),
    "a length": (
        lambda: near_duplicates(UNIT * torch.tensor([[1], [1], [2], [1]]), 0.5),
        "number 2 is 2",
    ),
    "no length to scale": (
        lambda: near_duplicates(UNIT * UNIT.new_tensor([1, 0, 1, 1])[:, None], 0.5, scale=True),
        "number 1 is 0",
    ),
    "no number to scale": (lambda: outliers(UNIT * torch.nan, 1, 1, scale=True), "number 0 is nan"),
    "infinity to scale": (
        lambda: nearest_images(UNIT, UNIT * torch.inf, 1, scale=True),
        "number 0 is inf",
    ),
    "no number": (lambda: outliers(UNIT * torch.nan, 1, 1), "number 0 is nan"),
    "no neighbours": (lambda: nearest_images(UNIT, UNIT, 0), "k must be at least 1, not 0"),
    "no outliers": (lambda: outliers(UNIT, 1, 0), "count must be at least 1"),
    "one image": (lambda: outliers(UNIT[:1], 1, 1), "single image"),
    "a threshold in per cent": (lambda: near_duplicates(UNIT, 95), "not at 95"),
    "no threshold": (lambda: near_duplicates(UNIT, math.nan), "nan"),
    "excluded beyond": (lambda: nearest_images(UNIT, UNIT[:1], 1, torch.tensor([4])), r"0\.\.3"),
    "excluded too few": (
        lambda: nearest_images(UNIT, UNIT, 1, torch.tensor([0])),
        r"int64 \[4\].*int64 \[1\]",
    ),
    "flat patches": (lambda: nearest_patches(UNIT, UNIT[0], 1), r"\(4, 3\)"),
    "another patch": (lambda: nearest_patches(UNIT[None], UNIT[0, :2], 1), r"\(1, 4, 3\).*\(2,\)"),
    "a query of 16 bits": (lambda: nearest_patches(UNIT[None], UNIT[0].half(), 1), "float16"),
    "an image that is not there": (lambda: nearest_patches(UNIT[None], UNIT[0], 1, 1), "image 1"),
    "infinite patches": (
        lambda: nearest_patches(torch.stack([UNIT, UNIT * torch.inf]), UNIT[0], 1),
        "image 1 are not finite",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call()
