"""Memory of a training step on one device, part by part, by formula.

Counted is what tensors hold, not what an allocator keeps beside it. Activations are those that
autograd keeps of our own blocks, as `ibot.models.layers` writes them or, on a processor, as
`ibot.models.fused` does; of a Swin, whose windows are copied to and fro, they are an estimate. The
tests compare the sum with the peak that torch's profiler counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ibot.config.schema import Config
from ibot.kernels.library import has_blocks
from ibot.method.flops import Rows
from ibot.models.flops import Size, embed_dim, head_widths, token_counts
from ibot.models.parameters import backbone_parameters, head_parameters, largest_block

SINGLE, HALF = 4, 2
"""Bytes of float32, and of bfloat16 and float16."""
CHUNK = {False: 2**20, True: 2**25}
"""Scores that the fused losses make at a time (`ibot.method.fused`): those of a processor stay in
its cache, those of a GPU (True) keep it busy."""
LANES = 16
"""Widths of fused blocks are multiples of it (`ibot.kernels.blocks`, which loads torch)."""


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
    gathered: float
    """Of weights that are divided among devices, what is whole at a time: one block, and all that
    is in none, with gradients."""
    casts: float
    """Weights of the student in half precision, while a step needs them."""
    views: float
    """The images of a micro-batch, as floats."""
    activations: float
    """What the student keeps for the backward pass."""
    waiting: float
    """Of these, what global views keep while the local ones, a pass of their own, go backward."""
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

        The first micro-batch of a step begins without gradients, and they come as activations go:
        all of them with the first of two passes.
        """
        step = self.activations + self.scores + self.casts
        # Gradients of casts stay in half precision while the casts do.
        later = self.waiting + self.gradients
        together = step + self.gradients if self.accumulates else max(step, later)
        return self.states + self.views + self.gathered + together

    def parts(self) -> dict[str, float]:
        """Bytes by name."""
        names = (f.name for f in fields(self) if f.name not in ("waiting", "accumulates"))
        return {name: getattr(self, name) for name in names}


def step_memory(
    config: Config,
    images: int,
    *,
    half: bool = False,
    shards: int = 1,
    flat_gradients: bool = False,
    gpu: bool = False,
    packed: bool = False,
) -> StepMemory:
    """Of a micro-batch of so many images.

    Args:
        config: the settings.
        images: B of one device.
        half: products in bfloat16 or float16.
        shards: devices among which weights, gradients, moments and teacher are divided.
        flat_gradients: several processes keep gradients from step to step, as they exchange them.
        gpu: whether the device is one; `system.kernels` says whether the fast paths run.
        packed: global and local views go through the student together.

    Returns:
        The parts, in bytes.
    """
    count, augment = Parameters.of(config), config.augment
    moments = 2 if config.optim.name == "adamw" else 1
    width = HALF if half else SINGLE
    pixels = augment.num_global * augment.global_size[0] * augment.global_size[1]
    pixels += augment.num_local * augment.local_size[0] * augment.local_size[1]
    of_global, of_local = _kept(config, width, gpu)
    return StepMemory(
        weights=SINGLE * count.student / shards,
        gradients=SINGLE * count.trained / shards,
        optimizer=SINGLE * moments * count.trained / shards,
        teacher=SINGLE * count.teacher / shards,
        # Weights and gradients, and the flat copies by which both are gathered and scattered.
        gathered=4 * SINGLE * _gathered(config, count) if shards > 1 else 0,
        casts=HALF * _cast(config, count, gpu) if half else 0,
        views=SINGLE * images * len(config.model.channels) * pixels,
        activations=images * (of_global + of_local + _head(config, width)),
        waiting=images * of_global if of_local and not packed else 0,
        scores=_scores(config, images, gpu),
        accumulates=config.train.accumulate > 1 or flat_gradients,
    )


def _cast(config: Config, count: Parameters, gpu: bool) -> int:
    """Parameters whose casts autocast keeps: no prototypes, nor fused blocks, which cast anew."""
    head = config.head
    outputs = head.out_dim + (0 if head.shared else head.patch_out_dim)
    prototypes = outputs * (head.bottleneck_dim + 1) if head.bottleneck_dim else 0
    if fused_blocks(config, gpu):
        return head_parameters(config.model, head, shared=head.shared)[0] - prototypes
    return count.student - prototypes


def _gathered(config: Config, count: Parameters) -> float:
    """Parameters of a block, and of all that is in none."""
    model = config.model
    block = largest_block(model)
    if model.kind == "swin":  # what else is in none is small
        return block + head_parameters(model, config.head, shared=config.head.shared)[0]
    return count.student - (model.depth - 1) * block


def _kept(config: Config, width: int, gpu: bool) -> tuple[float, float]:
    """Bytes that the student's backbone keeps of the global and local views of one image.

    width: bytes of what products make.
    """
    augment, rows, local = config.augment, Rows.of(config), 0.0
    chosen = 1 + (rows.masked - rows.masked_local) / augment.num_global
    whole = augment.num_global * _backbone(config, augment.global_size, width, chosen, gpu)
    if augment.num_local:
        chosen = 1 + rows.masked_local / augment.num_local
        local = augment.num_local * _backbone(config, augment.local_size, width, chosen, gpu)
    return whole, local


def _head(config: Config, width: int) -> float:
    """Bytes that the student's head keeps of one image, up to the last layer."""
    augment, rows, head = config.augment, Rows.of(config), config.head
    seen = augment.num_global + augment.num_local + rows.masked
    if head.norm in ("bn", "syncbn"):
        seen = augment.num_global * (1 + rows.places) + augment.num_local * (1 + rows.local_places)
    widths = head_widths(config.model, head)
    # Each hidden layer before and behind its activation; the bottleneck before and behind its norm.
    return seen * (width * (widths[0] + 2 * sum(widths[1:-1])) + 2 * SINGLE * widths[-1])


def fused_blocks(config: Config, gpu: bool) -> bool:
    """Whether the blocks of this processor are one function each."""
    model = config.model
    if gpu or config.system.kernels == "reference" or model.kind != "vit":
        return False
    widths = (model.width // model.heads, int(model.width * model.mlp_ratio))
    usual = model.act == "gelu" and not model.layer_scale
    return usual and not any(width % LANES for width in widths) and has_blocks()


def _backbone(config: Config, size: Size, width: int, rows: float, gpu: bool) -> float:
    """Of one view: two residual maps, and what the products of each block read."""
    model, kept, whole = config.model, 0.0, 0.0
    recomputed = config.system.checkpoint_activations
    for k, tokens in enumerate(token_counts(model, size)):
        wide, depth = model.width, model.depth
        if model.kind == "swin":
            wide, depth, rows = model.width * 2**k, model.depths[k], tokens
        mixing, after = _of_token(config, k, tokens, width, gpu)
        whole = max(whole, tokens * (mixing + after))
        if recomputed == "blocks":
            mixing, after = SINGLE * wide, 0.0
        elif recomputed == "selective":  # results of products alone
            mixing = SINGLE * wide + width * 5 * wide
            after = width * wide * (1 + model.mlp_ratio)
        last = k == len(model.depths) - 1 or model.kind == "vit"
        finished = tokens if model.mean_pooling or not last else rows
        kept += depth * tokens * mixing + ((depth - 1) * tokens + finished) * after
    if recomputed != "off":
        kept += whole  # of the block whose turn it is
    return kept + SINGLE * rows * embed_dim(model) + _pixels(config, size, width, gpu)


def _pixels(config: Config, size: Size, width: int, gpu: bool) -> float:
    """Of a view's own pixels, which the patch embedding keeps: cut to patches, or cast."""
    model = config.model
    # A convolution of float32 keeps the view itself, which is counted already.
    cut = model.kind == "vit" and not gpu and config.system.kernels != "reference"
    copied = cut or width == HALF
    return width * len(model.channels) * size[0] * size[1] if copied else 0.0


def _of_token(
    config: Config, stage: int, tokens: int, width: int, gpu: bool
) -> tuple[float, float]:
    """Bytes that a block keeps of a token: up to the attention, and behind it."""
    model = config.model
    wide, heads, ratio = model.width, model.heads, model.mlp_ratio
    # The residual map, queries, keys, values and their mixture; statistics of norm and softmax.
    if fused_blocks(config, gpu):  # norms and GELU are made again
        mixing = SINGLE * (wide + 2 + heads) + width * 4 * wide
        return mixing, SINGLE * (wide + 2) + width * wide * ratio
    if model.kind == "swin":
        wide, heads = model.width * 2**stage, model.stage_heads[stage]
    # Beside these both norms, and the MLP before and behind its activation.
    mixing = SINGLE * (wide + 2 + heads) + width * 5 * wide
    if model.kind == "swin":
        # With a bias the plain attention keeps its probabilities; windows are copied once.
        mixing += width * wide + SINGLE * heads * model.window**2
    elif width == HALF and not gpu:
        # Plain attention: probabilities in float32, and as the product with the values reads them.
        mixing += (SINGLE + width) * heads * tokens
    return mixing, SINGLE * (wide + 2) + width * wide * (1 + 2 * ratio)


def _scores(config: Config, images: int, gpu: bool) -> float:
    """Of a micro-batch, when the losses begin their backward pass, all in float32."""
    augment, head, rows = config.augment, config.head, Rows.of(config)
    patch = head.out_dim if head.shared else head.patch_out_dim
    target = head.out_dim if head.shared_teacher else head.patch_out_dim
    of_cls, of_patches = (
        (augment.num_global + augment.num_local) * head.out_dim,
        rows.masked * patch,
    )
    student = of_cls + of_patches
    teacher = augment.num_global * head.out_dim + rows.targets * target
    # Student: logits, logits over the temperature, and two gradients of these. Teacher: logits and
    # probabilities.
    plain = SINGLE * images * (4 * student + 2 * teacher)
    if not head.bottleneck_dim:
        return plain
    # The prototypes at unit length, student and teacher.
    prototypes = (head.out_dim + (0 if head.shared else patch)) * head.bottleneck_dim
    followed = (head.out_dim + (0 if head.shared_teacher else target)) * head.bottleneck_dim
    plain += SINGLE * (prototypes + followed)
    if config.system.kernels == "reference":
        return plain
    # In chunks: scores and targets of one, and a gradient of the prototypes for each loss.
    chunk = 2 * SINGLE * min(CHUNK[gpu], images * max(of_cls, of_patches))
    if config.method.targets == "sinkhorn":  # which balances all rows: logits and targets are there
        chunk += SINGLE * images * 2 * teacher
    return min(plain, chunk + SINGLE * (2 * prototypes + prototypes + followed))
