"""A few bytes of each patch token, by which patches are compared without the network.

Tokens are brought to length 1 and projected on the directions in which those of some images differ
most. The cosine of two tokens follows from both projections up to what the other directions hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibot.errors import DataError
from ibot.eval.features.views import evenly
from ibot.vocabulary.statistics import write_arrays

DIMENSIONS = 32
LEAST_IMAGES, IMAGES, SHARE, TOKENS = 32, 256, 20, 2**15
"""One image in `SHARE` decides the directions, within these limits; of them so many tokens at most.
Both evenly spaced."""
LARGEST = 127
"""Of int8; -128 is not used, so that signs are alike."""


@dataclass(frozen=True, slots=True)
class Projection:
    """From patch tokens [.., D] to int8 [.., d], d = min(D, 32)."""

    mean: Tensor
    """float32 [D], of unit tokens."""
    components: Tensor
    """float32 [d, D], orthonormal, that of the largest variance first."""
    scale: float
    """What one step of int8 means."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [.., D] of any length -> int8 [.., d], on their device."""
        matrix, mean = self.components.to(tokens.device), self.mean.to(tokens.device)
        length = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True).clamp(min=1e-12)
        # Divided when they are short: scaled tokens would be a copy of all.
        projected = F.linear(tokens.to(matrix.dtype), matrix) / length - matrix @ mean
        return projected.div_(self.scale).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)

    def cosines(self, one: NDArray[np.int8], others: NDArray[np.int8]) -> NDArray[np.float32]:
        """About the cosines of a token [d] with others [m, d], all projected: float32 [m].

        Exact but for rounding where d = D; else tokens count as if they were the mean beside the
        directions kept.
        """
        mean, matrix = self.mean.numpy(), self.components.numpy()
        shift = matrix @ mean
        a = self.scale * one.astype(np.float32)
        # The scale goes to the single token: the others may be a million.
        cosine = others.astype(np.float32) @ (self.scale * (a + shift)) + (a @ shift + mean @ mean)
        return np.clip(cosine, -1, 1).astype(np.float32)

    @property
    def digest(self) -> str:
        """Names what is projected so."""
        arrays = (self.mean, self.components, torch.tensor(self.scale))
        content = b"".join(np.ascontiguousarray(array.numpy()).tobytes() for array in arrays)
        return hashlib.sha256(content).hexdigest()[:16]

    def save(self, file: Path) -> None:
        """Write an .npz file."""
        matrix, mean = self.components.numpy(), self.mean.numpy()
        write_arrays(file, {"mean": mean, "components": matrix, "scale": np.array(self.scale)})

    @classmethod
    def load(cls, file: Path) -> Projection:
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            mean, components = (torch.from_numpy(arrays[name]) for name in ("mean", "components"))
            return cls(mean, components, float(arrays["scale"]))


def fit(tokens: Tensor, dimensions: int = DIMENSIONS) -> Projection:
    """Principal components of unit tokens, from tokens [n, D] of any length; the same every time.

    Of each component the entry of the largest size is positive.
    """
    unit = F.normalize(tokens.double(), dim=-1)
    mean = unit.mean(dim=0)
    centred = unit - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # the largest variance last
    components = vectors.flip(1)[:, :dimensions].T
    largest = components.abs().argmax(dim=1, keepdim=True)
    components = components * components.gather(1, largest).sign()
    reach = (centred @ components.T).abs().max().item()
    return Projection(mean.float(), components.float().contiguous(), max(reach, 1e-6) / LARGEST)


def sampled_images(count: int) -> NDArray[np.int64]:
    """Numbers of the images of a set of `count` that decide the directions, rising."""
    return evenly(count, min(IMAGES, max(LEAST_IMAGES, count // SHARE)))


def sample(batches: Iterator[Tensor], limit: int = TOKENS) -> Tensor:
    """At most `limit` tokens [m, D] of batches [b, N, D] of up to 256 images, evenly spaced.

    Raises DataError where there are none.
    """
    found = []
    for tokens in batches:
        step = max(1, -(-tokens.shape[1] * IMAGES // limit))
        found.append(tokens[:, ::step].flatten(0, 1).cpu().float())
    if not found:
        raise DataError(
            "none of the images can be read",
            why="none of those that are spread over the set",
            fix="look at the files, or name others",
        )
    return torch.cat(found)
