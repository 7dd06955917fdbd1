"""Building the tokenizers of the ablations: from images, or from weights (spec 7.3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ibot.config.schema import Config, HeadConfig
from ibot.data.decode import UnreadableImage
from ibot.data.pixels import MEAN, STD, Statistics, evaluation_view, normalize
from ibot.data.sets.images import Images
from ibot.engine.start import copy_backbone, head_tensors, patch_center
from ibot.errors import ConfigError, WeightsError
from ibot.method.network import Network
from ibot.method.tokenizers import (
    COLOR_LEVELS,
    ClusterTokenizer,
    ColorTokenizer,
    FrozenTokenizer,
    PatchTokenizer,
    nearest,
)
from ibot.models.layers import cut_patches
from ibot.system.distributed import barrier
from ibot.system.files import write_atomically
from ibot.system.processes import Processes
from ibot.weights.arguments import head_config
from ibot.weights.head import has_residual_patches
from ibot.weights.read import fit, load_weights, refuse_bad_numbers
from ibot.weights.write import save_tensors

CENTERS_FILE = "tokenizer.safetensors"
SHARE_OF_IMAGES = 0.1
MOST_ROWS = 200_000
ITERATIONS = 10


def tokenizer_size(config: Config) -> int:
    """K' of the settings' tokenizer. Raises WeightsError for one without a head of ours."""
    method = config.method
    if method.patch_target == "color":
        return COLOR_LEVELS**3
    if method.patch_target == "frozen":
        head = _head(method.tokenizer)
        return head.out_dim if head.shared_teacher else head.patch_out_dim
    return config.head.patch_out_dim


def with_tokenizer(config: Config) -> Config:
    """Settings whose patch head fits the tokenizer; its own head: the targets are no classes."""
    if config.method.patch_target == "online":
        return config
    if config.method.patch_target == "frozen" and not config.method.tokenizer:
        raise ConfigError(
            "method.patch_target=frozen needs weights",
            fix="name them with method.tokenizer=WEIGHTS: a run, or ibot:vit_s16-full",
        )
    head = replace(
        config.head, shared=False, shared_teacher=False, patch_out_dim=tokenizer_size(config)
    )
    return replace(config, head=head)


def build_tokenizer(
    config: Config, source: Images, run: Path, processes: Processes
) -> PatchTokenizer | None:
    """The tokenizer that the settings name, on the CPU; None for the online one.

    Cluster centers are made once and kept in the run folder, so that a resumed run has the same.
    """
    kind, stride = config.method.patch_target, config.model.stride
    if kind == "online":
        return None
    if kind == "color":
        return ColorTokenizer(stride, *config.model.statistics)
    if kind == "frozen":
        return _frozen(config)
    file = run / CENTERS_FILE
    if processes.is_main and not file.exists():
        rows = sample_patches(
            source,
            config.augment.global_size,
            stride,
            config.train.seed,
            statistics=config.model.statistics,
        )
        centers = cluster(rows, config.head.patch_out_dim, config.train.seed)
        write_atomically(file, lambda path: save_tensors({"centers": centers}, path))
    barrier()
    return ClusterTokenizer(stride, load_file(file)["centers"])


def sample_patches(
    source: Images,
    size: tuple[int, int],
    patch: int,
    seed: int,
    *,
    statistics: Statistics = (MEAN, STD),
) -> Tensor:
    """Patches of a tenth of the images, normalised: [R, 3 * patch * patch], R <= `MOST_ROWS`."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(source))[: max(1, int(len(source) * SHARE_OF_IMAGES))]
    parts, count = [], 0
    for index in chosen:
        try:
            image = source.read(int(index))
        except UnreadableImage:
            continue
        view = torch.from_numpy(evaluation_view(image, max(size), size).copy()).permute(2, 0, 1)
        parts.append(cut_patches(normalize(view, statistics)[None], patch)[0])
        count += len(parts[-1])
        if count >= MOST_ROWS:
            break
    return torch.cat(parts)[:MOST_ROWS]


def cluster(rows: Tensor, count: int, seed: int) -> Tensor:
    """k-means centers [count, d] of rows [R, d]: Lloyd's iterations from random rows; an empty
    cluster takes a new row.

    Raises ConfigError for fewer rows than centers.
    """
    if len(rows) < count:
        raise ConfigError(
            f"{len(rows)} patches cannot give {count} clusters",
            fix=f"head.patch_out_dim={max(2, len(rows) // 4)} or less",
        )
    generator = torch.Generator().manual_seed(seed)
    centers = rows[torch.randperm(len(rows), generator=generator)[:count]].clone()
    for _ in range(ITERATIONS):
        owner = nearest(rows, centers)
        sizes = owner.bincount(minlength=count)
        sums = torch.zeros_like(centers).index_add_(0, owner, rows)
        filled = sizes > 0
        centers[filled] = sums[filled] / sizes[filled, None]
        empty = int((~filled).sum())
        if empty:
            centers[~filled] = rows[torch.randint(len(rows), (empty,), generator=generator)]
    return centers


def _frozen(config: Config) -> FrozenTokenizer:
    path = config.method.tokenizer
    weights = load_weights(path, "teacher")
    loaded = fit(weights)
    if loaded.config.stride != config.model.stride:
        raise ConfigError(
            f"the tokenizer's patches are {loaded.config.stride} pixels wide, the model's "
            f"{config.model.stride}",
            fix="train a model with the same patch",
        )
    if loaded.config.statistics != config.model.statistics:
        mean, std = loaded.config.statistics
        raise ConfigError(
            "the tokenizer's images are normalised otherwise than the model's",
            why=f"its mean is {mean} and its deviation {std}",
            fix=f"model.mean={','.join(map(str, mean))} model.std={','.join(map(str, std))}",
        )
    head = _head(path)
    settings = replace(
        config,
        model=loaded.config,
        head=head,
        augment=replace(config.augment, global_size=loaded.size),
    )
    network = Network(
        settings,
        drop_path=0.0,
        masked=False,
        shared=head.shared_teacher,
        residual=has_residual_patches(weights.settings, "teacher"),
    )
    copy_backbone(network.backbone, loaded, weights)
    tensors = head_tensors(network.head, weights)
    refuse_bad_numbers(weights.source, tensors, network.head.state_dict())
    network.head.load_state_dict(tensors)
    size = head.out_dim if head.shared_teacher else head.patch_out_dim
    return FrozenTokenizer(network, size, patch_center(Path(path)))


def _head(path: str) -> HeadConfig:
    head = head_config(load_weights(path, "teacher"))
    if head is None or not head.bottleneck_dim:
        raise WeightsError(
            f"'{path}' holds no projection head",
            fix="a tokenizer is a run, or a full published checkpoint: ibot:vit_s16-full",
        )
    return head
