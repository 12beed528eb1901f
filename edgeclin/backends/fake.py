"""A backend without an engine, for tests and for trying the rest of edgeclin.

Its model is JSON: {"input_shape": [140, 1], "labels": 5, "gain": 1.0}. It cuts the flattened
sample into as many equal parts as there are labels and answers with their means times `gain`.
"""

from __future__ import annotations

import msgspec
import numpy as np

from edgeclin.backends.base import TensorSpec
from edgeclin.errors import EngineUnavailable
from edgeclin.records import Record


class _Model(Record, frozen=True):
    input_shape: tuple[int, ...]
    labels: int
    gain: float = 1.0


class FakeBackend:
    """Answers from the sample's own values: the same sample, the same answer."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        try:
            self._model = msgspec.json.decode(model, type=_Model)
        except msgspec.MsgspecError as exc:
            raise EngineUnavailable(f"not a model of the fake backend: {exc}") from exc
        self.input = TensorSpec("sample", self._model.input_shape, "float32")
        self.output = TensorSpec("logits", (self._model.labels,), "float32")
        self.version = "fake 1"

    def place(self) -> np.ndarray | None:
        return None

    def run(self, sample: np.ndarray | None) -> np.ndarray:
        assert sample is not None
        parts = np.array_split(sample.ravel(), self._model.labels)
        return np.array([part.mean() * self._model.gain for part in parts], dtype=np.float32)

    def close(self) -> None:
        """Nothing is held."""
