"""The seam between edgeclin and whatever executes an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of an engine, without the batch axis.

    `scale` and `zero_point` are those of an integer tensor: real = (value - zero_point) * scale.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0


class Backend(Protocol):
    """An engine, loaded and ready.

    A constructor takes the engine's bytes and a number of threads, and raises
    EngineUnavailable when this machine cannot execute them. One thread at a time calls `run`.
    """

    @property
    def input(self) -> TensorSpec:
        """The engine's one input."""

    @property
    def output(self) -> TensorSpec:
        """The engine's one output."""

    @property
    def version(self) -> str:
        """What executes it, with its version: goes into every result."""

    def run(self, sample: np.ndarray) -> np.ndarray:
        """Execute the engine on one sample.

        Args:
            sample: of `input.shape`, float32, which an integer engine quantises here, or of
                `input.dtype`, which is what the engine takes.

        Returns:
            float32 of `output.shape`, dequantised; the caller owns it.
        """

    def close(self) -> None:
        """Give the engine's memory back; `run` must not be called again."""
