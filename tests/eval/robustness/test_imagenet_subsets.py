import pytest
import torch

from ibot.eval.robustness.imagenet_subsets import IMAGENET_9, IMAGENET_A, to_nine

COUNTS = {
    "dog": 116,
    "bird": 52,
    "wheeled vehicle": 42,
    "reptile": 36,
    "carnivore": 35,
    "insect": 27,
    "musical instrument": 26,
    "primate": 20,
    "fish": 16,
}


def test_nine_classes_have_the_published_order_and_counts():
    assert [(name, len(members)) for name, members in IMAGENET_9.items()] == list(COUNTS.items())


def test_nine_classes_are_disjoint():
    members = [i for group in IMAGENET_9.values() for i in group]
    assert len(set(members)) == len(members) == 370
    assert min(members) == 0 and max(members) == 889


def test_to_nine_equals_a_search_in_the_lists():
    got = to_nine(torch.arange(1000))
    assert got.dtype == torch.int64
    for i in range(1000):
        want = [nine for nine, members in enumerate(IMAGENET_9.values()) if i in members] or [-1]
        assert got[i].item() == want[0]
    assert torch.bincount(got + 1).tolist() == [630, *COUNTS.values()]


def test_ends_of_ranges_are_mapped():
    # Tench, goldfinch, Chihuahua, golden retriever, timber wolf, tabby, bee, gorilla, convertible.
    known = torch.tensor([0, 11, 151, 207, 269, 281, 309, 366, 511])
    assert to_nine(known).tolist() == [8, 1, 0, 0, 4, -1, 5, 7, 2]
    assert to_nine(torch.tensor([150, 170, 171, 172, 173, 268])).tolist() == [-1, 0, -1, -1, 0, 0]


def test_to_nine_keeps_shape_and_takes_small_integers():
    assert to_nine(torch.tensor([[0, 5], [999, 7]], dtype=torch.int16)).tolist() == [
        [8, 8],
        [-1, 1],
    ]
    assert to_nine(torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_imagenet_a_has_200_classes_in_order():
    assert len(IMAGENET_A) == len(set(IMAGENET_A)) == 200
    assert list(IMAGENET_A) == sorted(IMAGENET_A)
    assert IMAGENET_A[0] == 6 and IMAGENET_A[-1] == 988
    # Sum of the published list, against a slip in a range.
    assert sum(IMAGENET_A) == 102178


@pytest.mark.parametrize("index", [-1, 1000])
def test_a_class_outside_imagenet_is_refused(index):
    with pytest.raises(ValueError, match=r"0\.\.999"):
        to_nine(torch.tensor([3, index]))
