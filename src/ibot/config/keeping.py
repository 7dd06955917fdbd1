"""Settings that change no result: evaluations on the way, log, checkpoints, the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ibot.config.duration import Duration, duration


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """Evaluations of the teacher during training: k-NN where labels exist (spec_evaluation 8.1),
    and of its patches. They change no result.
    """

    every: Duration = field(default_factory=lambda: duration("0 epochs"))
    """Interval; 0: only at the start and the end. The initial weights are always evaluated."""
    k: int = 20
    """Neighbours."""
    temperature: float = 0.07
    """Temperature of the vote."""
    max_train: int = 10000
    """At most this many training images (evenly spaced) in the bank."""
    max_val: int = 2000
    """At most this many validation images."""
    guard: float = 0.0
    """Stop when k-NN is this many points below that of the initial weights; 0: never."""
    match: int = field(default=64, repr=False)
    """Images, evenly spaced, of which patches are found again in another view (`ibot eval match`);
    needs no labels: those to validate on, or else to train on; 0: off."""
    dense_data: str = field(default="", repr=False)
    """Images with label maps, segmented by their nearest labelled patches (`ibot eval dense_knn`);
    empty: off."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Progress and metrics; changes no result."""

    every: int = 10
    """Steps between two log lines."""
    tensorboard: bool = True
    """Write TensorBoard events where the package is installed."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Saving; changes no result."""

    every: Duration = field(default_factory=lambda: duration("1 epochs"))
    """Interval between checkpoints."""
    keep: int = 3
    """Newest checkpoints kept."""
    keep_every: Duration = field(default_factory=lambda: duration("40 epochs"))
    """A checkpoint at a multiple of this is never deleted; 0: none."""


@dataclass(frozen=True, slots=True)
class SystemConfig:
    """Speed; changes no result beyond rounding."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps (`--device`)."""
    workers: int = -1
    """Loader processes per training process; -1: chosen from the cores; 0: in the training
    process."""
    threads: int = 0
    """Threads of matrix products on the CPU; 0: torch's choice."""
    shard: Literal["none", "fsdp"] = "none"
    """What each of several processes holds of networks, gradients and optimizer: none: all of them
    (DDP); fsdp: its part, for networks that are too large otherwise (FSDP2)."""
    deterministic: bool = False
    """Refuse GPU kernels whose result varies from run to run."""
    kernels: Literal["auto", "reference", "require"] = "auto"
    """Fast paths of the step: those that are there and pay; none, the plain forms alone; or as
    auto, but a path for which this machine lacks something is an error. Runs begun before there
    were any go on without by auto."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the blocks by torch.compile, for a longer start; auto: on a GPU."""
    checkpoint_activations: Literal["off", "selective", "blocks"] = "off"
    """Make again in the backward pass, for less memory and the same numbers: nothing; what costs
    little (norms, activations); or all of each block, whose forward pass runs twice then."""
