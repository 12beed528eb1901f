"""What the self-test on a device must let pass: measured, where this machine has other kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeclin.convert.stages import Stage, answers
from edgeclin.errors import EngineUnavailable
from edgeclin.golden import difference
from edgeclin.manifest import Difference

SAMPLES = 64
"""The built-in kernels were up to five times slower than XNNPACK's on three models."""
_MARGIN = 2.0
"""A third processor's kernels may differ more than two of this one's."""
_INT8 = Difference(worst=8 / 255, mean=1 / 255)
"""Of the spread of the outputs, at least: what kernels of which nothing is measured may differ."""
_FLOAT = Difference(worst=1e-3, mean=1e-4)


@dataclass(frozen=True, slots=True)
class Kernels:
    """What other kernels of this machine make of an engine.

    Attributes:
        difference: how far their answers are from those judged; None where there are no others, or
            they refuse it.
        refused: why they do, if so.
    """

    difference: Difference | None = None
    refused: str = ""

    @property
    def warnings(self) -> Iterator[str]:
        if self.refused:
            yield (
                "LiteRT's built-in kernels refuse the engine, so that a device whose LiteRT lacks "
                f"XNNPACK cannot execute it: {self.refused}"
            )


def between_kernels(engine: Stage, judged: np.ndarray) -> Kernels:
    """Ask LiteRT's built-in kernels beside XNNPACK's about validation samples, float32 [n, …]."""
    if engine.form != "tflite":
        return Kernels()
    from edgeclin.backends.tflite import TFLiteBackend

    assert engine.outputs is not None
    try:
        builtin = TFLiteBackend(engine.path.read_bytes(), xnnpack=False)
    except EngineUnavailable as exc:
        return Kernels(refused=str(exc))
    found = answers(builtin, judged[:SAMPLES])
    return Kernels(difference(found, engine.outputs[:SAMPLES]))


def tolerance(outputs: np.ndarray, quantised: bool, kernels: Difference | None) -> Difference:
    """The difference that is allowed, in the unit of the output.

    Args:
        outputs: the engine's, float32 [n, outputs].
        kernels: how far other kernels are, where that was measured.
    """
    spread = float(np.ptp(outputs)) or 1.0
    least = _INT8 if quantised else _FLOAT
    seen = kernels or Difference(0.0, 0.0)
    return Difference(
        worst=max(least.worst * spread, _MARGIN * seen.worst),
        mean=max(least.mean * spread, _MARGIN * seen.mean),
    )
