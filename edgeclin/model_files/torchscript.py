"""TorchScript models, read without PyTorch."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from edgeclin.errors import BadFile
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts

_OUTSIDE = re.compile(r"\b(?:torch|aten)\.(save|from_file)\(|\bops\.(?!aten|prims?|quantized)(\w+)")
"""Operators that reach files, and those of libraries that PyTorch does not come with."""


def read_torchscript(path: Path) -> ModelFacts:
    """A TorchScript file tells neither the shape it takes nor what it answers.

    Raises:
        BadFile: damaged, or its code uses operators that do more than compute.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            code = {
                name: archive.read(name).decode()
                for name in archive.namelist()
                if name.endswith(".py")
            }
    except Exception as exc:  # whatever a damaged zip file leads to
        raise BadFile(path, "a damaged TorchScript file", CONVERTIBLE) from exc
    for text in code.values():
        found = _OUTSIDE.search(text)
        if found:
            raise BadFile(
                path,
                f"its code uses {found[1] or found[2]}, which does more than compute",
                "export a model without it",
            )
    return ModelFacts("torchscript", (("input", None),), None, None)
