"""Memory of a training step on one device, part by part, by formula.

Counted is what tensors hold, not what an allocator keeps beside it. Activations are those that
autograd keeps of our own blocks as `ibot.models.layers` writes them, without recomputation; of a
Swin, whose windows are copied to and fro, they are an estimate. The tests compare the sum with the
peak that torch's profiler counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ibot.config.schema import Config
from ibot.method.flops import Rows
from ibot.models.flops import Size, embed_dim, head_widths, token_counts
from ibot.models.parameters import backbone_parameters, head_parameters

SINGLE, HALF = 4, 2
"""Bytes of float32, and of bfloat16 and float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Numbers of parameters."""

    student: int
    trained: int
    """Of the student's; all but the lengths of the prototypes where these are fixed."""
    teacher: int

    @classmethod
    def of(cls, config: Config) -> Parameters:
        """Of the networks of a run."""
        model, head = config.model, config.head
        built = model.pos_size or config.augment.global_size
        own, trained = head_parameters(model, head, shared=head.shared)
        followed, _ = head_parameters(model, head, shared=head.shared_teacher)
        backbone = backbone_parameters(model, built, masked=True)
        return cls(
            student=backbone + own,
            trained=backbone + trained,
            teacher=backbone_parameters(model, built, masked=False) + followed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    teacher: float
    casts: float
    """The student's weights in half precision, while a step needs them."""
    views: float
    """The images of a micro-batch, as floats."""
    activations: float
    """What the student keeps for the backward pass."""
    scores: float
    """Logits, targets and their gradients, all of K columns, and the prototypes at unit length."""
    accumulates: bool
    """Whether gradients of an earlier micro-batch are held beside the activations."""

    @property
    def states(self) -> float:
        """What is held between two steps, without gradients."""
        return self.weights + self.optimizer + self.teacher

    @property
    def peak(self) -> float:
        """The most that is held at once.

        The first micro-batch of a step begins without gradients, and they come as activations go.
        """
        step = self.casts + self.activations + self.scores
        together = step + self.gradients if self.accumulates else max(step, self.gradients)
        return self.states + self.views + together

    def parts(self) -> dict[str, float]:
        """Bytes by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "accumulates"}


def step_memory(
    config: Config,
    images: int,
    *,
    half: bool = False,
    shards: int = 1,
    flat_gradients: bool = False,
    plain_attention: bool = False,
) -> StepMemory:
    """Of a micro-batch of so many images.

    Args:
        config: the settings.
        images: B of one device.
        half: products in bfloat16 or float16.
        shards: devices among which weights, gradients, moments and teacher are divided.
        flat_gradients: several processes keep gradients from step to step, as they exchange them.
        plain_attention: its probabilities are stored, as in half precision on a processor.

    Returns:
        The parts, in bytes.
    """
    count, augment = Parameters.of(config), config.augment
    moments = 2 if config.optim.name == "adamw" else 1
    width = HALF if half else SINGLE
    pixels = augment.num_global * augment.global_size[0] * augment.global_size[1]
    pixels += augment.num_local * augment.local_size[0] * augment.local_size[1]
    return StepMemory(
        weights=SINGLE * count.student / shards,
        gradients=SINGLE * count.trained / shards,
        optimizer=SINGLE * moments * count.trained / shards,
        teacher=SINGLE * count.teacher / shards,
        casts=HALF * count.student / shards if half else 0,
        views=SINGLE * images * len(config.model.channels) * pixels,
        activations=images * _kept(config, width, plain_attention),
        scores=images * _scores(config) + _prototypes(config),
        accumulates=config.train.accumulate > 1 or flat_gradients,
    )


def _kept(config: Config, width: int, plain: bool) -> float:
    """Bytes that the student keeps of one image; `width` bytes for what products make."""
    augment, rows = config.augment, Rows.of(config)
    chosen = 1 + (rows.masked - rows.masked_local) / augment.num_global
    kept = augment.num_global * _backbone(config, augment.global_size, width, chosen, plain)
    if augment.num_local:
        chosen = 1 + rows.masked_local / augment.num_local
        kept += augment.num_local * _backbone(config, augment.local_size, width, chosen, plain)
    head = config.head
    seen = augment.num_global + augment.num_local + rows.masked
    if head.norm in ("bn", "syncbn"):
        seen = augment.num_global * (1 + rows.places) + augment.num_local * (1 + rows.local_places)
    widths = head_widths(config.model, head)
    # Each hidden layer before and behind its activation; the bottleneck before and behind its norm.
    return kept + seen * (width * (widths[0] + 2 * sum(widths[1:-1])) + 2 * SINGLE * widths[-1])


def _backbone(config: Config, size: Size, width: int, rows: float, plain: bool) -> float:
    """Of one view: two residual maps, and what the products of each block read."""
    model, kept = config.model, 0.0
    for k, tokens in enumerate(token_counts(model, size)):
        wide, depth, heads = model.width, model.depth, model.heads
        if model.kind == "swin":
            wide, depth, heads = model.width * 2**k, model.depths[k], model.stage_heads[k]
        # Norm, queries, keys, values and their mixture; statistics of norm and softmax.
        mixing = SINGLE * wide + width * 5 * wide + SINGLE * (2 + heads)
        if plain and model.kind == "vit":
            # Probabilities in float32, and as the product with the values reads them.
            mixing += (SINGLE + width) * heads * tokens
        # Residual, norm, MLP before and behind its activation.
        after = SINGLE * wide + width * wide * (1 + 2 * model.mlp_ratio) + SINGLE * 2
        if model.kind == "swin":
            # The plain attention with a bias keeps its probabilities; windows are copied once.
            mixing += width * wide + SINGLE * heads * model.window**2
            rows = tokens
        last = k == len(model.depths) - 1 or model.kind == "vit"
        finished = tokens if model.mean_pooling or not last else rows
        kept += depth * tokens * mixing + ((depth - 1) * tokens + finished) * after
    return kept + SINGLE * rows * embed_dim(model)


def _prototypes(config: Config) -> float:
    """Of the last layers' weights at unit length, student and teacher."""
    head = config.head
    if not head.bottleneck_dim:
        return 0.0
    shared = (head.shared, head.shared_teacher)
    rows = sum(head.out_dim + (0 if one else head.patch_out_dim) for one in shared)
    return SINGLE * rows * head.bottleneck_dim


def _scores(config: Config) -> float:
    """Of one image: rows of K numbers in float32 when the losses begin their backward pass."""
    augment, head, rows = config.augment, config.head, Rows.of(config)
    patch = head.out_dim if head.shared else head.patch_out_dim
    target = head.out_dim if head.shared_teacher else head.patch_out_dim
    student = (augment.num_global + augment.num_local) * head.out_dim + rows.masked * patch
    teacher = augment.num_global * head.out_dim + rows.masked * target
    # Student: logits, logits over the temperature, and two gradients of these. Teacher: logits and
    # probabilities.
    return SINGLE * (4 * student + 2 * teacher)
