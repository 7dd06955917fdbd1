from collections import Counter

import numpy as np
import pytest

from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.open import open_labelled
from ibot.data.sets.subsets import LabelledSubset, listed_subset, split_labelled, stratified_subset
from ibot.data.sets.tars import open_tars


def loop_subset(labels, share):
    """How many of each class are wanted, counted one by one."""
    return {
        label: min(max(1, int(count * share + 0.5)), count)
        for label, count in Counter(labels.tolist()).items()
    }


@pytest.mark.parametrize("share", [0.01, 0.1, 0.33, 1.0])
def test_a_stratified_subset_has_its_share_of_each_class(share):
    labels = (
        np.random.default_rng(0)
        .permutation(np.repeat([0, 1, 2, 4], [1, 3, 200, 57]))
        .astype(np.int32)
    )
    chosen = stratified_subset(labels, share=share, seed=3)
    assert chosen.dtype == np.int64 and (np.diff(chosen) > 0).all()
    assert Counter(labels[chosen].tolist()) == loop_subset(labels, share)


def test_a_stratified_subset_can_be_counted_per_class():
    labels = np.repeat([0, 1, 2], [1, 5, 50])
    assert np.bincount(labels[stratified_subset(labels, per_class=3)]).tolist() == [1, 3, 3]


def test_subsets_repeat_with_their_seed_and_differ_with_another():
    labels = np.repeat([0, 1], [500, 500])
    first, again, other = (stratified_subset(labels, share=0.1, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # Every image has the same chance: the mean index of 100 draws lies within 5 standard errors.
    mean = np.mean([stratified_subset(labels, share=0.1, seed=seed).mean() for seed in range(100)])
    assert abs(mean - 499.5) < 5 * 288.7 / np.sqrt(100 * 100)


@pytest.mark.parametrize(
    "options",
    [{}, {"share": 0.1, "per_class": 1}, {"share": 0.0}, {"share": 1.5}, {"per_class": 0}],
)
def test_a_subset_is_either_a_share_or_a_count(options):
    with pytest.raises(ValueError, match="either a share"):
        stratified_subset(np.array([0, 1]), **options)


def test_a_split_is_stratified_and_leaves_each_class_something_to_train_on(tmp_path, make, names):
    files = [
        f"{name}/{i}.jpg" for name, count in (("a", 1), ("b", 2), ("c", 10)) for i in range(count)
    ]
    base = open_folder(make(tmp_path, *files))
    train, val = split_labelled(base, 0.3, seed=1)
    assert np.bincount(train.labels).tolist() == [1, 1, 7] and np.bincount(val.labels).tolist() == [
        0,
        1,
        3,
    ]
    assert sorted(names(train) + names(val)) == sorted(files) and train.classes == val.classes == (
        "a",
        "b",
        "c",
    )
    assert (
        names(split_labelled(base, 0.3, seed=1)[1])
        == names(val)
        != names(split_labelled(base, 0.3, seed=2)[1])
    )


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_split_takes_a_share_between_zero_and_one(tmp_path, share, make):
    base = open_folder(make(tmp_path, "a/1.jpg", "b/1.jpg"))
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_labelled(base, share)


def test_classes_of_one_image_cannot_be_split(tmp_path, make, refused):
    refused(
        open_labelled,
        str(make(tmp_path, "a/1.jpg", "b/1.jpg")),
        split=0.5,
        match="too small for a validation part",
    )


@pytest.fixture
def images(tmp_path, make):
    """Six images of two classes, named as those of ImageNet are."""
    return open_folder(
        make(tmp_path / "images", *(f"n0{c}/n0{c}_{i}.JPEG" for c in (1, 2) for i in range(3)))
    )


def test_a_published_list_of_names_is_found(tmp_path, write, images):
    file = write(tmp_path / "1percent.txt", "n02_1.JPEG", "n01_2.JPEG", "", "n02_1.JPEG")
    chosen = listed_subset(images, file)
    assert chosen.dtype == np.int64 and chosen.tolist() == [4, 2]
    file = write(tmp_path / "paths.txt", "n01/n01_0.JPEG", "./n02/n02_2.JPEG")
    assert listed_subset(images, file).tolist() == [0, 5]


def test_names_are_found_in_archives_too(tmp_path, write, tar):
    images = open_tars([tar(tmp_path / "a.tar", "train/n01/n01_0.JPEG", "train/n02/n02_0.JPEG")])
    assert listed_subset(images, write(tmp_path / "l.txt", "n02_0.JPEG")).tolist() == [1]


def test_the_part_before_the_underscore_is_the_class(tmp_path, make, write, names, refused):
    base = open_folder(
        make(
            tmp_path / "images",
            "cat/cat_1.jpg",
            "dog/cat_1.jpg",
            "dog/dog_1.jpg",
            "cat/2.jpg",
            "dog/2.jpg",
        )
    )
    assert names(
        LabelledSubset(base, listed_subset(base, write(tmp_path / "a.txt", "cat_1.jpg")))
    ) == ["cat/cat_1.jpg"]
    error = refused(
        listed_subset,
        base,
        write(tmp_path / "b.txt", "dog_1.jpg", "2.jpg"),
        match="line 2 .*'2.jpg'.* 2",
    )
    assert "write paths" in error.fix


def test_names_that_the_set_lacks_are_counted(tmp_path, write, refused, images):
    file = write(tmp_path / "l.txt", "n01_0.JPEG", "n01_9.JPEG", "n01/n02_1.JPEG", "n03_0.JPEG")
    error = refused(
        listed_subset, images, file, match="line 2 .* names 'n01_9.JPEG', of which there are 0"
    )
    assert error.why.startswith("3 of 4 names")


def test_lists_of_names_that_are_missing_or_empty_are_refused(tmp_path, write, refused, images):
    refused(listed_subset, images, tmp_path / "none.txt", match="cannot be read")
    refused(listed_subset, images, write(tmp_path / "l.txt", "", " "), match="is empty")
