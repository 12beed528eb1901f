"""What a model file tells of itself, read without executing it."""

from edgeclin.model_files.facts import ModelFacts, fix_shape
from edgeclin.model_files.onnx import companions
from edgeclin.model_files.reading import read_model

__all__ = ["ModelFacts", "companions", "fix_shape", "read_model"]
