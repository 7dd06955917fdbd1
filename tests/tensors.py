"""What a computation makes of tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Notes the numbers of the largest tensor, of some types or any, that an operation returns."""

    def __init__(self, *kinds):
        super().__init__()
        self.kinds, self.numel = kinds, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and (not self.kinds or tensor.dtype in self.kinds):
                self.numel = max(self.numel, tensor.numel())
        return out
