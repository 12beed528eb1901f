"""What a model file tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from edgeclin.errors import BadFile

CONVERTIBLE = (
    "edgeclin converts Keras (.keras, .h5), SavedModel, ONNX, PyTorch (.pt2, TorchScript) and "
    "float TFLite models"
)

Shape = tuple["int | None", ...]
"""Without the batch axis; None is a dynamic axis."""
Axis: TypeAlias = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's source format, inputs (name and shape) and output.

    A shape is None where the file does not even tell its axes. `outputs` is the number of values
    of the output, of a map at each of its places, `activation` what it applies last; each is None
    where the file does not say. `map` is where a map's values stand for each place, as far as one
    can tell; empty for one answer a sample.
    """

    source: str
    inputs: tuple[tuple[str, Shape | None], ...]
    outputs: int | None
    activation: Literal["none", "softmax", "sigmoid"] | None
    map: Axis | None = None


def values_of(answer: Shape | None) -> tuple[int | None, Axis | None]:
    """How many values an output has (of a map at each place), and where they stand if it is a map:
    more than one of its axes has a length.

    Args:
        answer: its shape, or None where the file does not tell.
    """
    if not answer:
        return None, None
    known = [size for size in answer if size is not None and size > 1]
    if len(known) < 2:
        return known[0] if known and None not in answer else answer[-1], None
    first, last = answer[0], answer[-1]
    if len(answer) > 2 and first is not None and (last is None or first < last):
        return first, "first"
    return last, "last"


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
