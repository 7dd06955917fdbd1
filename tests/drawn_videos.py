"""Videos of moving squares, in the layout of DAVIS."""

import numpy as np
from PIL import Image

COLOURS = np.array([[90, 120, 90], [220, 40, 40], [40, 60, 230]], np.uint8)


def moving_squares(count, height, width, objects=1):
    """Masks uint8 [count, H, W]: a square moves to the right, a second one out of the image."""
    masks = np.zeros((count, height, width), np.uint8)
    for i, mask in enumerate(masks):
        mask[8:24, 4 + 2 * i : 20 + 2 * i] = 1
        if objects > 1:
            mask[height - 12 + 4 * i :, width - 16 :] = 2
    return masks


def write_davis(root, videos, palette=None):
    """A set in the layout of DAVIS: videos by name, each its masks; frames are drawn from them."""
    random = np.random.default_rng(0)
    for name, masks in videos.items():
        for part in ("JPEGImages", "Annotations"):
            (root / part / "480p" / name).mkdir(parents=True)
        ground = random.normal(0, 12, (*masks.shape[1:], 3))
        for i, mask in enumerate(masks):
            numbers = np.minimum(mask, 2)
            pixels = np.clip(COLOURS[numbers] + ground, 0, 255).astype(np.uint8)
            frame = root / "JPEGImages" / "480p" / name / f"{i:05d}.jpg"
            Image.fromarray(pixels).save(frame, quality=95)
            image = Image.fromarray(mask)
            if palette:
                image.putpalette(palette)
            image.save(root / "Annotations" / "480p" / name / f"{i:05d}.png")
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in videos))
    return root
