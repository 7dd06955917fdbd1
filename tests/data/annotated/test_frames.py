"""Videos in any of the layouts that a user may name."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ibot.data.annotated.frames import open_videos
from ibot.data.sets.images import Images
from ibot.errors import DataError


def write(file, level=0, size=(12, 8)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], level, np.uint8)).save(file)


def write_video(folder, count=3, suffix=".jpg", **more):
    for i in range(count):
        write(folder / f"{i:05d}{suffix}", **more)


@pytest.fixture
def davis(tmp_path):
    """Videos a, b and c, of which the lists name c and a in 2017, b in 2016."""
    for name in "abc":
        write_video(tmp_path / "davis" / "JPEGImages" / "480p" / name)
        write_video(tmp_path / "davis" / "Annotations" / "480p" / name, suffix=".png", level=1)
    for year, text in {
        "2016": "/JPEGImages/480p/b/00000.jpg /Annotations/480p/b/00000.png\n" * 2,
        "2017": "c\na\n\n",
    }.items():
        file = tmp_path / "davis" / "ImageSets" / year / "val.txt"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return tmp_path / "davis"


def names(videos):
    return [video.name for video in videos]


def test_davis_has_a_list_for_each_year(davis):
    frames = open_videos(str(davis))
    assert isinstance(frames, Images) and len(frames) == 9
    assert frames.name(4) == "JPEGImages/480p/b/00001.jpg" and frames.root == davis
    assert names(frames.listed("auto")) == names(frames.listed("2017")) == ["c", "a"]
    (only,) = frames.listed("2016")
    assert only.name == "b" and list(only.numbers) == [3, 4, 5]
    assert only.masks[2] == str(davis / "Annotations" / "480p" / "b" / "00002.png")


def test_without_lists_and_resolutions_all_videos_are_taken(davis):
    for part in ("JPEGImages", "Annotations"):
        for folder in (davis / part / "480p").iterdir():
            folder.rename(davis / part / folder.name)
        (davis / part / "480p").rmdir()
    (davis / "ImageSets").rename(davis.with_name("elsewhere"))
    assert names(open_videos(str(davis)).listed("2016")) == ["a", "b", "c"]


def test_other_masks_choose_the_videos_that_have_some(davis, tmp_path):
    write(tmp_path / "other" / "b" / "00000.png", 3)
    frames = open_videos(str(davis), labels=str(tmp_path / "other"))
    (video,) = frames.listed("auto")
    assert video.name == "b" and video.masks[1:] == (None, None)
    assert frames.notes == ("left out, as they have no masks: a, c",)
    images = str(davis / "JPEGImages" / "480p")
    assert open_videos("", images, str(tmp_path / "other")).videos == frames.videos


def test_a_mask_among_the_frames_is_no_frame_where_the_masks_lie_elsewhere(tmp_path):
    write_video(tmp_path / "clip")
    write(tmp_path / "clip" / "mask.png", 1)
    write_video(tmp_path / "masks", suffix=".png", level=1)
    (video,) = open_videos("", str(tmp_path / "clip"), str(tmp_path / "masks")).videos
    assert len(video.numbers) == 3 and all(video.masks)


@pytest.mark.parametrize("mask", ["mask.png", "MASK.PNG", "first frame.png"])
def test_one_folder_with_frames_and_a_mask(tmp_path, mask):
    for number in (10, 9, 100):
        write(tmp_path / f"frame{number}.jpg")
    write(tmp_path / mask, 1)
    frames = open_videos(str(tmp_path))
    assert [frames.name(i) for i in range(3)] == ["frame9.jpg", "frame10.jpg", "frame100.jpg"]
    (video,) = frames.videos
    assert video.masks == (str(tmp_path / mask), None, None) and video.name == tmp_path.name


def test_frames_may_be_png_beside_a_mask(tmp_path):
    write_video(tmp_path / "a", suffix=".png")
    write(tmp_path / "a" / "mask.png", 1)
    write_video(tmp_path / "b")
    write_video(tmp_path / "b", suffix=".png", count=2)
    a, b = open_videos(str(tmp_path)).videos
    assert len(a.numbers) == len(b.numbers) == 3
    assert b.masks == (*(str(tmp_path / "b" / f"0000{i}.png") for i in (0, 1)), None)


def test_a_file_is_the_first_mask_and_a_folder_those_of_all(tmp_path):
    write_video(tmp_path / "frames")
    write_video(tmp_path / "masks", suffix=".png", count=2)
    one, folder = tmp_path / "masks" / "00001.png", tmp_path / "masks"
    (video,) = open_videos("", str(tmp_path / "frames"), str(one)).videos
    assert video.masks == (str(one), None, None)
    (video,) = open_videos("", str(tmp_path / "frames"), str(folder)).videos
    assert video.masks == (str(folder / "00000.png"), str(one), None)


def test_the_fingerprint_knows_masks_and_how_frames_are_read(davis):
    def found(**how):
        return open_videos(str(davis), **how).fingerprint()

    before = found()
    assert found() == before != found(exif_orientation="ignore")
    write(davis / "Annotations" / "480p" / "b" / "00002.png", 2, size=(16, 8))
    changed = found()
    (davis / "Annotations" / "480p" / "b" / "00002.png").unlink()
    assert len({before, changed, found()}) == 3
    kept = pickle.loads(pickle.dumps(open_videos(str(davis))))
    assert kept.fingerprint() == found() and kept.frame(0).shape == (8, 12, 3)


def test_what_is_missing_is_named(davis, tmp_path):
    def refused(words, *given):
        with pytest.raises(DataError, match=words) as caught:
            open_videos(*map(str, given)).listed("2017")
        assert "\n" not in caught.value.what and caught.value.fix

    (tmp_path / "empty" / "inside").mkdir(parents=True)
    refused("no frames in", tmp_path / "empty")
    refused("there is no folder", tmp_path / "nowhere")
    refused("no folder or file of masks", davis, "", tmp_path / "nowhere")
    write_video(tmp_path / "bare")
    refused("the first frame of .*bare' has no mask", tmp_path / "bare")
    write(tmp_path / "late" / "00001.png", 1)
    refused("has no mask", "", tmp_path / "bare", tmp_path / "late")
    refused("is one mask, .* holds 3 videos", davis, "", tmp_path / "late" / "00001.png")
    (davis / "Annotations" / "480p" / "a").rename(davis / "away")
    refused("1 of 2 videos .* not there: a", davis)
    (davis / "ImageSets" / "2017").rename(davis / "2017")
    refused("has no list of 2017", davis)
