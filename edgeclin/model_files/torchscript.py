"""TorchScript models, read without PyTorch."""

from __future__ import annotations

from pathlib import Path

from edgeclin.model_files.facts import ModelFacts
from edgeclin.model_files.plain_script import plain_script


def read_torchscript(path: Path) -> ModelFacts:
    """A TorchScript file tells neither the shape it takes nor what it answers.

    Raises:
        BadFile: damaged, or its code does more than compute.
    """
    plain_script(path)
    return ModelFacts("torchscript", (("input", None),), None, None)
