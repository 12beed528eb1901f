"""The workstation's side: from a trained model to a bundle, through gates."""

from edgeclin.convert.pipeline import Conversion, Converted, Examined, convert, examine

__all__ = ["Conversion", "Converted", "Examined", "convert", "examine"]
