"""Label maps beside the truth."""

import numpy as np

from ibot.data.annotated.label_coding import IGNORED, Coding
from ibot.show.label_maps import GAP, HEIGHT, LEFT_OUT, LINE, coloured, label_picture


def test_classes_have_their_colours_and_what_is_left_out_is_white():
    coding = Coding(classes=("sea", "land"), colours=((0, 0, 200), (0, 200, 0)))
    labels = np.array([[0, 1], [IGNORED, 1]], np.int16)
    picture = coloured(labels, coding.palette())
    assert picture.tolist() == [[[0, 0, 200], [0, 200, 0]], [list(LEFT_OUT), [0, 200, 0]]]


def test_image_truth_and_found_stand_side_by_side_above_the_classes_that_occur():
    coding = Coding(classes=("sea", "land", "sky"), colours=((0, 0, 200), (0, 200, 0), (9, 9, 9)))
    image = np.full((30, 60, 3), 77, np.uint8)
    truth, found = np.zeros((30, 60), np.int16), np.ones((30, 60), np.int16)
    sheet = label_picture(image, truth, found, coding)
    width, middle = 2 * HEIGHT, GAP + LINE + HEIGHT // 2
    centres = [sheet[middle, GAP + i * (width + GAP) + width // 2].tolist() for i in range(3)]
    assert centres == [[77, 77, 77], [0, 0, 200], [0, 200, 0]]
    legend = sheet[GAP + LINE + HEIGHT :].reshape(-1, 3).tolist()
    assert [0, 0, 200] in legend and [0, 200, 0] in legend and [9, 9, 9] not in legend
    assert list(LEFT_OUT) not in legend
    truth[3:9] = IGNORED
    legend = label_picture(image, truth, found, coding)[GAP + LINE + HEIGHT :]
    assert (legend == LEFT_OUT).all(axis=-1).any()
