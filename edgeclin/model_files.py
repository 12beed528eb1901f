"""What a model file tells of itself, read without the framework that wrote it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeclin.errors import BadFile
from edgeclin.files import require_file

_LFS = b"version https://git-lfs.github.com"
_SIGNATURES = {b"\x89HDF\r\n\x1a\n": "hdf5", b"PK\x03\x04": "zip"}
_TFLITE_MAGIC = b"TFL3"
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
_READABLE = "this version converts Keras 3 models (.keras)"


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


def read_model(path: Path) -> ModelFacts:
    """Say what a model file is.

    Raises:
        BadFile: nothing there, not a model, or of a format that cannot be converted yet; says
            what was found instead.
    """
    require_file(path)
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(_LFS):
        raise BadFile(path, "a Git LFS pointer, not the model", "fetch it with `git lfs pull`")
    if head[4:8] == _TFLITE_MAGIC:
        raise BadFile(path, "a TFLite model", _READABLE)
    kind = next((name for magic, name in _SIGNATURES.items() if head.startswith(magic)), None)
    if kind == "hdf5":
        raise BadFile(path, "an HDF5 file (.h5)", f"{_READABLE}: load it and save it as .keras")
    if kind != "zip":
        raise BadFile(path, "not a model file that edgeclin knows", _READABLE)
    return _read_keras(path)


def _read_keras(path: Path) -> ModelFacts:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if not {"config.json", "model.weights.h5"} <= names:
                raise BadFile(path, "a zip file without a Keras 3 model in it", _READABLE)
            config = json.loads(archive.read("config.json"))["config"]
        layers = {layer["config"]["name"]: layer for layer in config["layers"]}
        inputs = tuple(
            (name, tuple(layers[name]["config"]["batch_shape"][1:]))
            for name in _ends(config, "input_layers", first=True)
        )
        last = layers[_ends(config, "output_layers", first=False)[0]]
        return ModelFacts("keras", inputs, _width(last), _activation(last))
    except BadFile:
        raise
    except Exception as exc:  # whatever a damaged zip file or a strange config leads to
        raise BadFile(path, "a damaged or unusual Keras 3 file", _READABLE) from exc


def _ends(config: dict[str, Any], key: str, *, first: bool) -> list[str]:
    """Names of the input or output layers; a Sequential model does not list them."""
    listed = config.get(key)
    if listed is None:
        return [config["layers"][0 if first else -1]["config"]["name"]]
    if isinstance(listed, dict):
        listed = list(listed.values())
    return [listed[0]] if isinstance(listed[0], str) else [entry[0] for entry in listed]


def _width(layer: dict[str, Any]) -> int | None:
    units = layer["config"].get("units") or layer["config"].get("filters")
    if units is not None:
        return int(units)
    if layer["class_name"] not in _KEEPS_WIDTH:
        return None
    try:
        return int(layer["inbound_nodes"][0]["args"][0]["config"]["shape"][-1])
    except (KeyError, IndexError, TypeError):
        return None


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
