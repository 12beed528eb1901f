"""What the self-test on a device must let pass: measured, where this machine has other kernels."""

from __future__ import annotations

import numpy as np

from edgeclin.convert.stages import Stage
from edgeclin.golden import difference
from edgeclin.manifest import Difference

SAMPLES = 64
"""The built-in kernels were up to five times slower than XNNPACK's on three models."""
_MARGIN = 2.0
"""A third processor's kernels may differ more than two of this one's."""
_INT8 = Difference(worst=8 / 255, mean=1 / 255)
"""Of the spread of the outputs, at least: what kernels of which nothing is measured may differ."""
_FLOAT = Difference(worst=1e-3, mean=1e-4)


def between_kernels(engine: Stage, judged: np.ndarray) -> Difference | None:
    """How far LiteRT's own kernels are from XNNPACK's on validation samples, float32 [n, …]; None
    where this machine has one kind of kernels."""
    if engine.form != "tflite":
        return None
    from edgeclin.backends.tflite import TFLiteBackend

    assert engine.outputs is not None
    builtin = TFLiteBackend(engine.path.read_bytes(), xnnpack=False)
    try:
        rows = [builtin.run(np.ascontiguousarray(sample)).ravel() for sample in judged[:SAMPLES]]
    finally:
        builtin.close()
    return difference(np.stack(rows), engine.outputs[:SAMPLES])


def tolerance(outputs: np.ndarray, quantised: bool, kernels: Difference | None) -> Difference:
    """The difference that is allowed, in the unit of the output.

    Args:
        outputs: the engine's, float32 [n, outputs].
        kernels: see `between_kernels`.
    """
    spread = float(np.ptp(outputs)) or 1.0
    least = _INT8 if quantised else _FLOAT
    seen = kernels or Difference(0.0, 0.0)
    return Difference(
        worst=max(least.worst * spread, _MARGIN * seen.worst),
        mean=max(least.mean * spread, _MARGIN * seen.mean),
    )
