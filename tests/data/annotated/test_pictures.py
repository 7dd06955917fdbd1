"""Which folder of an annotated set evaluations of plain pictures read."""

import pytest

from ibot.data.annotated.pictures import pictures_of


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        (["train", "trainannot", "val", "valannot"], "train"),
        (["train", "train_labels"], "train"),
        (["images/training", "images/validation", "annotations/training"], "images"),
        (["JPEGImages/480p/dog", "Annotations/480p/dog"], "JPEGImages/480p"),
        (["JPEGImages/dog", "Annotations/dog"], "JPEGImages"),
        (["original", "strong", "jpegqual/20"], "original"),
        # Nothing says that these are no classes.
        (["original", "fake"], "."),
        (["train", "val", "annotations"], "."),
        (["images", "jpg"], "."),
        (["cats", "dogs"], "."),
    ],
)
def test_masks_label_maps_and_copies_are_no_pictures(folders, wanted, tmp_path):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert pictures_of(str(tmp_path)) == str(tmp_path / wanted)


@pytest.mark.parametrize("data", ["", "cifar10:somewhere", "list.csv", "train-*.tar"])
def test_what_is_no_folder_stays_as_it_is(data):
    assert pictures_of(data) == data
