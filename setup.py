"""Kernels in C, where there is a compiler; the package works without. All else: pyproject.toml."""

import sys

from setuptools import Extension, setup

# Fused multiply-adds round otherwise than Pillow, and otherwise on every processor.
EXACT = (
    ["/O2"]
    if sys.platform == "win32"
    else ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno"]
)

# Between matrix products rounding is free, as it is in torch.
FAST = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
THREADS = ["-fopenmp"] if sys.platform == "linux" else []
BLOCKS = (
    []
    if sys.platform == "win32"
    else [
        Extension(
            "ibot.kernels._blocks",
            ["src/ibot/kernels/blocks.c"],
            depends=[
                f"src/ibot/kernels/{part}.h"
                for part in ("vectors", "rows", "attend", "attend_amx", "part")
            ],
            extra_compile_args=[*FAST, *THREADS],
            extra_link_args=THREADS,
            libraries=["m"],
            optional=True,
        )
    ]
)

setup(
    ext_modules=[
        *BLOCKS,
        Extension(
            "ibot.kernels._views",
            ["src/ibot/kernels/views.c"],
            depends=[
                f"src/ibot/kernels/{part}.h"
                for part in ("common", "lanes", "resize", "colour", "blur")
            ],
            extra_compile_args=EXACT,
            libraries=[] if sys.platform == "win32" else ["m"],
            optional=True,
        ),
    ]
)
