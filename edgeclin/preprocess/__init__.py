"""Preprocessing as data, executed: the one implementation for calibration, verification and run."""

from edgeclin.preprocess.pipeline import Preprocess

__all__ = ["Preprocess"]
