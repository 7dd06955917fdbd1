"""Layer-wise learning rates and weight decay by parameter name (spec_evaluation 8.4).

Early layers hold what every image shares and move little; the new classifier moves at the full
rate. Own code because timm's `param_groups_layer_decay` gives the final norm a smaller rate and
lets positions and class token decay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

INPUT_TOKENS = ("cls_token", "pos_embed", "absolute_pos_embed", "masked_embed", "register_tokens")
"""Tokens and positions: they belong to the input, and 8.4 does not let them decay."""


def layer_scales(num_layers: int, decay: float) -> list[float]:
    """Factors decay^(L + 1 - i) for i = 0 (input), 1..L (blocks), L + 1 (norm and head)."""
    return [decay ** (num_layers + 1 - i) for i in range(num_layers + 2)]


def layer_of(name: str, depths: Sequence[int]) -> int:
    """The layer 0..L + 1 of a parameter; L is the sum of `depths`.

    name: as `ibot.models.contract` has it. depths: blocks of each stage. Blocks are counted over
    all stages, and a patch merging belongs to the last block of its stage.
    """
    parts = name.split(".")
    if parts[0] in INPUT_TOKENS or parts[0] == "patch_embed":
        return 0
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    if parts[0] == "layers":
        stage = int(parts[1])
        return sum(depths[:stage]) + (int(parts[3]) + 1 if parts[2] == "blocks" else depths[stage])
    return sum(depths) + 1


def does_decay(name: str, ndim: int, decay_tokens: bool) -> bool:
    """Whether weight decay applies: never to vectors and biases, to tokens if `decay_tokens`.

    8.4 does not decay class token and positions, 8.5 and 8.7 do.
    """
    return ndim > 1 and not name.endswith(".bias") and (decay_tokens or name not in INPUT_TOKENS)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    depths: Sequence[int],
    *,
    layer_decay: float,
    weight_decay: float,
    decay_tokens: bool,
) -> list[dict[str, object]]:
    """Optimizer groups with their factor `lr_scale` of the learning rate and their `weight_decay`.

    Args:
        parameters: names as in the backbone, those outside of it under names of their own (they get
            the full rate). Parameters without gradient are left out.
        depths: blocks of each stage.
        layer_decay: d; 1 gives every layer the full rate.
        weight_decay: of what decays.
        decay_tokens: see `does_decay`.

    Returns:
        One group for each pair of factors that occurs, in the order of the parameters.

    Raises:
        ValueError: the names of the blocks' parameters are not those of the contract.
    """
    num_layers = sum(depths)
    scales = layer_scales(num_layers, layer_decay)
    named = list(parameters)
    nameless = set(range(num_layers + 1)) - {layer_of(name, depths) for name, _ in named}
    if nameless:
        raise ValueError(f"no parameter is named as one of layer {min(nameless)} of {num_layers}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decay = weight_decay if does_decay(name, parameter.ndim, decay_tokens) else 0.0
            groups.setdefault((scales[layer_of(name, depths)], decay), []).append(parameter)
    return [
        {"params": members, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), members in groups.items()
    ]
