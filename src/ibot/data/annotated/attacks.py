"""Altered copies of images: crops, JPEG, overlays and such, the same for each image whoever asks
(spec_evaluation 8.14, on one's own data).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from ibot.data.sets import fingerprints
from ibot.data.sets.images import Images
from ibot.rng import Purpose, words

Attack = Callable[[Image.Image, Generator], Image.Image]
"""An RGB picture and the random numbers of this image -> another one."""


class AttackedImages:
    """The images of a set, altered by one attack; what is drawn follows from (seed, image)."""

    def __init__(self, base: Images, attack: str, seed: int) -> None:
        """`attack` is a name of `ATTACKS`."""
        self.base, self.attack, self.seed = base, attack, seed
        self.root, self.notes, self.channels = base.root, base.notes, base.channels

    def __len__(self) -> int:
        return len(self.base)

    def name(self, index: int) -> str:
        """The attack, and the name in the base."""
        return f"{self.attack}/{self.base.name(index)}"

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of what `read` gives. Raises UnreadableImage."""
        height, width, _ = self.read(index).shape
        return height, width

    def read(self, index: int) -> NDArray[np.uint8]:
        """Altered pixels, uint8 [h, w, 3]. Raises UnreadableImage."""
        return attacked(self.base.read(index), self.attack, self.seed, index)

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's fingerprint, the attack and the seed."""
        base = self.base.fingerprint()
        return fingerprints.digest("attacked", base, self.attack, str(self.seed))

    def provenance(self) -> dict[str, object]:
        """That of the base; the hash is of its hash, the attack and the seed."""
        base = self.base.provenance()
        parts = str(base["names_sha256"]), self.attack, str(self.seed)
        return {**base, "names_sha256": fingerprints.digest(*parts)[:16]}


def attacked(pixels: NDArray[np.uint8], attack: str, seed: int, index: int) -> NDArray[np.uint8]:
    """An altered copy of an image [H, W, 3], by the random numbers of (seed, index, attack)."""
    drawn = words(seed, 0, index, list(ATTACKS).index(attack), Purpose.COPY_ATTACK, 4)
    random = np.random.Generator(np.random.Philox(drawn.tolist()))
    return np.asarray(ATTACKS[attack](Image.fromarray(pixels), random).convert("RGB"))


def crop(image: Image.Image, random: Generator, removed: float) -> Image.Image:
    """A box of the same shape at any place, without the share `removed` of the area."""
    side = (1 - removed) ** 0.5
    width, height = (max(1, round(side * length)) for length in image.size)
    left = int(random.integers(image.width - width + 1))
    top = int(random.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def jpeg(image: Image.Image, random: Generator, quality: int) -> Image.Image:
    """Stored as JPEG."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    return Image.open(stored).convert("RGB")


def overlay(image: Image.Image, random: Generator) -> Image.Image:
    """A bar across the picture and a disc, of any colour."""
    changed = image.copy()
    draw = ImageDraw.Draw(changed)
    colours = [tuple(random.integers(256, size=3).tolist()) for _ in range(2)]
    high = max(1, round(0.15 * image.height))
    top = int(random.integers(image.height - high + 1))
    draw.rectangle((0, top, image.width, top + high - 1), fill=colours[0])
    across = max(1, round(0.3 * min(image.size)))
    left = int(random.integers(image.width - across + 1))
    upper = int(random.integers(image.height - across + 1))
    draw.ellipse((left, upper, left + across - 1, upper + across - 1), fill=colours[1])
    return changed


def blur(image: Image.Image, random: Generator) -> Image.Image:
    """A Gaussian of one to two hundredths of the shorter side."""
    share = random.uniform(0.01, 0.02)
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def rotate(image: Image.Image, random: Generator) -> Image.Image:
    """Turned by 5 to 25 degrees to either side, corners black."""
    angle = random.uniform(5, 25) * (1 if random.random() < 0.5 else -1)
    return image.rotate(angle, Image.Resampling.BICUBIC)


def mirror(image: Image.Image, random: Generator) -> Image.Image:
    """Left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def gray(image: Image.Image, random: Generator) -> Image.Image:
    """Without colour."""
    return image.convert("L").convert("RGB")


def colour(image: Image.Image, random: Generator) -> Image.Image:
    """Brightness, contrast and saturation times 0.5 to 1.5 each."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(random.uniform(0.5, 1.5))
    return image


def noise(image: Image.Image, random: Generator) -> Image.Image:
    """Normal noise of a deviation of 25 levels on each value."""
    pixels = np.asarray(image) + random.normal(0, 25, (image.height, image.width, 3))
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def strong(image: Image.Image, random: Generator) -> Image.Image:
    """Mirrored, cropped, coloured, covered, turned and stored badly."""
    for step in (mirror, partial(crop, removed=0.5), colour, overlay, rotate):
        image = step(image, random)
    return jpeg(image, random, 20)


ATTACKS: dict[str, Attack] = {
    "crop20": partial(crop, removed=0.2),
    "crop50": partial(crop, removed=0.5),
    "crop80": partial(crop, removed=0.8),
    "jpeg30": partial(jpeg, quality=30),
    "jpeg10": partial(jpeg, quality=10),
    "jpeg3": partial(jpeg, quality=3),
    "overlay": overlay,
    "blur": blur,
    "rotate": rotate,
    "mirror": mirror,
    "gray": gray,
    "colour": colour,
    "noise": noise,
    "strong": strong,
}
"""By name. New ones stand at the end: by its place an attack finds its random numbers."""
