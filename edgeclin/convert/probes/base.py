"""The seam between the comparison of layers and whatever executes an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Place:
    """One layer of an engine, before anything was measured; the names are the float model's.

    Attributes:
        name: the float tensor that it gives.
        ends: least and most that its integers represent, or None where it gives floats.
        step: what one integer step stands for; 0 where it gives floats.
        weight_spread, weight_scales: see `Layer`.
    """

    name: str
    operator: str
    tensors: tuple[str, ...]
    ends: tuple[float, float] | None
    step: float
    weight_spread: float = 0.0
    weight_scales: int = 0


class Probe(Protocol):
    """A quantised engine with one input and batch size 1."""

    @property
    def places(self) -> Sequence[Place]:
        """Its layers in execution order."""

    @property
    def channel_axis(self) -> int:
        """Where channels stand in its tensors."""

    @property
    def executed_by(self) -> str:
        """What computes the layers, with its version; it may differ from what will be deployed."""

    def arriving(self, sample: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Execute the whole engine and yield what each layer gives.

        Args:
            sample: float32 of the input's shape, without the batch axis.

        Yields:
            a layer's name and its values, dequantised, float32.
        """

    def own(self, floats: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Execute every layer apart from the others, each on the float model's own tensors.

        Args:
            floats: every float tensor of the float model for one sample, by name.

        Yields:
            the same as `arriving`, without layers that cannot be taken out.
        """
