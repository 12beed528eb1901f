"""Keras models, read without Keras."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Literal

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts, Shape, values_of
from edgeclin.model_files.keras_objects import refuse_own_code

_KEEPS_WIDTH = {
    "Activation",
    "BatchNormalization",
    "Dropout",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "ReLU",
    "Rescaling",
    "Softmax",
}
"""Layers whose last axis is as long as that of what they take."""


def read_keras(path: Path) -> ModelFacts:
    """Facts of a Keras 3 file (`.keras`, a zip)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if not {"config.json", "model.weights.h5"} <= names:
                raise BadFile(path, "a zip file without a Keras 3 model in it", CONVERTIBLE)
            return _facts(path, json.loads(archive.read("config.json")))
    except BadFile:
        raise
    except Exception as exc:  # whatever a damaged zip file or a strange config leads to
        raise BadFile(path, "a damaged or unusual Keras 3 file", CONVERTIBLE) from exc


def read_keras_h5(path: Path) -> ModelFacts:
    """Facts of a Keras model in HDF5 (`.h5`)."""
    try:
        import h5py
    except ImportError as exc:
        raise MissingExtra("h5py, which reads .h5 models,", "convert") from exc
    try:
        with h5py.File(path) as file:
            config = file.attrs.get("model_config")
            if config is None:
                raise BadFile(
                    path,
                    "an HDF5 file with weights only, without the architecture",
                    "build the model, load the weights and save it as .keras",
                )
            return _facts(path, json.loads(config))
    except BadFile:
        raise
    except Exception as exc:
        raise BadFile(path, "a damaged or unusual .h5 file", CONVERTIBLE) from exc


def _facts(path: Path, model: dict[str, Any]) -> ModelFacts:
    refuse_own_code(path, model)
    config = model["config"]
    layers = {layer["config"]["name"]: layer for layer in config["layers"]}
    inputs = tuple(
        (name, tuple(_batch_shape(layers[name]["config"])[1:]))
        for name in _ends(config, "input_layers", first=True)
    )
    last = layers[_ends(config, "output_layers", first=False)[0]]
    outputs, axis = values_of(_answer(last))
    return ModelFacts("keras", inputs, outputs, _activation(last), axis)


def _batch_shape(config: dict[str, Any]) -> list[int | None]:
    """Keras 2 called it otherwise."""
    shape: list[int | None] = config.get("batch_shape") or config["batch_input_shape"]
    return shape


def _ends(config: dict[str, Any], key: str, *, first: bool) -> list[str]:
    """Names of the input or output layers; a Sequential model does not list them."""
    listed = config.get(key)
    if listed is None:
        return [config["layers"][0 if first else -1]["config"]["name"]]
    if isinstance(listed, dict):
        listed = list(listed.values())
    return [listed[0]] if isinstance(listed[0], str) else [entry[0] for entry in listed]


def _answer(layer: dict[str, Any]) -> Shape | None:
    """What a layer gives, without the batch; of axes that the file does not tell only the last."""
    config, kind = layer["config"], layer["class_name"]
    try:
        taken = tuple(layer["inbound_nodes"][0]["args"][0]["config"]["shape"][1:])
    except (KeyError, IndexError, TypeError):
        taken = ()
    units = config.get("units") or config.get("filters")
    if units is None and kind not in _KEEPS_WIDTH:
        return None
    width = taken[-1:] if units is None else (int(units),)
    single, whole = (set(config.get(key) or [1]) == {1} for key in ("strides", "kernel_size"))
    steady = single and (whole or config.get("padding") == "same")
    if kind.startswith("Global") or not steady:
        return width
    return (*taken[:-1], *width)


def _activation(layer: dict[str, Any]) -> Literal["none", "softmax", "sigmoid"] | None:
    if layer["class_name"] == "Softmax":
        return "softmax"
    match layer["config"].get("activation"):
        case "linear":
            return "none"
        case "softmax":
            return "softmax"
        case "sigmoid":
            return "sigmoid"
    return None
