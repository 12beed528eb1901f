"""What a model file tells of itself, read without executing it."""

from edgeclin.model_files.facts import ModelFacts
from edgeclin.model_files.reading import read_model

__all__ = ["ModelFacts", "read_model"]
