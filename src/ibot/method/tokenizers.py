"""Patch targets of the paper's ablations that are not the online teacher's (tables 9, 20).

Each maps the whole global views to one distribution per hidden patch, [M, K']. They stay as they
are while the student trains; the online tokenizer, which learns with it, is the teacher's own head
(`ibot.method.model.Teacher`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.method.network import Network
from ibot.models.layers import cut_patches
from ibot.types import Masks

COLOR_LEVELS = 8
"""Levels of each channel: 8 * 8 * 8 = 512 classes (mean patch prediction)."""


class ColorTokenizer(nn.Module):
    """The class of a patch is its mean colour, three bits a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, patch: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take the normalisation of the views, which is undone."""
        super().__init__()
        self.patch, self.size = patch, COLOR_LEVELS**3
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    @torch.no_grad()
    def targets(self, global_views: Tensor, masks: Masks, temp: float) -> Tensor:
        """One-hot [M, 512] of the hidden patches of global_views [G, B, 3, H, W]."""
        rows = hidden_patches(global_views, masks, self.patch).unflatten(1, (3, -1)).mean(dim=-1)
        levels = ((rows * self.std + self.mean) * COLOR_LEVELS).floor()
        red, green, blue = levels.clamp(0, COLOR_LEVELS - 1).long().unbind(dim=1)
        color = (red * COLOR_LEVELS + green) * COLOR_LEVELS + blue
        return F.one_hot(color, self.size).to(rows.dtype)


class ClusterTokenizer(nn.Module):
    """The class of a patch is the nearest of K' centers of raw patches."""

    centers: Tensor

    def __init__(self, patch: int, centers: Tensor) -> None:
        """centers: [K', 3 * patch * patch], of normalised pixels."""
        super().__init__()
        self.patch, self.size = patch, len(centers)
        self.register_buffer("centers", centers)

    @torch.no_grad()
    def targets(self, global_views: Tensor, masks: Masks, temp: float) -> Tensor:
        """One-hot [M, K'] of the hidden patches of global_views [G, B, 3, H, W]."""
        rows = hidden_patches(global_views, masks, self.patch)
        return F.one_hot(nearest(rows, self.centers.to(rows.dtype)), self.size).to(rows.dtype)


class FrozenTokenizer(nn.Module):
    """A trained network with its head, as it is: the standalone tokenizer."""

    center: Tensor

    def __init__(self, network: Network, size: int, center: Tensor | None) -> None:
        """Take K' and the center [K'] of the patch logits, where it is known."""
        super().__init__()
        self.network = network.requires_grad_(False)
        self.size = size
        self.register_buffer("center", torch.zeros(self.size) if center is None else center)

    @torch.no_grad()
    def targets(self, global_views: Tensor, masks: Masks, temp: float) -> Tensor:
        """Sharpened probabilities [M, K'] of the hidden patches of global_views [G, B, 3, H, W]."""
        self.network.eval()
        output, head = self.network.backbone(global_views.flatten(0, 1)), self.network.head
        if head.residual:  # of whole views
            rows = head.patch_rows(output.patches).flatten(0, 1)[masks.index]
        else:
            rows = head.project_patches(output.patches.flatten(0, 1)[masks.index])
        _, patch = head.logits(rows[:0], rows)
        return F.softmax((patch - self.center) / temp, dim=-1)


PatchTokenizer = ColorTokenizer | ClusterTokenizer | FrozenTokenizer


def hidden_patches(global_views: Tensor, masks: Masks, patch: int) -> Tensor:
    """Pixels of the hidden patches of global_views [G, B, 3, H, W]: [M, 3 * patch * patch]."""
    return cut_patches(global_views.flatten(0, 1), patch).flatten(0, 1)[masks.index]


def nearest(rows: Tensor, centers: Tensor, chunk: int = 4096) -> Tensor:
    """Index of the nearest center [K, d] for each row [R, d]: int64 [R]; bounded memory."""
    offset = centers.square().sum(dim=1)
    if not len(rows):
        return torch.zeros(0, dtype=torch.int64, device=rows.device)
    return torch.cat([(offset - 2 * part @ centers.T).argmin(dim=1) for part in rows.split(chunk)])
