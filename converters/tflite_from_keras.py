"""Keras 3 models to TFLite, float and full-integer INT8, by TensorFlow's own converter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.convert.request import Outcome, Request
from edgeclin.errors import ConversionFailed, MissingExtra

try:
    import keras
    import tensorflow as tf
except ImportError as exc:
    raise MissingExtra("TensorFlow, which converts Keras models,", "convert") from exc

_BATCH = 64


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make a float and, unless the profile is float, an INT8 engine with batch size 1.

    Raises:
        ConversionFailed: the model cannot be loaded, or has dynamic shapes or several inputs.
        OSError: the folder cannot be written.
    """
    folder = Path(request.folder)
    report("loading the Keras model")
    model = _load(Path(request.model))
    validation = np.load(request.validation, mmap_mode="r")
    report("asking the Keras model itself")
    np.save(folder / "source.npy", model.predict(validation, batch_size=_BATCH, verbose=0))
    report("making the float engine")
    exported = folder / "saved_model"
    _export(model, exported)
    _write(folder / "float.tflite", tf.lite.TFLiteConverter.from_saved_model(str(exported)))
    tools = {name: version(name) for name in ("keras", "numpy")} | {"tensorflow": tf.__version__}
    if request.profile.numeric.precision == "float32":
        return Outcome(
            float_engine="float.tflite",
            engine="float.tflite",
            precision="float32",
            source_outputs="source.npy",
            method="none",
            tools=tools,
        )
    calibration = _Calibration(np.load(request.calibration, mmap_mode="r"))
    report(f"calibrating and quantising with {len(calibration.samples)} samples")
    _write(folder / "int8.tflite", _int8_converter(exported, request, calibration))
    return Outcome(
        float_engine="float.tflite",
        engine="int8.tflite",
        precision="int8",
        source_outputs="source.npy",
        method="min/max (TFLiteConverter)",
        tools=tools,
        calibrated=calibration.consumed,
        calibrated_sha256=calibration.digest.hexdigest(),
    )


class _Calibration:
    """Samples for the quantiser, counted and hashed as it consumes them."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples
        self.consumed = 0
        self.digest = hashlib.sha256()

    def __call__(self) -> Iterator[list[np.ndarray]]:
        for index in range(len(self.samples)):
            sample = np.ascontiguousarray(self.samples[index])
            if index >= self.consumed:
                self.consumed += 1
                self.digest.update(sample.tobytes())
            yield [sample[np.newaxis]]


def _load(path: Path) -> Any:
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as exc:
        first = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise ConversionFailed(f"Keras cannot load {path.name}: {first}") from exc
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ConversionFailed(
            f"{path.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of "
            "each is supported"
        )
    if None in model.inputs[0].shape[1:]:
        raise ConversionFailed(
            f"{path.name} has the dynamic input shape {model.inputs[0].shape}; save it with a "
            "fixed one"
        )
    return model


def _export(model: Any, folder: Path) -> None:
    """Write a SavedModel with batch size 1.

    Raises:
        OSError: it cannot be written.
    """
    # `model.export` keeps the weights; `tf.saved_model.save` drops those of Keras 3 silently.
    signature = [keras.InputSpec(shape=(1, *model.inputs[0].shape[1:]), dtype="float32")]
    try:
        model.export(str(folder), input_signature=signature, verbose=False)
    except (tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError) as exc:
        # TensorFlow's file system has errors of its own: "PATH; REASON [Op:NAME]".
        raise OSError(exc.message.rpartition("; ")[2].partition(" [Op:")[0]) from exc


def _int8_converter(exported: Path, request: Request, calibration: _Calibration) -> Any:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(exported))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    io = tf.dtypes.as_dtype(request.profile.numeric.io)
    converter.inference_input_type = io
    converter.inference_output_type = io
    return converter


def _write(path: Path, converter: Any) -> None:
    try:
        path.write_bytes(converter.convert())
    except (ValueError, RuntimeError) as exc:
        last = str(exc).strip().splitlines()[-1]
        raise ConversionFailed(f"TFLiteConverter refuses to make {path.name}: {last}") from exc
