"""Models that are zip files: Keras 3, and what PyTorch writes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgeclin.errors import BadFile
from edgeclin.model_files.exported_program import read_exported_program
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts
from edgeclin.model_files.keras import read_keras
from edgeclin.model_files.torchscript import read_torchscript

EXPORT = (
    "export the model where its code is: "
    "`torch.export.save(torch.export.export(model.eval(), (sample,)), 'model.pt2')`"
)


def read_archive(path: Path) -> ModelFacts:
    """Facts of the model in a zip file; nothing in it is unpickled or executed.

    Raises:
        BadFile: no model, a damaged one, or one that only its own code can run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as exc:  # whatever a damaged zip file leads to
        raise BadFile(path, "a damaged or unusual zip file, perhaps cut", CONVERTIBLE) from exc
    below = {name.partition("/")[2] for name in names}
    if "archive_format" in below:
        return read_exported_program(path)
    if "serialized_exported_program.json" in names:
        raise BadFile(path, "an exported program of an old PyTorch", f"with 2.8 or newer {EXPORT}")
    if "constants.pkl" in below and any(name.startswith("code/") for name in below):
        return read_torchscript(path)
    if "data.pkl" in below or any(name.endswith("/data.pkl") for name in names):
        raise pickled(path)
    return read_keras(path)


def pickled(path: Path) -> BadFile:
    """What a PyTorch file with weights or a module is, and what to do instead."""
    return BadFile(
        path, "a pickled PyTorch file (weights, or a module without its code), not a model", EXPORT
    )
