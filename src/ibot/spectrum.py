"""How many directions a set of vectors uses: one measure for features, batches and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def effective_rank(energy: NDArray[Any] | Tensor) -> float:
    """Exponential of the entropy of a spectrum: n for n equal directions, 1 for none.

    energy: [d], 0 or more and finite, in any unit: eigenvalues of a covariance, or squared singular
    values of centred rows. Tensors lie on the CPU.
    """
    values = np.asarray(energy, np.float64)
    values = values[values > 0]
    if not len(values):
        return 1.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
