"""Guards against samples unlike those that a bundle was calibrated and validated on."""

from edgeclin.guards.fitting import fit_inputs, fit_scores
from edgeclin.guards.guard import Guard

__all__ = ["Guard", "fit_inputs", "fit_scores"]
