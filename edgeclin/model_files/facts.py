"""What a model file tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CONVERTIBLE = "edgeclin converts Keras (.keras, .h5), SavedModel, ONNX and float TFLite models"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's source format, inputs (name, shape without batch; None is dynamic) and output.

    `outputs` is the number of values of its last axis, `activation` what it applies last; each
    is None where the file does not say.
    """

    source: str
    inputs: tuple[tuple[str, tuple[int | None, ...]], ...]
    outputs: int | None
    activation: Literal["none", "softmax", "sigmoid"] | None
