"""Frames of videos and the masks that belong to them: DAVIS, or any folders of frames."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import MAX_PIXELS
from ibot.data.decode import Orientation, UnreadableImage
from ibot.data.formats import extension, extensions, is_litter
from ibot.data.sets.files import FileImages, file_images
from ibot.data.sets.fingerprints import file_state
from ibot.data.sets.scan import require_data, require_folder
from ibot.errors import DataError
from ibot.words import by_numbers, counted

MASKS = ".png"
"""Masks are PNG: what JPEG does to numbers is of no use."""
RESOLUTIONS = ("480p", "Full-Resolution")
"""Folders of DAVIS below frames and masks, the first one that is there; other sets have none."""
WANTED = (
    "DAVIS's own root; a folder of frames that holds the mask of the first one, mask.png; or "
    "--images FRAMES --labels MASKS, a folder or the first mask"
)


@dataclass(frozen=True, slots=True)
class Video:
    """Some consecutive frames of a set."""

    name: str
    numbers: range
    """Of its frames among all, one at least."""
    masks: tuple[str | None, ...]
    """Files of masks, one for each frame; None where there is none."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VideoFrames(FileImages):
    """The frames of all videos of a set, one after the other."""

    videos: tuple[Video, ...]
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of videos that a set lists to be judged on, by its year; empty: it lists none."""

    def listed(self, year: str) -> list[Video]:
        """The videos of a year's list; "auto": of the latest list; all where there are no lists.

        Raises DataError for videos that are listed and not there, and for a year without list.
        """
        if not self.lists:
            return list(self.videos)
        chosen = max(self.lists) if year == "auto" else year
        if chosen not in self.lists:
            raise DataError(
                f"'{self.root}' has no list of {chosen}",
                why=f"looked for {_list_file(self.root, chosen)}",
                fix=f"year={max(self.lists)}, or write that list: a name of a video in each line",
            )
        known = {video.name: video for video in self.videos}
        if absent := [name for name in self.lists[chosen] if name not in known]:
            names = self.lists[chosen]
            raise DataError(
                f"{len(absent)} of {len(names)} videos of {_list_file(self.root, chosen)} are "
                f"not there: {', '.join(absent[:5])}",
                why="each needs a folder of frames and one of masks",
                fix="unpack them, or shorten the list",
            )
        return [known[name] for name in self.lists[chosen]]

    def frame_size(self, number: int) -> tuple[int, int]:
        """As `size`. Raises DataError."""
        with self._told(number):
            return self.size(number)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """As `read`. Raises DataError."""
        with self._told(number):
            return self.read(number)

    @contextmanager
    def _told(self, number: int) -> Iterator[None]:
        """What is wrong with a frame is the user's to mend: no other can take its place."""
        try:
            yield
        except UnreadableImage as error:
            raise DataError(
                f"the frame '{self.path(number)}' cannot be read",
                why=str(error),
                fix="replace it, or leave it out with all that come after it",
            ) from None

    def _labelling(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """For the fingerprint: the files of masks, and the video of each frame."""
        masks = [mask or "" for video in self.videos for mask in video.masks]
        number = [np.full(len(video.numbers), i, np.int32) for i, video in enumerate(self.videos)]
        return (*(video.name for video in self.videos), *masks), np.concatenate(number)

    def _state(self) -> NDArray[np.int64]:
        masks = (mask for video in self.videos for mask in video.masks if mask)
        return np.vstack([FileImages._state(self), file_state(masks)])


def open_videos(
    data: str,
    images: str = "",
    labels: str = "",
    *,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
) -> VideoFrames:
    """The videos that a user names.

    Args:
        data: the root of DAVIS, JPEGImages/ and Annotations/ and perhaps ImageSets/YEAR/val.txt; a
            folder of frames with the mask of the first one; or a folder of such folders.
        images: a folder of frames, or of folders of frames, in the place of those of `data`.
        labels: the first mask of one video, or a folder of masks named as the frames, in a folder
            for each video where there are several.
        exif_orientation: whether frames are turned upright by their EXIF tags.
        max_pixels: larger frames are not read.

    Raises:
        DataError: a folder is missing, or has no frames, or a video lacks its first mask.
    """
    if not images:
        require_data(data)
    root = require_folder(images, "--images") if images else require_folder(data)
    frames, masks = (davis_folder(root, part) for part in ("JPEGImages", "Annotations"))
    lists = _lists(root) if frames and not labels else {}
    place = Path(labels) if labels else masks if frames else None
    if place is not None and not place.exists():
        raise DataError(f"there is no folder or file of masks '{place}'", fix=f"name {WANTED}")
    folders = _video_folders(frames or root)
    if place is not None and place.is_file() and len(folders) > 1:
        raise DataError(
            f"'{place}' is one mask, '{root}' holds {len(folders)} videos",
            fix="name a folder that holds a folder of masks for each video",
        )
    found = {folder: _files_of(folder, place, len(folders) > 1) for folder in folders}
    without = [folder.name for folder in folders if not found[folder][1]]
    if len(without) == len(folders):
        raise _no_first_mask(folders[0], place)
    notes = () if not without else (f"left out, as they have no masks: {', '.join(without)}",)
    made = _joined(root, {folder: files for folder, files in found.items() if files[1]})
    return replace(
        made,
        lists=lists,
        exif_orientation=exif_orientation,
        max_pixels=max_pixels,
        notes=notes if not lists else (),
    )


def _joined(root: Path, found: Mapping[Path, tuple[list[str], dict[str, str]]]) -> VideoFrames:
    """One set of the frames and masks of folders."""
    names: list[str] = []
    videos = []
    for folder, (frames, masks) in found.items():
        numbers = range(len(names), len(names) + len(frames))
        names += [os.path.relpath(folder / frame, root) for frame in frames]
        own = tuple(masks.get(frame) for frame in frames)
        if own[0] is None:
            raise _no_first_mask(folder, Path(next(iter(masks.values()))).parent)
        videos.append(Video(folder.name or folder.resolve().name, numbers, own))
    plain = file_images(root, names)
    kept = {f.name: getattr(plain, f.name) for f in fields(FileImages) if f.init}
    return VideoFrames(**kept, videos=tuple(videos))


def davis_folder(root: Path, part: str) -> Path | None:
    """Where frames or masks lie below the root of a set that is laid out as DAVIS; else None."""
    folder = root / part
    if not folder.is_dir():
        return None
    return next((folder / name for name in RESOLUTIONS if (folder / name).is_dir()), folder)


def _lists(root: Path) -> dict[str, tuple[str, ...]]:
    """Names of the videos to be judged on, by the year of the list.

    A line names a video, or (in 2016) a frame and its mask.
    """
    lists = {}
    for year in ("2016", "2017"):
        file = _list_file(root, year)
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        names = [line.split()[0] for line in text.split("\n") if line.strip()]
        videos = [name.split("/")[-2] if "/" in name.lstrip("/") else name for name in names]
        if videos:
            lists[year] = tuple(dict.fromkeys(videos))
    return lists


def _list_file(root: Path, year: str) -> Path:
    return root / "ImageSets" / year / "val.txt"


def _video_folders(folder: Path) -> list[Path]:
    """The folder itself where it holds images, else those in it that do. Raises DataError."""
    if _images_in(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [path for path in inside if not is_litter(path.name, True) and _images_in(path)]
    if not found:
        raise DataError(
            f"no frames in '{folder}'",
            why=f"it holds {counted(len(inside), 'folder')}, none with images, and no images",
            fix=f"name {WANTED}",
        )
    return found


def _images_in(folder: Path) -> list[str]:
    """Names of the images in a folder, frame 2 before frame 10."""
    known = extensions()
    names = (path.name for path in folder.iterdir() if path.is_file())
    return sorted(
        (name for name in names if extension(name) in known and not is_litter(name, False)),
        key=by_numbers,
    )


def _files_of(folder: Path, masks: Path | None, several: bool) -> tuple[list[str], dict[str, str]]:
    """Frames of a video, and the masks of those that have one.

    masks: the first one, their folder, or with `several` videos the folder of their folders; None:
    they lie beside the frames.
    """
    images = _images_in(folder)
    if masks is None:
        return _beside(folder, images)
    images = [name for name in images if not _is_mask(name)] or images
    if masks.is_file():
        return images, {images[0]: str(masks)}
    place = masks / folder.name if several or (masks / folder.name).is_dir() else masks
    by_stem = {path.stem: str(path) for path in place.glob("*") if extension(path.name) == MASKS}
    stems = {image: Path(image).stem for image in images}
    return images, {image: by_stem[stem] for image, stem in stems.items() if stem in by_stem}


def _beside(folder: Path, images: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Frames and masks of one folder.

    The first mask is called mask.png, or is the only PNG beside frames of another kind; or each
    mask is called as its frame.
    """
    pngs = [name for name in images if extension(name) == MASKS]
    called = [name for name in pngs if _is_mask(name)]
    if len(called) == 1 or (len(pngs) == 1 and len(images) > 1):
        (mask,) = called or pngs
        frames = [name for name in images if name != mask]
        return frames, {frames[0]: str(folder / mask)} if frames else {}
    frames = [name for name in images if name not in pngs]
    by_stem = {Path(name).stem: str(folder / name) for name in pngs}
    masks = {name: by_stem[Path(name).stem] for name in frames if Path(name).stem in by_stem}
    return frames or list(images), masks


def _is_mask(name: str) -> bool:
    """Whether a file beside frames says by its name that it is none of them."""
    return name.lower() == "mask" + MASKS


def _no_first_mask(folder: Path, masks: Path | None) -> DataError:
    frames = _images_in(folder)
    first = Path(frames[0]).stem + MASKS if frames else "mask.png"
    where = f"looked for {first} in '{masks}'" if masks else "it holds no mask.png"
    return DataError(f"the first frame of '{folder}' has no mask", why=where, fix=f"name {WANTED}")
