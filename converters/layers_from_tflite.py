"""What quantising does to each layer of a TFLite model, seen by LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgeclin.convert.comparing import compare
from edgeclin.convert.probes.tflite import TFLiteProbe
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.taps.tflite import TFLiteTap


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Compare `request.engine` with the float model over the samples."""
    model = Path(request.model)
    tap = TFLiteTap(model, threads=2)
    probe = TFLiteProbe(Path(request.engine), model, threads=2)
    return compare(tap, probe, request, report, {"ai-edge-litert": version("ai-edge-litert")})
