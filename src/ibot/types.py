"""The data types through which data, method, engine and evaluation meet.

Letters as everywhere in this project: B images, G global and L local views, V = G + L, N patches of
a global view on an h x w grid, M masked patches of all global views, D width, K prototypes. Batches
are view-major.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewParams:
    """What each view does to its image: numbers only, as arrays over images and views."""

    box: np.ndarray
    """int32 [B, V, 4]: top, left, height, width in pixels of the upright image."""
    flip: np.ndarray
    """bool [B, V]: left to right."""
    vertical_flip: np.ndarray
    """bool [B, V]: top to bottom."""
    turn: np.ndarray
    """uint8 [B, V]: quarter turns counter-clockwise after the flips, 0 to 3."""
    jitter: np.ndarray
    """float32 [B, V, 4]: factors of brightness, contrast, saturation, and the hue shift."""
    jitter_order: np.ndarray
    """uint8 [B, V, 4]: permutation of those four operations; all 255 = no jitter."""
    gray: np.ndarray
    """bool [B, V]."""
    blur_sigma: np.ndarray
    """float32 [B, V]: Pillow radius in pixels; 0 = no blur."""
    solarize: np.ndarray
    """bool [B, V]."""


@dataclass(frozen=True, slots=True)
class Masks:
    """Patches of the global views that are hidden from the student, or in the patch loss."""

    map: Tensor
    """bool [G, B, N], True = hidden."""
    index: Tensor
    """int64 [M], positions in the flattened map of the patches in the loss: mostly the hidden."""
    weight: Tensor
    """float [M], one over the number of patches in the loss of the view the patch belongs to."""
    target: Tensor | None = None
    """int64 [M], positions of the teacher's patches to predict; None: those at `index`."""
    local: Masks | None = None
    """Those of the local views [L, B, N'], where they have some (an ablation)."""
    visible: Masks | None = None
    """Other patches of the global views that are in a loss too, and with `target` what they ask
    for (beyond the paper)."""

    @property
    def num_views(self) -> int:
        """G * B, views without a mask included."""
        return self.map.shape[0] * self.map.shape[1]

    @property
    def loss_views(self) -> int:
        """Views in the mean of the patch loss: G * B, and L * B where local ones have masks."""
        return self.num_views + (0 if self.local is None else self.local.num_views)

    def emptied(self) -> Masks:
        """The same views with nothing hidden and nothing in the loss."""
        target = None if self.target is None else self.target[:0]
        local = None if self.local is None else self.local.emptied()
        visible = None if self.visible is None else self.visible.emptied()
        return Masks(self.map & False, self.index[:0], self.weight[:0], target, local, visible)

    def each(self, change: Callable[[Tensor], Tensor]) -> Masks:
        """`change` applied to all tensors."""
        target = None if self.target is None else change(self.target)
        local = None if self.local is None else self.local.each(change)
        visible = None if self.visible is None else self.visible.each(change)
        own = change(self.map), change(self.index), change(self.weight)
        return Masks(*own, target, local, visible)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What it took to make a micro-batch, in seconds of the process that made it."""

    decode: float = 0.0
    """To read and decode its images."""
    render: float = 0.0
    """To draw parameters, views and masks."""
    busy: float = 0.0
    """Of both, those in which it computed."""
    queued: float = 0.0
    """Of both, those in which it could have, but others had the cores. The rest went into files."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of one process."""

    global_views: Tensor
    """[G, B, C, H, W]; from the loader uint8 of colour pictures and float32 levels of other
    channels, after the transfer to the device normalised floats."""
    local_views: Tensor | None
    """[L, B, C, H', W'] or None."""
    masks: Masks
    index: np.ndarray
    """int64 [B], indices of the images actually read (after the replacement of bad files)."""
    content: np.ndarray | None = None
    """int64 [B], hash of a coarse sample of each image's pixels; -1 for an image of one colour."""
    bad: tuple[tuple[str, str], ...] = ()
    """(path, reason) of files met in this batch that could not be read."""
    made: Made | None = None
    drop: Tensor | None = None
    """float32 [num_blocks, 2, V * B]: what stochastic depth multiplies the branches of attention
    and MLP of each view by, view-major, 0 = dropped. None: nothing was drawn."""

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader calls this where there is a GPU."""
        local_views = None if self.local_views is None else self.local_views.pin_memory()
        return replace(
            self,
            global_views=self.global_views.pin_memory(),
            local_views=local_views,
            masks=self.masks.each(lambda tensor: tensor.pin_memory()),
            drop=None if self.drop is None else self.drop.pin_memory(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UndrawnBatch:
    """One micro-batch of one process whose views are still to be made, on the training device."""

    pictures: Tensor
    """uint8 [P, 3] or float32 [P, C], the pixels of all pictures: row by row, one picture after the
    other."""
    sizes: np.ndarray
    """int64 [B, 2], height and width of each picture."""
    reduced: np.ndarray
    """int64 [B], how much smaller each picture was made than what its boxes are measured in."""
    params: ViewParams
    """What each view does to its picture."""
    masks: Masks
    index: np.ndarray
    """As in `Batch`."""
    content: np.ndarray | None = None
    """As in `Batch`."""
    bad: tuple[tuple[str, str], ...] = ()
    """As in `Batch`."""
    made: Made | None = None
    drop: Tensor | None = None
    """As in `Batch`."""

    def pin_memory(self) -> UndrawnBatch:
        """The same batch in page-locked memory; the loader calls this where there is a GPU."""
        masks = self.masks.each(lambda tensor: tensor.pin_memory())
        drop = None if self.drop is None else self.drop.pin_memory()
        return replace(self, pictures=self.pictures.pin_memory(), masks=masks, drop=drop)


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What every backbone returns."""

    cls: Tensor
    """[B, D]."""
    patches: Tensor
    """[B, N, D]."""
    grid: tuple[int, int]
    """(h, w) with h * w = N."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepValues:
    """The scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float
    patch_temp: float
    freeze_last_layer: bool
    freeze_backbone: bool = False
    hides_patches: bool = True
    """Whether masks are in force, and with them the losses of hidden and visible patches."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands; small and plain, saved as JSON in each checkpoint."""

    step: int = 0
    """Optimizer steps done."""
    images_seen: int = 0
    epoch: int = 0
    """Epoch of the next step."""
    skipped_steps: int = 0
    """Optimizer steps skipped because of float16 overflow."""
    versions: dict[str, str] = field(default_factory=dict)
    draws: int = 2
    """Rule by which stochastic depth draws. 1: from torch's generator, seeded by the step, one
    micro-batch after the other: what runs have that do not say. 2: by image, `ibot.data.depth`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """One number of one evaluation with everything needed to repeat it."""

    protocol: str
    metric: str
    value: float
    settings: dict[str, Any]
    row: str = ""
    """What tells it from the other numbers of its evaluation, as a table calls it."""
    num_train: int = 0
    num_val: int = 0
    interval: tuple[float, float] | None = None
    """Bootstrap 95 % interval of `value` over the images of the split."""
    chosen: str = ""
    """What was chosen among the settings, in words."""
    notes: tuple[str, ...] = ()
    """What a reader of the number should know, a sentence each."""
    step: int | None = None
    """Of the training during which it was measured."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What is special to the evaluation: curves, scores of what was not chosen."""
    mode: str = ""
    """"published": chosen on the split that is reported, as in the paper's tables; "clean": never.
    """
    weights: str = ""
    key: str = ""
    """Which network of the file: teacher or student."""
    baseline: str = ""
    """What was measured in the place of those weights, to be shown beside them: "random" (a fresh
    start of the same architecture), "pixels" or "colours"; empty: the network itself."""
    weights_hash: str = ""
    """SHA-256 of the network's tensors."""
    trained: int | None = None
    """Step of the training of these weights, where their file says it."""
    architecture: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    """Root and fingerprints of the images; of labelled ones the number of classes, and
    `largest_class`: its share of the validation images in per cent, which is what a network that
    knows nothing can reach."""
    seed: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    """Of this package, its commit, and the libraries below it."""
    when: str = ""
    asked: str = ""
    """Hash of all that was asked: protocol, settings, weights, images, view, mode, seed, version.
    The same again would give the same."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ResultRecord:
        """The record of a row of results.jsonl; what it does not know is passed over.

        Rows of earlier versions hold `row`, `chosen`, `notes` and `step` in `extra`.
        Raises TypeError for rows that lack what every record has.
        """
        extra = dict(row.get("extra") or {})
        moved = {name: extra.pop(name) for name in _ONCE_EXTRA if name in extra}
        known = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        record = {**known, **moved, "extra": extra}
        record["notes"] = tuple(record.get("notes") or ())
        if record.get("interval") is not None:
            record["interval"] = tuple(record["interval"])
        return cls(**record)


_ONCE_EXTRA = ("row", "chosen", "notes", "step")
