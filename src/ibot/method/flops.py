"""Matrix products of a training step for one image, by formula: published, and as we take it.

What an exact step may leave out is in spec 5.7; `ibot.method.model` says which part of it is where.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibot.config.schema import Config
from ibot.models.flops import Products, backbone_products, projecting, scoring, token_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFlops:
    """Operations of one image, forward and backward."""

    teacher_backbone: float
    teacher_head: float
    student_global: float
    student_local: float
    student_head: float

    @property
    def total(self) -> float:
        """Of the whole step."""
        backbones = self.teacher_backbone + self.student_global + self.student_local
        return backbones + self.teacher_head + self.student_head


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Tokens of one image, over all of its views."""

    places: int
    """Patches of a global view."""
    local_places: int
    """Patches of a local view."""
    masked: float
    """Patches in the patch loss, of all views."""
    masked_local: float
    """Those of them in local views."""
    targets: float
    """Patches of which the teacher makes scores."""

    @classmethod
    def of(cls, config: Config, masked: float | None = None) -> Rows:
        """Of an image; masked: default the mean over all draws, without the rounding of blocks.

        Before `mask.start` no patch is hidden; this is of the steps after it.
        """
        augment, mask = config.augment, config.mask
        places = patches(config, augment.global_size)
        balances_all = config.method.patch_balance == "all"
        local = patches(config, augment.local_size) if augment.num_local else 0
        in_global = (1 if mask.views == "first" else augment.num_global) * places
        in_local = augment.num_local * local if mask.views == "all" else 0
        if masked is None and config.method.visible_weight:
            masked = augment.num_global * places
        elif masked is None:
            ratio = sum(mean for mean, _ in mask.ratio) / len(mask.ratio)
            masked = ratio * (in_global + in_local)
        return cls(
            places=places,
            local_places=local,
            masked=masked,
            masked_local=masked * in_local / (in_global + in_local),
            targets=augment.num_global * places if balances_all else masked,
        )


def patches(config: Config, size: tuple[int, int]) -> int:
    """N, output patches of a view of so many pixels."""
    model = config.model
    return token_counts(model, size)[-1] - (1 + model.registers if model.kind == "vit" else 0)


def products_of_view(config: Config, size: tuple[int, int], rows: float | None = None) -> Products:
    """Of the backbone for one view; see `backbone_products`."""
    built = config.model.pos_size or config.augment.global_size
    return backbone_products(config.model, size, built, rows)


def step_flops(config: Config, masked: float | None = None) -> StepFlops:
    """Of our step; masked: patches of an image in the patch loss, as in `Rows`.

    The center's mean row, one a micro-batch, is left out, and so is what stochastic depth drops.
    """
    augment, head, rows = config.augment, config.head, Rows.of(config, masked)
    num_global, num_local = augment.num_global, augment.num_local
    global_rows = local_rows = None  # batch norm in the head must see every token
    seen = tokens = num_global * (1 + rows.places)
    if num_local:
        seen += num_local * (1 + rows.local_places)
    if head.norm not in ("bn", "syncbn"):
        global_rows = 1 + (rows.masked - rows.masked_local) / num_global
        local_rows = 1 + rows.masked_local / max(1, num_local)
        seen = num_global + num_local + rows.masked
    teacher = num_global * products_of_view(config, augment.global_size).forward
    if config.mask.views == "all":
        teacher += num_local * products_of_view(config, augment.local_size).forward
        tokens += num_local * (1 + rows.local_places)
    student = products_of_view(config, augment.global_size, global_rows)
    local = products_of_view(config, augment.local_size, local_rows)
    cls, patch, per_row = _head_of(config, head.shared)
    _, target, _ = _head_of(config, head.shared_teacher)
    scored = (num_global + num_local) * cls + rows.masked * patch
    return StepFlops(
        teacher_backbone=teacher,
        teacher_head=tokens * per_row + num_global * cls + rows.targets * target,
        student_global=num_global * student.both,
        student_local=num_local * local.both,
        student_head=3 * (seen * per_row + scored),
    )


def published_flops(config: Config) -> StepFlops:
    """Of the published step: every token through the head, all patches scored.

    The patch scores of local views are computed, and no gradient comes back through them.
    """
    augment, rows = config.augment, Rows.of(config, 0)
    num_global, num_local = augment.num_global, augment.num_local
    whole = products_of_view(config, augment.global_size)
    local = products_of_view(config, augment.local_size)
    cls, patch, per_row = _head_of(config, config.head.shared)
    _, target, _ = _head_of(config, config.head.shared_teacher)
    tokens, local_tokens = 1 + rows.places, 1 + rows.local_places
    global_head = 3 * (tokens * per_row + cls + rows.places * patch)
    local_head = 3 * (local_tokens * per_row + cls) + rows.local_places * patch
    return StepFlops(
        teacher_backbone=num_global * whole.forward,
        teacher_head=num_global * (tokens * per_row + cls + rows.places * target),
        student_global=num_global * whole.both,
        student_local=num_local * local.both,
        student_head=num_global * global_head + num_local * local_head,
    )


def _head_of(config: Config, shared: bool) -> tuple[float, float, float]:
    """Operations of a row, forward: class scores, patch scores, and all that comes before."""
    model, head = config.model, config.head
    of_patches = head.out_dim if shared else head.patch_out_dim
    return (
        scoring(model, head, head.out_dim),
        scoring(model, head, of_patches),
        projecting(model, head),
    )
