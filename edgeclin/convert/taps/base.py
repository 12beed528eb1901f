"""The seam between calibration and whatever executes a float model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np


class Tap(Protocol):
    """A loaded float model with one input and one output and batch size 1.

    Attributes:
        output: the name of the tensor that is its answer.
    """

    output: str

    def run(self, sample: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Execute the model and yield its input and every float tensor that it computes.

        Args:
            sample: float32 of the input's shape, without the batch axis.

        Yields:
            a tensor's name, which is unique in the model, and its values, float32. They are good
            until the next one is asked for.
        """
