"""Copies of models with all their files: what is converted is what was hashed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from edgeclin.model_files import companions


def copy_model(model: Path, folder: Path) -> Path:
    """Copy a model and the files that belong to it into a folder, under their own names.

    Raises:
        BadFile: a file that belongs to it is not there.
        OSError: it cannot be read, or the folder cannot be written.
    """
    copy = folder / model.name
    if model.is_dir():
        shutil.copytree(model, copy)
        return copy
    for file in (model, *companions(model)):
        shutil.copy(file, folder)
    return copy


def model_sha256(model: Path) -> str:
    """Of a file's bytes, or of several files with their names."""
    if model.is_dir():
        root, files = model, sorted(file for file in model.rglob("*") if file.is_file())
    else:
        root, files = model.parent, [model, *companions(model)]
        if len(files) == 1:
            return _sha256(model.read_bytes())
    listing = [
        f"{file.relative_to(root).as_posix()} {_sha256(file.read_bytes())}" for file in files
    ]
    return _sha256("\n".join(listing).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
