"""How unequal the output channels of a layer's weights are."""

from __future__ import annotations

import numpy as np


def spread(weights: np.ndarray, axis: int) -> float:
    """The largest channel, in sizes of the median one (largest absolute value); 0 without weights.

    Channels of zeros do not count: pruning and dead units leave them.

    Args:
        weights: of any shape; an empty array stands for none.
        axis: of the output channels.
    """
    if not weights.size:
        return 0.0
    others = tuple(one for one in range(weights.ndim) if one != axis % weights.ndim)
    sizes = np.abs(weights).max(axis=others)
    sizes = sizes[sizes > 0]
    return float(sizes.max() / np.median(sizes)) if len(sizes) else 0.0
