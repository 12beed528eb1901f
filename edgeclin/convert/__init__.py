"""The workstation's side: from a trained model to a bundle, through gates."""

from edgeclin.convert.bundling import Converted
from edgeclin.convert.job import Conversion
from edgeclin.convert.pipeline import Examined, convert, examine

__all__ = ["Conversion", "Converted", "Examined", "convert", "examine"]
