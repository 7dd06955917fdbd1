"""Pictures in tiles with reduced levels, as scanners and geographers write them."""

import numpy as np
import pytest
from PIL import Image

FILE = ("bigtiff", "byteorder")
APERIO = "Aperio Image Library v12.0.15\r\n{w}x{h} [0,0 {w}x{h}] (64x64) JPEG/RGB Q=70|AppMag = 20"


def tissue(height, width, seed=0):
    """Smooth colours on the upper half, glass on the lower one: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 220, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    pixels[height // 2 :] = 242
    return pixels


def halved(pixels, times):
    """Reduced by a whole factor, each pixel the mean of what it stands for."""
    height, width = (side // times * times for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // times, times, width // times, times, -1)
    return np.rint(blocks.mean(axis=(1, 3))).astype(pixels.dtype)


def write_pyramid(path, pixels, factors=(4, 16), *, subifds=True, tile=(64, 64), **how):
    """A tiled TIFF with levels reduced by `factors`, in SubIFDs or in pages of their own."""
    tifffile = pytest.importorskip("tifffile")
    how = {"photometric": "rgb", "compression": "zlib", "tile": tile, **how}
    with tifffile.TiffWriter(path, **{key: how.pop(key) for key in FILE if key in how}) as file:
        file.write(pixels, subifds=len(factors) if subifds else 0, metadata=None, **how)
        for factor in factors:
            file.write(halved(pixels, factor), subfiletype=1, metadata=None, **how)
    return path


def write_svs(path, pixels, factors=(4,)):
    """As Aperio's scanners: levels in tiles, between them a thumbnail, behind them label and macro
    in strips.
    """
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    height, width = pixels.shape[:2]
    about = APERIO.format(h=height, w=width)
    jpeg = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    tiled = {**jpeg, "tile": (64, 64)}
    strips = {**jpeg, "rowsperstrip": 16}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, description=about, **tiled)
        file.write(halved(pixels, 8), description=about, **strips)
        for factor in factors:
            file.write(halved(pixels, factor), description=about, **tiled)
        label = np.full((40, 40, 3), 7, np.uint8)
        file.write(label, description=about + "\r\nlabel 40x40", subfiletype=1, **strips)
        # As wide and high in proportion as the slide: only its kind tells that it is no level.
        macro = np.full((height // 2, width // 2, 3), 9, np.uint8)
        file.write(macro, description=about + "\r\nmacro", subfiletype=9, **strips)
    return path
