"""What a model file tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeclin.errors import BadFile

CONVERTIBLE = (
    "edgeclin converts Keras (.keras, .h5), SavedModel, ONNX, PyTorch (.pt2, TorchScript) and "
    "float TFLite models"
)

Shape = tuple["int | None", ...]
"""Without the batch axis; None is a dynamic axis."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's source format, inputs (name and shape) and output.

    A shape is None where the file does not even tell its axes. `outputs` is the number of values
    of the output's last axis, `activation` what it applies last; each is None where the file does
    not say.
    """

    source: str
    inputs: tuple[tuple[str, Shape | None], ...]
    outputs: int | None
    activation: Literal["none", "softmax", "sigmoid"] | None


def fix_shape(path: Path, facts: ModelFacts, given: tuple[int, ...] | None) -> ModelFacts:
    """The same facts, with an input shape in which no axis is open.

    Args:
        given: `--input-shape`, or None.

    Raises:
        BadFile: it has several inputs, or an axis is open and nobody said its size, or the file
            says another one.
    """
    if len(facts.inputs) != 1:
        names = ", ".join(name for name, _ in facts.inputs) or "none"
        raise BadFile(
            path,
            f"has {len(facts.inputs)} inputs ({names}), this version takes models with one",
            "join them into one array, and take it apart inside the model",
        )
    ((name, found),) = facts.inputs
    if given is None:
        if found is not None and None not in found:
            return facts
        raise BadFile(
            path,
            f"takes {_shown(found)}, a shape that is not fixed",
            "fix it with --input-shape, one number an axis without the batch, such as 224,224,3",
        )
    fits = found is None or (
        len(found) == len(given)
        and all(axis in (None, size) for axis, size in zip(found, given, strict=True))
    )
    if not fits:
        raise BadFile(
            path, f"takes {_shown(found)}, --input-shape says {_shown(given)}", "give one that fits"
        )
    return replace(facts, inputs=((name, given),))


def _shown(shape: Shape | None) -> str:
    if shape is None:
        return "an input whose axes its file does not tell"
    return f"[{', '.join('?' if axis is None else str(axis) for axis in shape)}]"
