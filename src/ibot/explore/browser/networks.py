"""The networks of the checkpoints that are looked at, and what they say of an image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.sets.same_channels import named
from ibot.errors import WeightsError
from ibot.eval.features.cache import weights_hash
from ibot.eval.features.views import View
from ibot.eval.opened import view_of
from ibot.eval.request import Request
from ibot.explore.browser.kept import Kept
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.shelf import Shelf
from ibot.models.head import ProjectionHead
from ibot.system.device import choose_device
from ibot.types import TokenOutput
from ibot.vocabulary.assign import Temperatures
from ibot.vocabulary.tokenizer import temperatures_of
from ibot.weights.head import projection_head
from ibot.weights.read import Loaded, fit, load_weights

NETWORKS = 3
"""In memory at a time: two checkpoints are compared, and one is the newest."""
TOKENS = 64 * 2**20
"""Bytes of tokens that are kept."""


@dataclass(frozen=True, slots=True)
class Network:
    """A checkpoint, ready to be asked."""

    loaded: Loaded
    """In evaluation mode, on the device."""
    head: ProjectionHead | None
    temperatures: Temperatures
    """Of the head, by which a word's confidence is reckoned."""
    hash: str
    view: View


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network makes of one image, on the CPU."""

    cls: Tensor
    """float32 [D]."""
    patches: Tensor
    """float32 [N, D], after the final norm."""
    grid: tuple[int, int]
    attention: Tensor | None
    """float32 [heads, h, w], of the class token in the last block; None where it does not attend.
    """


class Networks:
    """Networks by the place of their weights. One is asked at a time, by whichever thread."""

    def __init__(self, request: Request, shelf: Shelf) -> None:
        self.request, self.shelf = request, shelf
        self.device = choose_device(request.device)
        self.view: View | None = None
        """As an index of the images was made; None: as each network does."""
        self._open: OrderedDict[Path, Network] = OrderedDict()
        self._lock = threading.RLock()
        self._seen: Kept[Seen] = Kept(TOKENS, lambda seen: seen.patches.nbytes)

    def get(self, path: Path) -> Network:
        """The network in a file or folder. Raises Refused where it has gone, WeightsError."""
        with self._lock:
            if path not in self._open:
                self._open[path] = self._load(path)
                while len(self._open) > NETWORKS:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return self._open[path]

    def seen(self, path: Path, image: str, scale: int = 1) -> Seen:
        """What the network at `path` makes of an image, at `scale` times its usual view.

        Raises Refused, WeightsError, UnreadableImage.
        """
        return self._seen.get((path, image, scale), lambda: self._see(path, image, scale))

    def received(self, path: Path, image: str, scale: int = 1) -> Tensor:
        """What patches receive of each other's attention in the last block: float32 [heads, h, w].

        Raises as `seen`, and ValueError for a network that cannot say.
        """
        with self._lock, torch.inference_mode():
            backbone = self.get(path).loaded.backbone
            received = backbone.received_attention(self._inputs(path, image, scale))
            return received[0].float().cpu()

    def _inputs(self, path: Path, image: str, scale: int) -> Tensor:
        """An image as a network gets it: normalised [1, 3, H, W]."""
        network = self.get(path)
        whole, channels = self.shelf.pixels(image), network.loaded.config.channels
        if whole.shape[2] != len(channels):
            raise Refused(
                415,
                "the network cannot look at it",
                why=f"it reads {named(channels)}, the image has {whole.shape[2]}",
                fix="look at images of the data folder",
            )
        pixels = (self.view or network.view).enlarged(whole, scale)
        images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        return normalize(images.to(self.device), network.loaded.backbone.statistics)

    def _load(self, path: Path) -> Network:
        if not path.exists():
            raise Refused(
                410,
                f"the checkpoint '{path.name}' is no longer there",
                why="a run keeps its newest checkpoints only, and this one was removed",
                fix="look at a newer one, or keep all: checkpoint.keep",
            )
        asked = self.request
        weights = load_weights(path, asked.key)
        loaded = fit(weights, heads=asked.heads, allow_partial=asked.allow_partial)
        head = projection_head(weights, loaded.backbone.embed_dim, asked.key)
        found = weights_hash(loaded)
        loaded.backbone.to(self.device).requires_grad_(False)
        if head is not None:
            head.to(self.device)
        return Network(loaded, head, temperatures_of(weights), found, view_of(asked, loaded))

    def _see(self, path: Path, image: str, scale: int) -> Seen:
        with self._lock, torch.inference_mode():
            backbone = self.get(path).loaded.backbone
            inputs = self._inputs(path, image, scale)
            attention = None
            if backbone.class_heads:
                output, attention = backbone.tokens_and_attention(inputs)
                attention = attention[0].float().unflatten(-1, output.grid).cpu().clone()
            else:
                output: TokenOutput = backbone(inputs)
        cls, patches = (tensor[0].float().cpu().clone() for tensor in (output.cls, output.patches))
        if not bool(patches.isfinite().all()):
            raise WeightsError("the network's outputs are not finite", fix="use other weights")
        return Seen(cls, patches, output.grid, attention)
