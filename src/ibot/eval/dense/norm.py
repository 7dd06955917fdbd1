"""Batch norm over the images of all processes, on CPUs too.

`torch.nn.SyncBatchNorm` runs on GPUs only. The dense heads see few images per process, so that
statistics of one process alone would be another method (spec_evaluation 8.9.4, 8.11).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.models.head import at_least_float32
from ibot.system.distributed import several_processes, sum_in_place, summed


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of maps [B, C, h, w]; in training with the statistics of all processes.

    Alone it is `nn.BatchNorm2d`. Every process must call it equally often, with any sizes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B, C, h, w] -> the same shape and dtype."""
        if not (self.training and several_processes()):
            return super().forward(input)
        x = at_least_float32(input)
        mean, variance, count = _statistics(x)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.momentum is not None and self.num_batches_tracked is not None
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked += 1
        # The gradient flows through the statistics, as it does in one process.
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C], and number of values of each channel [] of all processes."""
    count = sum_in_place(x.new_tensor(float(x.numel() // x.shape[1])))
    mean = summed(x.sum(dim=(0, 2, 3))) / count
    # In two passes: the square of a mean would drown a small variance.
    variance = summed((x - mean[:, None, None]).square().sum(dim=(0, 2, 3))) / count
    return mean, variance, count


def conv_norm(inputs: int, outputs: int, kernel: int, *, act: bool = True) -> nn.Sequential:
    """A convolution that keeps the size, without bias, batch norm, and ReLU if `act`."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, BatchNorm(outputs), *([nn.ReLU()] if act else []))


class MapNorm(nn.LayerNorm):
    """Layer norm over the channels of maps [B, C, h, w]."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B, C, h, w] -> the same shape."""
        last = input.movedim(1, -1)
        normed = F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)
