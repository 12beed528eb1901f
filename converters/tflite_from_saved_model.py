"""TensorFlow SavedModels to float TFLite, by TensorFlow's own converter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.convert.request import Outcome, Request, refusal
from edgeclin.errors import ConversionFailed, MissingExtra

try:
    import tensorflow as tf
except ImportError as exc:
    raise MissingExtra("TensorFlow, which converts SavedModels,", "convert") from exc

_SIGNATURE = "serving_default"


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make a float engine with batch size 1 of the default signature, and ask it itself.

    Raises:
        ConversionFailed: the model cannot be loaded, or has several inputs or outputs.
        OSError: the folder cannot be written.
    """
    folder = Path(request.folder)
    report("loading the SavedModel")
    loaded, signature, entry = _load(Path(request.model))
    samples = np.load(request.samples, mmap_mode="r")

    def answer(sample: Any) -> Any:
        (output,) = signature(**{entry: sample}).values()
        return output

    report("asking the SavedModel itself")
    asked = [answer(tf.constant(np.array(one)[np.newaxis])).numpy()[0] for one in samples]
    np.save(folder / "answers.npy", np.stack(asked))
    report("making the float engine")
    shape = tf.TensorSpec((1, *request.input_shape), tf.float32, name=entry)
    concrete = tf.function(answer).get_concrete_function(shape)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], loaded)
    try:
        (folder / "float.tflite").write_bytes(converter.convert())
    except (ValueError, RuntimeError) as exc:
        raise refusal("TFLiteConverter refuses the SavedModel", exc) from exc
    return Outcome(file="float.tflite", answers="answers.npy", tools={"tensorflow": tf.__version__})


def _load(path: Path) -> tuple[Any, Any, str]:
    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures[_SIGNATURE]
    except (OSError, ValueError, KeyError, tf.errors.OpError) as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise ConversionFailed(f"TensorFlow cannot load {path.name}: {lines[0]}") from exc
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ConversionFailed(
            f"{path.name} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is "
            "supported"
        )
    ((entry, spec),) = inputs.items()
    if spec.dtype != tf.float32:
        raise ConversionFailed(f"{path.name} takes {spec.dtype.name}; float32 is supported")
    return loaded, signature, entry
