import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.eval.neighbours.nearest import _Patient, _Rounded, largest, nearest, unit_rows


def unit(count, width, seed, mean=0.0, kind=torch.float32):
    """Rows of length 1 around a common direction, the nearer the larger `mean`."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=g, dtype=torch.float64) + mean * torch.ones(
        width, dtype=torch.float64
    )
    return F.normalize(rows, dim=1).to(kind)


def assert_same_neighbours(got, bank, queries, k):
    """Values are those of float64, no other row has a larger one; ties stand in any order."""
    products = queries.double() @ bank.double().T
    want = products.topk(min(k, len(bank)), dim=1).values
    values, index = got
    tolerance = 2e-6 * float(queries.double().norm(dim=1).max() * bank.double().norm(dim=1).max())
    torch.testing.assert_close(values.double(), want, atol=tolerance, rtol=0)
    torch.testing.assert_close(products.gather(1, index), want, atol=tolerance, rtol=0)
    assert all(len(set(row)) == len(row) for row in index.tolist())


def test_scaling_twice_changes_no_bit():
    rows = torch.cat([3 + torch.randn(500, 48), torch.zeros(2, 48)])
    once = unit_rows(rows)
    assert torch.equal(once, F.normalize(rows, dim=1)) and torch.equal(unit_rows(once), once)
    # What was scaled in float32 stays the same in a wider type too.
    assert torch.equal(unit_rows(once.double()), once.double())


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
    torch.testing.assert_close(
        values, (bank[:3] @ bank.T).topk(40, dim=1).values, atol=1e-6, rtol=0
    )


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


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e-19, 1e19, 1e38])
@pytest.mark.parametrize("screen", SCREENS)
def test_rows_near_the_ends_of_the_range(screen, scale):
    bank, queries = (
        unit(3000, 64, seed=6, kind=torch.float64),
        unit(20, 64, seed=7, kind=torch.float64),
    )
    want = nearest(bank, queries, 10, screen=None)[1]
    for factors in ((scale, scale), (scale, 1.0), (1.0, scale)):
        got = nearest(factors[0] * bank, factors[1] * queries, 10, block=500, screen=screen)[1]
        assert torch.equal(got, want), factors
    if scale < 1e38:
        bank, queries = (scale * bank).float(), queries.float()
        got = nearest(bank, queries, 10, block=500, screen=screen)
        assert_same_neighbours(
            (got[0].double() / scale, got[1]), bank.double() / scale, queries, 10
        )


@pytest.mark.parametrize("screen", SCREENS)
def test_products_that_cancel_beyond_the_range_of_float32(screen):
    bank = (
        torch.randn(2000, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64) * 1e18
    )
    bank[1200] = torch.tensor([9e19, -1e19], dtype=torch.float64)
    queries = torch.full((1, 2), 1e20, dtype=torch.float64)
    assert nearest(bank, queries, 1, block=500, screen=screen)[1].item() == 1200


def one_sided(width):
    """A row that rounding to bfloat16 moves as far down as it can; the sum is near 0.5."""
    up, down = 1 + 2**-8 - 2**-14, 1 + 2**-8 + 2**-14
    return torch.tensor([up, -down] * (width // 2 - 1) + [0.5, 0.0])


@pytest.mark.parametrize("moved", ["row", "query"])
def test_a_neighbour_that_rounding_puts_far_behind_is_found(moved):
    """Its rounded product is 0.26, that of the best row so far 0.4, its true one 0.496."""
    bank = torch.full((2000, 64), -1 / 64)
    bank[:64] = 0
    bank[:64:2, 0], bank[1:64:2, 0] = 0.4, -0.4  # the first block, with mean zero
    row, query = one_sided(64), torch.ones(64)
    if moved == "query":
        row, query = query, row
    bank[1500] = row
    assert query.bfloat16() @ row.bfloat16() < 0.3
    assert nearest(bank, query[None], 1, block=500, screen=torch.bfloat16)[1].item() == 1500


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_no_product_errs_by_more_than_its_bound(kind, seed):
    bank, queries = unit(2000, 64, seed=seed, mean=seed), unit(50, 64, seed=9 + seed, mean=seed)
    bank[7], queries[7] = one_sided(64), torch.ones(64)
    bank[8], queries[8] = torch.ones(64), one_sided(64)
    for centre in (bank[:100].mean(dim=0), torch.zeros(64)):
        block = _Rounded(bank, centre, kind, None)
        rounded, bound = block.round_queries(queries)
        # In float64, as the bound leaves the rounding of the result out.
        got = (
            rounded.double() @ block.rows.double().T + (queries.double() @ centre.double())[:, None]
        )
        assert ((got - queries.double() @ bank.double().T).abs() <= bound[:, None]).all()
        assert bound[20:].max() < (0.3 if kind is torch.bfloat16 else 0.01)


@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("screen", ["auto", torch.float32, torch.bfloat16])
def test_the_screen_rules_out_nearly_all(monkeypatch, screen, mean):
    candidates, left = _Rounded.candidates, []

    def spy(*arguments):
        pairs = candidates(*arguments)
        left.append(None if pairs is None else len(pairs[0]))
        return pairs

    monkeypatch.setattr(_Rounded, "candidates", spy)
    nearest(unit(30_000, 64, seed=0, mean=mean), unit(64, 64, seed=1, mean=mean), 10, screen=screen)
    assert None not in left and len(left) == 4
    assert (
        64 * 10 < sum(left) < 0.02 * 64 * 28_720
    )  # rows after the first block that were among the ten best for a time


def test_after_a_refusal_the_screen_is_left_alone_for_longer_and_longer():
    class Rounded:
        answer = None
        asked = 0

        def candidates(self, *_):
            self.asked += 1
            return self.answer

    patient, rounded = _Patient(), Rounded()
    asked = []
    for _ in range(20):
        patient.ask(rounded, None, None, 1)
        asked.append(rounded.asked)
    assert [i for i in range(20) if asked[i] != ([0, *asked])[i]] == [0, 2, 6, 14]
    rounded.answer = "pairs"
    assert [patient.ask(rounded, None, None, 1) for _ in range(12)] == [None] * 10 + ["pairs"] * 2


def test_features_in_tight_clusters_are_compared_the_plain_way(monkeypatch):
    g = torch.Generator().manual_seed(4)
    centres = unit(5, 32, seed=5)
    rows = F.normalize(
        centres[torch.randint(5, (40_000,), generator=g)] + 1e-3 * unit(40_000, 32, seed=6), dim=1
    )
    asked = []
    candidates = _Rounded.candidates
    monkeypatch.setattr(
        _Rounded, "candidates", lambda *a: asked.append(candidates(*a)) or asked[-1]
    )
    got = nearest(rows, rows[:20], 20, block=1000, screen=torch.bfloat16)
    assert_same_neighbours(got, rows, rows[:20], 20)
    assert 3 <= len(asked) <= 6 and asked == [None] * len(asked)


def test_nothing_to_find_is_refused():
    for bank, k in ((torch.zeros(0, 3), 1), (torch.zeros(4, 3), 0)):
        with pytest.raises(ValueError, match="cannot be found"):
            nearest(bank, torch.zeros(2, 3), k)


def test_progress_counts_the_rows():
    seen = []
    nearest(
        unit(2500, 8, seed=0),
        unit(3, 8, seed=1),
        4,
        block=1000,
        progress=lambda *done: seen.append(done),
    )
    assert (
        seen[-1] == (2500, 2500) and seen == sorted(seen) and {total for _, total in seen} == {2500}
    )


@pytest.mark.parametrize(
    ("count", "k"), [(1000, 1), (1003, 3), (5000, 20), (4999, 20), (700, 100), (5, 9), (1, 1)]
)
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
    np.save(
        tmp_path / "bank.npy",
        unit(1, 8, seed=0).repeat(30_000, 1) if alike else unit(30_000, 8, seed=0),
    )
    bank = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="c"))
    with largest_tensor() as watch:
        nearest(bank, bank[:300], 20, chunk=64, block=256, screen=screen)
    assert watch.numel <= 64 * 256  # all pairs are 9,000,000
