"""Every setting of a pre-training run: typed, frozen, with its meaning, unit and source.

The defaults are the published ViT-S/16 recipe (800 epochs, ImageNet-1K; spec 7.1), not the defaults
of the published flags. Section and equation numbers in the docstrings are the paper's (arXiv
2111.07832v3) unless they say otherwise. Settings under `system`, `log` and `checkpoint` change
speed or record-keeping, never the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ibot.config.duration import Duration, duration
from ibot.config.keeping import CheckpointConfig, EvaluateConfig, LogConfig, SystemConfig
from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD, RGB, DataConfig

# Settings with `repr=False` came after runs and features had been named by the others: they take
# part in those names only where they are set (`default_folder`, `weights_hash`), so that older ones
# are found again.


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Multi-crop views and their colours (appendix B; spec 2.1, 2.2)."""

    num_global: int = 2
    """G, global views per image; only these are masked and seen by the teacher."""
    num_local: int = 10
    """L, local views per image."""
    global_size: tuple[int, int] = (224, 224)
    """Height and width of a global view in pixels."""
    local_size: tuple[int, int] = (96, 96)
    """Height and width of a local view in pixels."""
    global_scale: tuple[float, float] = (0.25, 1.0)
    """Range of the share of the image's area that a global view covers."""
    local_scale: tuple[float, float] = (0.05, 0.25)
    """Range of the share of the image's area that a local view covers."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the width over height of a box, drawn on a log scale."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: float = field(default=0.0, repr=False)
    """Probability of a flip top to bottom, for images without an up (beyond the paper)."""
    turn: float = field(default=0.0, repr=False)
    """Probability of a turn by 90, 180 or 270 degrees, each as likely (beyond the paper)."""
    jitter: float = 0.8
    """Probability of colour jitter."""
    jitter_strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Half-widths of the brightness, contrast, saturation factors around 1 and of the hue shift
    around 0."""
    gray: float = 0.2
    """Probability of grayscale."""
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Probability of blur: first global view, other global views, local views."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur radius in pixels (Pillow's sigma)."""
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)
    """Probability of solarization: first global view, other global views, local views."""


@dataclass(frozen=True, slots=True)
class MaskConfig:
    """Which patches of the global views the student does not see (3.1, appendix B; spec 2.3)."""

    ratio: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.3, 0.2))
    """Pairs (mean, half-width) of the masked share; one pair is drawn uniformly, then a ratio
    within it."""
    shape: Literal["block", "random", "attention"] = "block"
    """Block-wise (BEiT), independent, or (beyond the paper: AttMask) where the teacher attends."""
    ratio_per: Literal["view", "image"] = "view"
    """Draw the ratio anew for each global view (published code) or once per image (paper; quirk
    Q14)."""
    start: Duration = field(default_factory=lambda: duration("0 epochs"))
    """Until then nothing is hidden or in a patch loss; the patch temperature warms up from here."""
    views: Literal["global", "first", "all"] = field(default="global", repr=False)
    """Views with hidden patches: every global one (the method), the first one alone, or the local
    ones as well (pipelines b, d and c of figure 7; the last one makes the teacher see the local
    views too)."""
    min_block: int = field(default=0, repr=False)
    """Cells of the smallest block drawn; 0: published, a third of the shorter side squared."""
    full_width: bool = False
    """Let one block span the whole width or height (the published code forbids it; quirk Q15)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The backbone: a vision transformer (spec 3.1) or a Swin transformer (spec 3.2)."""

    kind: Literal["vit", "swin"] = "vit"
    """Which network. `depth` and `heads` are read by a ViT, `depths`, `stage_heads` and `window`
    by a Swin."""
    width: int = 384
    """D, width of the tokens; in a Swin C, the width of the first stage, which doubles with each
    stage."""
    depth: int = 12
    """ViT: number of blocks."""
    heads: int = 6
    """ViT: attention heads per block."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Swin: blocks of each stage."""
    stage_heads: tuple[int, ...] = (3, 6, 12, 24)
    """Swin: attention heads of each stage."""
    window: int = 7
    """Swin: side of an attention window in tokens."""
    patch: int = 16
    """Side of an embedded patch in pixels; 4 in every published Swin."""
    mlp_ratio: float = 4.0
    """Hidden width of the block's MLP over D."""
    norm_eps: float = 1e-6
    """Added to the variance in every layer norm; other projects' weights may need 1e-5 or 1e-12."""
    drop_path: float = 0.1
    """Stochastic depth of the student's last block; grows linearly from 0. The teacher has none."""
    layer_scale: float = 0.0
    """Initial value of the per-channel gain of each residual branch; 0: no gain."""
    mean_pooling: bool = False
    """Class output = normalised mean of the patch tokens instead of the class token."""
    pos_size: tuple[int, int] | None = None
    """Image size for which the position table, or the windows of a Swin, are built; none: the
    global view (published: 224)."""
    pos_interp: Literal["published", "exact", "antialias"] = "published"
    """Resampling of the position table: with the published 0.1 (spec 3.1.3), to the exact size, or
    to that with antialiasing (timm, DINOv2 with registers). Weights of other projects bring
    their own."""
    registers: int = 0
    """Register tokens (beyond the paper: Darcet et al. 2024); dropped from the output."""
    init: Literal["published", "xavier"] = "published"
    """Linear layers: normal with std 0.02, or Xavier-uniform (ours, for small widths)."""
    act: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = field(
        default="gelu", repr=False
    )
    """Activation of the blocks' MLPs; weights of other projects may need another than the exact
    gelu."""
    channels: tuple[str, ...] = field(default=RGB, repr=False)
    """Names of the channels of an image."""
    mean: tuple[float, ...] = field(default=IMAGENET_MEAN, repr=False)
    """Subtracted from the levels of each channel of every image, in training and after; levels are
    0..1 of the range of a whole type, and as they are of floats."""
    std: tuple[float, ...] = field(default=IMAGENET_STD, repr=False)
    """Those levels are divided by it."""

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation with which images are normalised."""
        return self.mean, self.std

    @property
    def stride(self) -> int:
        """Pixels per output token: the cell of the mask grid."""
        return self.patch * 2 ** (len(self.depths) - 1) if self.kind == "swin" else self.patch

    @property
    def family(self) -> str:
        """What the network is called among people."""
        return {"vit": "ViT", "swin": "Swin"}[self.kind]

    def __str__(self) -> str:
        if self.kind == "vit":
            blocks, heads, last = self.depth, self.heads, f"patch {self.patch}"
        else:
            blocks, heads = ("-".join(map(str, n)) for n in (self.depths, self.stage_heads))
            last = f"window {self.window}"
        blocks = "1 block" if blocks == 1 else f"{blocks} blocks"
        return f"{self.family} of {blocks}, width {self.width}, {heads} heads, {last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The projection head: the online tokenizer (sections 3.1, 3.2; spec 4)."""

    out_dim: int = 8192
    """K, prototypes of the class token."""
    patch_out_dim: int = 8192
    """K', prototypes of the patch tokens; equal to `out_dim` when the head is shared."""
    shared: bool = True
    """Student: one last layer for class and patch tokens."""
    shared_teacher: bool = True
    """Teacher: the same. Unequal values reproduce the published defaults (quirk Q46)."""
    layers: int = 3
    """Linear layers of the MLP."""
    shared_layers: int = -1
    """Leading MLP layers common to class and patch tokens, in student and teacher; -1: all, as in
    the published code (fewer: the other rows of the paper's table of head sharing)."""
    hidden_dim: int = 2048
    """Hidden width of the MLP."""
    bottleneck_dim: int = 256
    """Width of the l2-normalised bottleneck; 0: none, plain linear last layers."""
    norm: Literal["none", "bn", "syncbn", "ln"] = "none"
    """Norm after the hidden layers of the MLP."""
    norm_shared: bool = False
    """One norm module for all hidden layers, as in the published code (quirk Q41)."""
    act: Literal["gelu", "relu"] = "gelu"
    """Activation of the MLP."""
    norm_last_layer: bool = False
    """Keep the lengths of the prototypes at 1 instead of training them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """Losses, targets and the teacher (equations 2 and 3, algorithm 1; spec 5)."""

    student_temp: float = 0.1
    """Student temperature of both losses."""
    teacher_temp: float = 0.07
    """Teacher temperature of the class token after warm-up; lower is sharper."""
    teacher_temp_start: float = 0.04
    """The same at the start of the warm-up."""
    patch_temp: float = 0.07
    """Teacher temperature of the patch tokens after warm-up."""
    patch_temp_start: float = 0.04
    """The same at the start of the warm-up."""
    temp_warmup: Duration = field(default_factory=lambda: duration("30 epochs"))
    """Length of the linear warm-up of both temperatures."""
    temp_schedule: Literal["epoch", "step"] = "epoch"
    """Change the temperatures between epochs (published) or at each step (ours)."""
    targets: Literal["center", "sinkhorn"] = "center"
    """Teacher targets by centering (paper) or Sinkhorn-Knopp (beyond the paper: SwAV, DINOv2)."""
    patch_balance: Literal["masked", "all"] = field(default="masked", repr=False)
    """Teacher patches that Sinkhorn-Knopp balances together: those in a loss, or (beyond the paper)
    all of the global views, whose scores, K' each, are then in memory as a whole."""
    patch_target: Literal["online", "frozen", "color", "clusters"] = "online"
    """What the student predicts for a hidden patch: the teacher's distribution (the method); that
    of a frozen network, the mean colour, or the nearest of K' clusters of raw patches
    (ablations, tables 9 and 20)."""
    patch_match: Literal["hidden", "position", "feature"] = "hidden"
    """Which teacher patch a student patch predicts: itself, hidden, in the same view (the method);
    or, without masks, that of the other global view at the nearest place or with the most
    similar feature (ablations, appendix E)."""
    patch_target_norm: bool = field(default=True, repr=False)
    """Patch targets from behind the teacher's final norm; false: before it (beyond the paper)."""
    patch_residual: bool = field(default=False, repr=False)
    """Patch targets from what a patch adds to the mean patch of its view, behind the teacher's
    bottleneck: else all patches of a view may share a few words (beyond the paper)."""
    patch_labels: Literal["soft", "hard"] = field(default="soft", repr=False)
    """Targets of hidden patches: the distribution (the method), or all on its largest entry
    (ablation, table 18)."""
    tokenizer: str = ""
    """Weights of the frozen tokenizer, with their head; a run, or a name: ibot:vit_s16-full."""
    center_momentum: float = 0.9
    """Momentum of the class center; with 1 it stays at zero: no centering."""
    center_momentum_patch: float = 0.9
    """Momentum of the patch center; with 1 it stays at zero: no centering (ablation, table 18)."""
    cls_weight: float = 1.0
    """Weight of the class-token loss."""
    patch_weight: float = 1.0
    """Weight of the masked-patch loss."""
    visible_weight: float = field(default=0.0, repr=False)
    """Weight of that of visible patches, a mean over all global views, those without a mask too
    (beyond the paper). Sinkhorn-Knopp then balances them and the hidden ones together."""
    visible_target: Literal["own", "other"] = field(default="own", repr=False)
    """What visible patches predict: the teacher's patch at their own place, or that of the other
    global view which shows the same part of the image, where it does (beyond the paper)."""
    koleo_weight: float = 0.0
    """Weight of the KoLeo regulariser on the student's class tokens (beyond the paper: DINOv2)."""
    momentum: float = 0.996
    """Teacher momentum at the start; rises to 1 on a cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Optimizer and its schedules (section 3.2; spec 6)."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """The optimizer. SGD and LARS take their momentum from `betas`."""
    lr: float = 5e-4
    """Peak learning rate for a total batch of 256; scaled linearly with `train.batch`."""
    min_lr: float = 1e-6
    """Learning rate at the end; not scaled."""
    warmup: Duration = field(default_factory=lambda: duration("10 epochs"))
    """Linear warm-up of the learning rate."""
    weight_decay: float = 0.04
    """Weight decay at the start, per unit of the learning rate; biases and norms have none."""
    weight_decay_end: float = 0.4
    """Weight decay at the end; it moves there on a cosine."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays; the first one is also the momentum of SGD and LARS."""
    clip: float = 3.0
    """Largest l2 norm of the gradient of each parameter tensor; 0: off."""
    freeze_last_layer: Duration = field(default_factory=lambda: duration("1 epochs"))
    """The prototypes do not move for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Length, batch, seed, precision."""

    length: Duration = field(default_factory=lambda: duration("800 epochs"))
    """Length of the run and of all its schedules (`--epochs E` sets "E epochs")."""
    max_steps: int = 0
    """Stop after this many optimizer steps, schedules unchanged (`--steps`); 0: run to the end."""
    batch: int = 1024
    """Images per optimizer step over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches per optimizer step and process: less memory, same result of the paper's
    losses."""
    init: str = ""
    """Weights to start from (`--init`): a run, a checkpoint, a file of another project, or a name
    (ibot:vit_s16, hf:OWNER/NAME, timm:NAME); empty: random ones."""
    head_warmup: Duration = field(default_factory=lambda: duration("0 epochs"))
    """The backbone stays as it is for this long, while the head learns; set where `init` has no
    head."""
    seed: int = 0
    """Seed of weights, image order, views, masks and stochastic depth."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Matrix products; auto: bfloat16 on a GPU that has it, else float32. Logits and losses stay
    float32."""
    lengths: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    """Written by a run that was made longer (`--extend-to`): from which step on, how many steps in
    all."""
    lists: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)
    """Written by a run whose images changed: from which step on, the epoch that began there, how
    many images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A complete pre-training run."""

    recipe: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
