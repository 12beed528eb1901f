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


def quantised(real: np.ndarray, spec: TensorSpec, out: np.ndarray | None = None) -> np.ndarray:
    """Real numbers, float32 of any shape, as values of an integer tensor, those that it cannot hold
    at its ends: half goes to the even one, as in LiteRT's own QUANTIZE.

    Returns:
        whole numbers in float32, in `out` where it is given.
    """
    assert spec.scale is not None
    bounds = np.iinfo(spec.dtype)
    values: np.ndarray = np.divide(real, np.float32(spec.scale), out=out)
    np.rint(values, out=values)
    np.add(values, np.float32(spec.zero_point), out=values)
    np.clip(values, bounds.min, bounds.max, out=values)
    return values


def misshapen(outputs: object, shape: tuple[int, ...]) -> str:
    """What an engine gave instead of outputs of that shape, for a message."""
    found = getattr(outputs, "shape", None)
    given = "no array" if found is None else f"outputs of shape {list(found)}"
    return f"gave {given}, expected {list(shape)}"


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

    def place(self) -> np.ndarray | None:
        """Where the engine reads a sample, contiguous, of `input.shape` and `input.dtype`, for one
        that is made there at once; None where there is no such memory. The caller fills it, lets
        it go, and calls `run`."""

    def run(self, sample: np.ndarray | None) -> np.ndarray:
        """Execute the engine on one sample.

        Args:
            sample: of `input.shape`, float32, which an integer engine quantises here, or of
                `input.dtype`, which is what the engine takes; None for the one in its `place`,
                which is there for one `run`.

        Returns:
            float32 of `output.shape`, dequantised; the caller owns it.
        """

    def close(self) -> None:
        """Give the engine's memory back; `run` must not be called again."""
