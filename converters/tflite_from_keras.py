"""Keras models to float TFLite, by TensorFlow's own converter."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.convert.request import Outcome, Request, refusal
from edgeclin.errors import ConversionFailed, MissingExtra
from edgeclin.model_files.keras_objects import EXPORT

try:
    import keras
    import tensorflow as tf
except ImportError as exc:
    raise MissingExtra("TensorFlow, which converts Keras models,", "convert") from exc

_BATCH = 64
_UNKNOWN = re.compile(r"(?:Unknown \w+:|Could not locate (?:class|function)) '([^']+)'")
"""How Keras says that it does not know a class: for `.h5` and for `.keras` files."""


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make a float engine with batch size 1 and ask the Keras model itself.

    Raises:
        ConversionFailed: the model cannot be loaded, or has several inputs.
        OSError: the folder cannot be written.
    """
    folder = Path(request.folder)
    report("loading the Keras model")
    model = _load(Path(request.model))
    samples = np.load(request.samples, mmap_mode="r")
    report("asking the Keras model itself")
    np.save(folder / "answers.npy", model.predict(samples, batch_size=_BATCH, verbose=0))
    report("making the float engine")
    exported = folder / "saved_model"
    _export(model, request.input_shape, exported)
    _write(folder / "float.tflite", tf.lite.TFLiteConverter.from_saved_model(str(exported)))
    tools = {name: version(name) for name in ("keras", "numpy")} | {"tensorflow": tf.__version__}
    return Outcome(file="float.tflite", answers="answers.npy", tools=tools)


def _load(path: Path) -> Any:
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as exc:
        raise ConversionFailed(f"Keras cannot load {path.name}: {_reason(exc)}") from exc
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ConversionFailed(
            f"{path.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of "
            "each is supported"
        )
    return model


def _reason(error: Exception) -> str:
    """In edgeclin's words where Keras misses code: its own advice is to load that."""
    unknown = _UNKNOWN.search(str(error))
    if unknown:
        return f"the class {unknown[1]} is not Keras's; {EXPORT}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _export(model: Any, shape: tuple[int, ...], folder: Path) -> None:
    """Write a SavedModel with batch size 1.

    Raises:
        OSError: it cannot be written.
    """
    # `model.export` keeps the weights; `tf.saved_model.save` drops those of Keras 3 silently.
    signature = [keras.InputSpec(shape=(1, *shape), dtype="float32")]
    try:
        model.export(str(folder), input_signature=signature, verbose=False)
    except (tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError) as exc:
        # TensorFlow's file system has errors of its own: "PATH; REASON [Op:NAME]".
        raise OSError(exc.message.rpartition("; ")[2].partition(" [Op:")[0]) from exc


def _write(path: Path, converter: Any) -> None:
    try:
        path.write_bytes(converter.convert())
    except (ValueError, RuntimeError) as exc:
        raise refusal(f"TFLiteConverter refuses to make {path.name}", exc) from exc
