"""Pictures of coarse colours, which small changes leave alike."""

import numpy as np
from PIL import Image


def blobs(seed, height, width):
    """uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(file, pixels):
    """Write pixels to a file, whose folders are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
