"""Where in a file the networks are: what wraps them is peeled off, down to known names.

A network is found by the name of its patch embedding. What stands before that name is the beginning
of all its names (`module.`, `backbone.`, `student_backbone.vit.`); the dictionaries around it
(`teacher`, `state_dict`, `model_ema`) are its place. So no list of projects is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibot.errors import WeightsError
from ibot.weights.files import Content, refused

EMBEDDING = re.compile(
    r"(|.*\.)(patch_embed\.proj|embeddings\.patch_embeddings\.projection|conv_proj)\.weight"
)
INSIDE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, sharding and activation checkpointing put before the names of what they
wrap."""
DEPTH = 4
"""Dictionaries within each other, at most."""
ORDER = {"teacher": ("teacher", "", "momentum"), "student": ("student", "", "momentum")}
"""Which network is meant by a key, by its role, best first: a momentum encoder helps in training,
while the projects that call it so evaluate the trained one."""


@dataclass(frozen=True, slots=True)
class Network:
    """Tensors of one network in a file."""

    place: str
    """The dictionaries around it and the beginning of its names, joined by dots; may be empty."""
    tensors: dict[str, Tensor]
    """By name, without the beginning."""
    others: dict[str, Tensor]
    """What stands beside it: heads, decoders."""

    @property
    def role(self) -> str:
        """What it is for; see `role_of`."""
        return role_of(self.place)


def role_of(place: str) -> str:
    """What a network here is for: teacher (also a running mean), student, momentum, or empty."""
    parts = place.split(".")
    if any("teacher" in part or re.search(r"(^|_)ema($|_)", part) for part in parts):
        return "teacher"
    if any("student" in part for part in parts):
        return "student"
    helping = any(re.search(r"momentum|^target_|_k$", part) for part in parts)
    return "momentum" if helping else ""


def find_networks(tree: Any) -> list[Network]:
    """All networks with a patch embedding in what a file holds."""
    found = []
    for path, named in states(tree):
        tensors = {INSIDE.sub("", name): tensor for name, tensor in named.items()}
        starts = [match[1] for name in tensors if (match := EMBEDDING.fullmatch(name))]
        for start in starts:
            # `module.head.` stands beside `module.backbone.`.
            above = start[: start.rstrip(".").rfind(".") + 1]
            own = {
                name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)
            }
            others = {
                name.removeprefix(above): tensor
                for name, tensor in tensors.items()
                if not any(name.startswith(other) for other in starts)
            }
            found.append(Network(".".join([*path, start.rstrip(".")]).strip("."), own, others))
    return found


def states(
    tree: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Dictionaries that hold tensors, with the keys that lead there, the outer ones first."""
    if not isinstance(tree, dict) or len(path) > DEPTH:
        return
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in tree.items():
        yield from states(value, (*path, str(name)))


def choose_network(content: Content, key: str) -> Network:
    """The network that `key` means: teacher, student, or a part of its place.

    Raises WeightsError where there is none, or where several could be meant.
    """
    found = find_networks(content.tree)
    if not found:
        return _without_embedding(content, key)
    order = ORDER.get(key)
    if order is None:
        ranked = [
            [
                network
                for network in found
                if key == network.place or key in network.place.split(".")
            ]
        ]
    else:
        ranked = [[network for network in found if network.role == role] for role in order]
    best = next((networks for networks in ranked if networks), [])
    if not best:
        known = ", ".join(network.place or "(no name)" for network in found)
        what = f"'{content.file}' holds no network '{key}'" if order else f"unknown network '{key}'"
        raise WeightsError(what, why=f"it holds {known}", fix="choose another --key")
    if not all(_same(best[0].tensors, other.tensors) for other in best[1:]):
        raise WeightsError(
            f"'{content.file}' holds several networks",
            why=", ".join(network.place for network in best),
            fix=f"choose one, for example --key {best[0].place}",
        )
    return best[0]


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether it is one network under two names."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _without_embedding(content: Content, key: str) -> Network:
    """The named tensors of a file in which nothing is known, for the error."""
    tree = content.tree
    if not isinstance(tree, dict):
        raise WeightsError(f"'{content.file}' holds a {type(tree).__name__}, not named tensors")
    for name in (key, "state_dict", "model"):
        if isinstance(tree.get(name), dict) and not content.foreign:
            return Network(name, _cut(next(iter(states(tree[name])), ((), {}))[1]), {})
    if tree and all(isinstance(value, Tensor) for value in tree.values()):
        return Network("", _cut(tree), {})
    if content.foreign:
        raise refused(content.file, content.foreign)
    if key not in ORDER:
        raise WeightsError(f"unknown network '{key}'", fix="use teacher or student")
    keys = ", ".join(str(name) for name in list(tree)[:6])
    raise WeightsError(
        f"'{content.file}' holds no network '{key}'",
        why=f"its keys are {keys}",
        fix="choose another --key",
    )


def _cut(
    tensors: Mapping[str, Tensor], prefixes: Sequence[str] = ("module.", "backbone.")
) -> dict[str, Tensor]:
    """Cut these at the start only: further inside they belong to the name."""
    for prefix in prefixes:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return dict(tensors)
