"""The trainings of docs/learning.md by name: what is compared, from which base, on which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ibot.recipes.ablations import CLS_ALONE, PATCH_ALONE, PUBLISHED_PATCHES

RANDOM = None
"""In the place of a row's settings: the network as it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Trainings that differ in their row's settings and seed alone."""

    question: str
    data: str
    """Which images, named on the command line by --data NAME=FOLDER."""
    rows: Mapping[str, Sequence[str] | None]
    base: Sequence[str] = ()
    recipe: str = "tiny32"
    seeds: Sequence[int] = (0, 1)
    curve: bool = False
    """Whether k-NN is measured on the way, too."""


GENTLE = (
    *("augment.jitter_strength=0.3,0.3,0.2,0.05", "augment.gray=0.1"),
    *("augment.global_scale=0.4,1.0", "augment.local_scale=0.15,0.5"),
)
BEFORE = (
    *GENTLE,
    *(*PUBLISHED_PATCHES, "method.visible_target=own"),
    *("method.teacher_temp=0.04", "method.teacher_temp_start=0.04"),
    *("method.patch_temp=0.04", "method.patch_temp_start=0.04"),
    *("train.batch=128", "optim.lr=4e-3", "method.momentum=0.99"),
)
"""`tiny32` as it was before these studies, their base."""
TOKENS_64 = (*BEFORE, "model.patch=4", "train.length=40000 images")
"""64 patches of 4 pixels in images of 32."""
TOKENS_36 = (
    *(*BEFORE, "augment.global_size=24,24", "augment.local_size=12,12", "model.patch=4"),
    "train.length=40000 images",
)
"""36 patches: half the time of 64, for searches."""
TOKENS_16 = (*BEFORE, "train.length=80000 images")
PHOTOS_36 = (
    *(*BEFORE, "augment.global_size=48,48", "augment.local_size=24,24", "model.patch=8"),
    "train.length=40000 images",
)
"""36 patches of 8 pixels in photographs of 48."""
PHOTOS_64 = (
    *(*BEFORE, "augment.global_size=64,64", "augment.local_size=32,32", "model.patch=8"),
    "train.length=40000 images",
)
"""64 patches of 8 pixels in photographs of 64."""

LOSSES = {
    "random": RANDOM,
    "class loss alone": CLS_ALONE,
    "iBOT": (),
    "patch loss alone": PATCH_ALONE,
}
SEPARATE = ("head.shared=false", "head.shared_teacher=false")
FEW_WORDS = (*SEPARATE, "head.patch_out_dim=256")
RESIDUAL = ("method.patch_residual=true",)
ACROSS = ("method.visible_weight=1", "method.visible_target=other")
SHARP = ("method.patch_temp=0.02", "method.patch_temp_start=0.02")
RANDOM_PATCHES = ("mask.shape=random", "mask.ratio=0:0,0.7:0.05")
CURES: dict[str, Sequence[str] | None] = {
    "from half of the run": ("mask.start=50 percent",),
    "from a fifth of the run": ("mask.start=20 percent",),
    "weight 0.3": ("method.patch_weight=0.3",),
    "one view in two": ("mask.views=first",),
    "ratio 0.1 to 0.5 always": ("mask.ratio=0.3:0.2",),
    "random patches, ratio 0 or 0.7": RANDOM_PATCHES,
    "ratio 0 or 0.15": ("mask.ratio=0:0,0.15:0.1",),
    "separate heads": SEPARATE,
    "separate heads, 256 words": FEW_WORDS,
    "separate heads, 64 words": (*SEPARATE, "head.patch_out_dim=64"),
    "visible patches too": ("method.visible_weight=1",),
    "all patches balanced": ("method.patch_balance=all",),
    "attended patches hidden": ("mask.shape=attention",),
    "patch temperature 0.07": ("method.patch_temp=0.07", "method.patch_temp_start=0.07"),
    "patch temperature 0.02": SHARP,
    "targets without the last norm": ("method.patch_target_norm=false",),
    "4 registers": ("model.registers=4",),
    "residual targets": RESIDUAL,
    "residual, separate heads, 256 words": (*RESIDUAL, *FEW_WORDS),
    "residual, visible patches too": (*RESIDUAL, "method.visible_weight=1"),
    "residual, visible, half of each": (
        *(*RESIDUAL, "method.visible_weight=0.5", "method.patch_weight=0.5"),
    ),
    "residual, visible, a quarter of each": (
        *(*RESIDUAL, "method.visible_weight=0.25", "method.patch_weight=0.25"),
    ),
    "residual, visible, separate heads": (*RESIDUAL, "method.visible_weight=1", *SEPARATE),
    "residual, visible, nothing hidden": (
        *(*RESIDUAL, "method.visible_weight=1", "method.patch_weight=0", "mask.ratio=0:0"),
    ),
    "visible, other view": ACROSS,
    "visible, other view, residual": (*ACROSS, *RESIDUAL),
    "visible, other view, residual, half of each": (
        *(*RESIDUAL, "method.visible_target=other"),
        *("method.visible_weight=0.5", "method.patch_weight=0.5"),
    ),
    "residual, all balanced": (*RESIDUAL, "method.patch_balance=all"),
    "residual, weight 2": (*RESIDUAL, "method.patch_weight=2"),
    "residual, patch temperature 0.02": (*RESIDUAL, *SHARP),
    "residual, one view in two": (*RESIDUAL, "mask.views=first"),
    "residual, random, 0 or 0.7": (*RESIDUAL, *RANDOM_PATCHES),
    "residual, from a fifth of the run": (*RESIDUAL, "mask.start=20 percent"),
    "patches by position": ("method.patch_match=position",),
}

TRAINED = "method.tokenizer={out}/losses36/class-loss-alone-s{seed}"
APART: dict[str, Sequence[str] | None] = {
    "hidden inputs, no patch loss": ("method.patch_weight=0",),
    "patch loss, nothing hidden": (
        *("mask.ratio=0:0", "method.patch_weight=0", "method.visible_weight=1"),
    ),
    "words of a trained network": ("method.patch_target=frozen", TRAINED),
}
"""Of the settings, {out} is where runs lie, {seed} the seed of the row."""

T_02 = ("method.teacher_temp=0.02", "method.patch_temp=0.02")
B_64 = ("train.batch=64", "optim.lr=6e-3", "method.momentum=0.98")
CLOCKS: dict[str, Sequence[str] | None] = {
    "class loss alone, T 0.02": (*CLS_ALONE, *T_02),
    "class loss alone, batch 64": (*CLS_ALONE, *B_64),
    "class loss alone, T 0.02, batch 64": (*CLS_ALONE, *T_02, *B_64),
    "iBOT, T 0.02, batch 64": (*T_02, *B_64),
    "iBOT, residual, T 0.02, batch 64": (*RESIDUAL, *T_02, *B_64),
    "iBOT, other view, residual, T 0.02, batch 64": (*ACROSS, *RESIDUAL, *T_02, *B_64),
    "iBOT, other view, T 0.02, batch 64": (*ACROSS, *T_02, *B_64),
    "the other view alone, T 0.02, batch 64": (*("method.patch_match=position", *T_02, *B_64),),
}

FOUND = (*ACROSS, *RESIDUAL, *T_02, *B_64)
"""What docs/learning.md found, with all of the paper's losses at full weight."""
STRONG = (
    *("augment.jitter_strength=0.4,0.4,0.2,0.1", "augment.gray=0.2"),
    *("augment.global_scale=0.2,1.0", "augment.local_scale=0.08,0.35"),
)
HALF = ("method.patch_weight=0.5", "method.visible_weight=0.5")
TEN_MINUTES: dict[str, Sequence[str] | None] = {
    "gentle views": (*FOUND, "train.length=240000 images"),
    "stronger views": (*FOUND, *STRONG, "train.length=240000 images"),
    "width 192": (
        *(*FOUND, "model.width=192", "model.heads=6", "optim.lr=4e-3"),
        "train.length=140000 images",
    ),
    "36 tokens": (
        *(*FOUND, "augment.global_size=24,24", "augment.local_size=12,12", "model.patch=4"),
        "train.length=150000 images",
    ),
    "no local crops": (*FOUND, "augment.num_local=0", "train.length=300000 images"),
    "class loss alone": (*CLS_ALONE, *T_02, *B_64, "train.length=240000 images"),
    "class loss alone, stronger views": (
        *(*CLS_ALONE, *T_02, *B_64, *STRONG, "train.length=240000 images"),
    ),
    "half weights": (*FOUND, *HALF, "train.length=240000 images"),
    "momentum 0.99": (*FOUND, "method.momentum=0.99", "train.length=240000 images"),
    "patch 4": (*FOUND, "model.patch=4", "train.length=70000 images"),
}

PHOTOS_10: dict[str, Sequence[str] | None] = {
    "class loss alone": (*CLS_ALONE, *T_02, *B_64, "train.length=240000 images"),
    "patches of 16 in 64 pixels": (*FOUND, "train.length=240000 images"),
    "patches of 8 in 48 pixels": (
        *(*FOUND, "augment.global_size=48,48", "augment.local_size=24,24", "model.patch=8"),
        "train.length=120000 images",
    ),
    "patches of 16, stronger views": (*FOUND, *STRONG, "train.length=240000 images"),
}

STUDIES = {
    "tiny32": Study(
        question="What does `tiny32` reach, and what its class loss alone?",
        data="cifar10",
        rows={
            "tiny32": (),
            "class loss alone": (*CLS_ALONE, "method.visible_weight=0"),
            "gentle views": GENTLE,
        },
        seeds=(0, 1, 2),
        curve=True,
    ),
    "hour": Study(
        question="How far does `tiny32` come in an hour of one thread?",
        data="cifar10",
        rows={"tiny32, 1,400,000 images": ("train.length=1400000 images",)},
        seeds=(0, 1, 2),
        curve=True,
    ),
    "photos10": Study(
        question="The same on photographs",
        data="imagenette",
        recipe="tiny64",
        base=BEFORE,
        rows=PHOTOS_10,
        seeds=(0,),
    ),
    "minutes10": Study(
        question="Ten minutes of one thread: from which setting should longer trainings start?",
        data="cifar10",
        base=BEFORE,
        rows=TEN_MINUTES,
        seeds=(0,),
    ),
    "losses16": Study(
        question="What does the patch loss buy, with 16 tokens?",
        data="cifar10",
        base=TOKENS_16,
        rows=LOSSES,
        seeds=(0, 1, 2),
    ),
    "losses64": Study(
        question="What does the patch loss buy, with 64 tokens?",
        data="cifar10",
        base=TOKENS_64,
        rows=LOSSES,
        seeds=(0, 1, 2),
    ),
    "losses36": Study(
        question="The same with 36 tokens, from which the search departs",
        data="cifar10",
        base=TOKENS_36,
        rows=LOSSES,
    ),
    "photos64": Study(
        question="What does the patch loss buy on photographs, with 64 tokens?",
        data="imagenette",
        base=PHOTOS_64,
        rows=LOSSES,
        seeds=(0, 1, 2),
    ),
    "apart36": Study(
        question="Hidden inputs, the loss, or young targets: which of them costs?",
        data="cifar10",
        base=TOKENS_36,
        rows=APART,
    ),
    "clocks36": Study(
        question="Sharper targets and smaller steps, as the demo learnt them: for which losses?",
        data="cifar10",
        base=TOKENS_36,
        rows=CLOCKS,
    ),
    "clocks16": Study(
        question="The same with the 16 tokens of `tiny32`, at twice the images",
        data="cifar10",
        base=TOKENS_16,
        rows=CLOCKS,
    ),
    "photos36": Study(
        question="The same on photographs",
        data="imagenette",
        base=PHOTOS_36,
        rows=CLOCKS,
    ),
    "cures36": Study(
        question="What makes the patch loss cost the class token, each alone?",
        data="cifar10",
        base=TOKENS_36,
        rows=CURES,
    ),
}
