"""Which format a model file has."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.files import reading, require_file
from edgeclin.model_files.archive import pickled, read_archive
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts
from edgeclin.model_files.keras import read_keras_h5
from edgeclin.model_files.onnx import read_onnx
from edgeclin.model_files.saved_model import GRAPH, read_saved_model
from edgeclin.model_files.tflite import read_tflite

_LFS = b"version https://git-lfs.github.com"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_TFLITE = b"TFL3"
_PICKLE = b"\x80"
_PROTOBUF = b"\x08"
"""How ONNX files begin: with the number of their version."""
_PYTORCH = {".pt", ".pth"}
_SUFFIXES = {
    "keras": ("a Keras 3 model", (".keras",)),
    "h5": ("a Keras model in HDF5", (".h5", ".hdf5")),
    "tflite": ("a TFLite model", (".tflite",)),
    "onnx": ("an ONNX model", (".onnx",)),
    "torch_export": ("an exported program of PyTorch", (".pt2",)),
    "torchscript": ("a TorchScript model", (".pt", ".pth")),
}
_STRICT = {"keras", "h5", "onnx"}
"""What tools know by its suffix; other files may have any that says nothing else."""


def read_model(path: Path) -> ModelFacts:
    """Say what a model is: a file, or the folder of a SavedModel.

    Raises:
        BadFile: nothing there, not a model, or of a format that cannot be converted; says what
            was found instead.
        MissingExtra: what reads this format is not installed.
    """
    with reading(path):
        if path.is_dir():
            if not (path / GRAPH).is_file():
                raise BadFile(path, f"a folder without {GRAPH} in it", CONVERTIBLE)
            return read_saved_model(path)
    require_file(path)
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(_LFS):
        raise BadFile(path, "a Git LFS pointer, not the model", "fetch it with `git lfs pull`")
    facts = _read(path, head)
    _refuse_another_suffix(path, "h5" if head.startswith(_HDF5) else facts.source)
    return facts


def _read(path: Path, head: bytes) -> ModelFacts:
    if head[4:8] == _TFLITE:
        return read_tflite(path)
    if head.startswith(_HDF5):
        return read_keras_h5(path)
    if head.startswith(_ZIP):
        return read_archive(path)
    if head.startswith(_PICKLE) and path.suffix in _PYTORCH:
        raise pickled(path)
    if path.suffix == ".onnx":
        return read_onnx(path)
    if head.startswith(_PROTOBUF):
        with contextlib.suppress(BadFile, MissingExtra):
            return read_onnx(path)
    raise BadFile(path, "not a model file that edgeclin knows", CONVERTIBLE)


def _refuse_another_suffix(path: Path, kind: str) -> None:
    what, own = _SUFFIXES[kind]
    known = {suffix for _, suffixes in _SUFFIXES.values() for suffix in suffixes}
    if path.suffix not in own and (kind in _STRICT or path.suffix in known):
        raise BadFile(
            path,
            f"holds {what}, which its suffix {path.suffix or '(none)'} does not say",
            f"call it {path.stem}{own[0]}",
        )
