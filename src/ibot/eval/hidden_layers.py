"""Layers between a backbone and its linear head, as words and tensors that a file can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ibot.models.head import Prototypes, UnitLength

KINDS: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "layer_norm": nn.LayerNorm,
    "unit_length": UnitLength,
    "prototypes": Prototypes,
}
"""What fine-tuning keeps of a projection head."""


def kinds_of(layers: nn.Sequential) -> list[str]:
    """The word of each layer. Raises ValueError for one that has none."""
    words = {kind: word for word, kind in KINDS.items()}
    unknown = [type(layer).__name__ for layer in layers if type(layer) not in words]
    if unknown:
        raise ValueError(f"a layer {unknown[0]} cannot be stored")
    return [words[type(layer)] for layer in layers]


def layers_of(kinds: Sequence[str], tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """The layers with those words and the tensors of their `state_dict`.

    Raises KeyError for unknown words and missing tensors, RuntimeError for tensors that do not fit.
    """
    layers = nn.Sequential(*(_built(kind, tensors, f"{i}.") for i, kind in enumerate(kinds)))
    layers.load_state_dict(dict(tensors))
    return layers.requires_grad_(False)


def _built(kind: str, tensors: Mapping[str, Tensor], prefix: str) -> nn.Module:
    if kind == "linear":
        out_dim, in_dim = tensors[f"{prefix}weight"].shape
        return nn.Linear(in_dim, out_dim, bias=f"{prefix}bias" in tensors)
    if kind == "prototypes":
        out_dim, in_dim = tensors[f"{prefix}weight_v"].shape
        return Prototypes(in_dim, out_dim, train_length=False)
    if kind == "layer_norm":
        return nn.LayerNorm(len(tensors[f"{prefix}weight"]))
    return KINDS[kind]()
