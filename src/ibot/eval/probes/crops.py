"""Random crops for probes on augmented images: TRAIN224 of spec_evaluation 8.0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ibot.config.schema import AugmentConfig
from ibot.data.decode import UnreadableImage
from ibot.data.params import view_params
from ibot.data.pixels import by_pillow, cut
from ibot.data.sets.images import Images, Pixels
from ibot.data.workers import read_items
from ibot.eval.features.views import no_views, planar, view_bytes


@dataclass(frozen=True, slots=True)
class CropBatch:
    """One step's crops of one process."""

    positions: NDArray[np.int64]
    """int64 [b], the images read; those that cannot be are left out."""
    views: Tensor
    """uint8 [b, 3, h, w], or float32 [b, C, h, w] of other channels than colours."""


def crop_config(size: tuple[int, int]) -> AugmentConfig:
    """A crop of 8 to 100 % of the area at an aspect of 3/4 to 4/3, flipped half of the time."""
    return AugmentConfig(
        num_global=1,
        num_local=0,
        global_size=size,
        global_scale=(0.08, 1.0),
        aspect=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=0.0,
        gray=0.0,
        blur=(0.0, 0.0, 0.0),
        solarize=(0.0, 0.0, 0.0),
    )


def crop_batches(
    images: Images,
    size: tuple[int, int],
    steps: Sequence[NDArray[np.int64]],
    seed: int,
    epoch: int,
    workers: int = 0,
) -> Iterator[CropBatch]:
    """Crops of the images of each step; each is a function of (seed, epoch, image) alone."""
    num_bytes = view_bytes(images.channels, size) * max(map(len, steps), default=0)
    crops = _Crops(images, size, steps, seed, epoch)
    yield from read_items(crops, workers, num_bytes, batch_size=None)


class _Crops(Dataset[CropBatch]):
    def __init__(
        self,
        images: Images,
        size: tuple[int, int],
        steps: Sequence[NDArray[np.int64]],
        seed: int,
        epoch: int,
    ) -> None:
        self.images, self.config, self.steps = images, crop_config(size), steps
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> CropBatch:
        read, pixels = [], []
        for index in self.steps[number].tolist():
            try:
                pixels.append(self.images.read(index))
                read.append(index)
            except UnreadableImage:
                continue
        positions = np.array(read, np.int64)
        views = no_views(self.images.channels, self.config.global_size)
        if read:
            sizes = np.array([image.shape[:2] for image in pixels], np.int64)
            params = view_params(self.config, self.seed, self.epoch, positions, sizes)
            crops = [
                self._crop(image, params.box[i, 0], params.flip[i, 0])
                for i, image in enumerate(pixels)
            ]
            views = planar(crops)
        return CropBatch(positions, views)

    def _crop(self, image: Pixels, box: NDArray[np.int32], flip: np.bool_) -> Pixels:
        """Cut, resize bilinearly (torchvision's default, which the published probe used), flip."""
        top, left, height, width = box.tolist()
        size = self.config.global_size
        crop = by_pillow(
            image,
            lambda picture: cut(picture, left, top, width, height).resize(
                (size[1], size[0]), Image.Resampling.BILINEAR
            ),
        )
        return crop[:, ::-1] if flip else crop
