import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.eval.nearest import _Product, _Rounded, largest, nearest


def unit(count, width, seed, mean=0.0, kind=torch.float32):
    """Rows of length 1 around a common direction, the nearer the larger `mean`."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=g, dtype=torch.float64) + mean * torch.ones(width, dtype=torch.float64)
    return F.normalize(rows, dim=1).to(kind)


def assert_same_neighbours(got, bank, queries, k):
    """Values are those of float64, and no other row has a larger one; ties in rounding may stand in any order."""
    products = queries.double() @ bank.double().T
    want = products.topk(min(k, len(bank)), dim=1).values
    values, index = got
    tolerance = 2e-6 * float(queries.double().norm(dim=1).max() * bank.double().norm(dim=1).max())
    torch.testing.assert_close(values.double(), want, atol=tolerance, rtol=0)
    torch.testing.assert_close(products.gather(1, index), want, atol=tolerance, rtol=0)
    assert all(len(set(row)) == len(row) for row in index.tolist())


SCREENS = [None, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("mean", [0.0, 0.3, 3.0, 30.0])
@pytest.mark.parametrize(("count", "k"), [(5000, 1), (5003, 5), (4999, 20), (6000, 90)])
def test_every_screen_finds_the_neighbours_of_the_plain_way(screen, mean, count, k):
    bank, queries = unit(count, 48, seed=count + k, mean=mean), unit(37, 48, seed=k, mean=mean)
    got = nearest(bank, queries, k, chunk=16, block=1000, screen=screen)
    assert_same_neighbours(got, bank, queries, k)


@pytest.mark.parametrize("screen", SCREENS)
def test_rows_of_any_length_and_type(screen):
    g = torch.Generator().manual_seed(3)
    bank = unit(3000, 32, seed=4) * (10 ** torch.randn(3000, 1, generator=g)) + 5
    queries = unit(20, 32, seed=5) * 100
    assert_same_neighbours(nearest(bank, queries, 7, block=512, screen=screen), bank, queries, 7)
    scaled = nearest(bank, queries, 7, block=512, screen=screen, scale=True)
    assert_same_neighbours(scaled, F.normalize(bank, dim=1), F.normalize(queries, dim=1), 7)
    double = nearest(bank.double(), queries.double(), 7, block=512, screen=screen)
    assert double[0].dtype is torch.float64
    want = (queries.double() @ bank.double().T).topk(7, dim=1).values
    torch.testing.assert_close(double[0], want, rtol=1e-12, atol=1e-9)
    half = nearest(bank.half(), queries.half(), 7, block=512, screen=screen)
    assert half[0].dtype is torch.float32
    assert_same_neighbours(half, bank.half(), queries.half(), 7)


@pytest.mark.parametrize("screen", SCREENS)
def test_copies_are_all_found(screen):
    bank = unit(1, 16, seed=0).repeat(3000, 1)
    bank[1::2] = unit(1500, 16, seed=1)
    values, index = nearest(bank, bank[:3], 40, chunk=2, block=256, screen=screen)
    assert values[0].min() > 1 - 1e-6 and (index[0] % 2 == 0).all() and len(index[0].unique()) == 40
    torch.testing.assert_close(values, (bank[:3] @ bank.T).topk(40, dim=1).values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("screen", SCREENS)
def test_the_best_row_is_found_wherever_it_lies(screen):
    bank, query = 0.1 * unit(1000, 24, seed=2), unit(1, 24, seed=3)
    for place in (0, 1, 95, 96, 511, 512, 998, 999):
        rows = bank.clone()
        rows[place] = query[0]
        assert nearest(rows, query, 2, block=128, screen=screen)[1][0, 0] == place


@pytest.mark.parametrize("screen", SCREENS)
def test_more_answers_than_rows_and_a_single_row(screen):
    bank, queries = unit(9, 4, seed=0), unit(3, 4, seed=1)
    values, index = nearest(bank, queries, 20, block=4, screen=screen)
    assert values.shape == index.shape == (3, 9)
    assert_same_neighbours((values, index), bank, queries, 9)
    assert nearest(bank[:1], queries, 5, screen=screen)[1].tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("screen", SCREENS)
def test_what_is_not_a_number_is_not_hidden(screen):
    bank, queries = unit(900, 8, seed=0), unit(4, 8, seed=1)
    bank[700] = torch.nan
    values, _ = nearest(bank, queries, 2, block=128, screen=screen)
    assert values.isnan().any(dim=1).all()
    queries[2] = torch.nan
    values, _ = nearest(bank[:700], queries, 2, block=128, screen=screen)
    assert values.isnan().any(dim=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_no_product_errs_by_more_than_its_bound(kind, seed):
    bank, queries = unit(2000, 64, seed=seed, mean=seed), unit(50, 64, seed=9 + seed, mean=seed)
    centre = bank[:100].mean(dim=0)
    block = _Rounded.of(bank, centre, kind)
    rounded = queries.to(kind)
    bound = block._error(queries, rounded.float())[:, None]
    # In float64, so that the rounding of the result, which is accounted for apart, does not count.
    exact = queries.double() @ (bank - centre).double().T
    assert ((rounded.double() @ block.rows.double().T - exact).abs() <= bound).all()
    assert bound.max() < (0.01 if kind is torch.bfloat16 else 1e-4)


def test_the_screen_rules_out_nearly_all():
    bank, queries = unit(8192, 64, seed=0), unit(64, 64, seed=1)
    best = (queries @ bank.T).topk(10, dim=1).values[:, -1]
    found = _Rounded.of(bank, bank.new_zeros(64), torch.bfloat16).candidates(queries, best, 10, _Product())
    assert found is not None and 640 <= len(found[0]) <= 2000
    assert torch.equal(found[0], found[0].sort().values)


@pytest.mark.parametrize(("count", "k"), [(1000, 1), (1003, 3), (5000, 20), (4999, 20), (700, 100), (5, 9), (1, 1)])
def test_selection_by_group_maxima_equals_topk(count, k):
    values = torch.randn(7, count, generator=torch.Generator().manual_seed(count))
    values[0] = values[0].sort().values  # the largest stand side by side
    values[1] = values[1].sort(descending=True).values
    values[2, ::64] += 10
    got, want = largest(values, k), values.topk(min(k, count), dim=1)
    assert torch.equal(got[0], want.values) and torch.equal(got[1], want.indices)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("alike", [False, True])
def test_no_tensor_of_all_pairs_is_built(tmp_path, screen, alike, largest_tensor):
    np.save(tmp_path / "bank.npy", unit(1, 8, seed=0).repeat(30_000, 1) if alike else unit(30_000, 8, seed=0))
    bank = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="c"))
    with largest_tensor() as watch:
        nearest(bank, bank[:300], 20, chunk=64, block=256, screen=screen)
    assert watch.numel <= 64 * 256  # all pairs are 9,000,000
