"""The CPU twin of an engine that only a GPU executes: chosen by measurement.

TensorRT wants int8 activations; on x86-64 ONNX Runtime executes uint8 ones about twice as fast. So
the ranges that were found are applied a second time, in ONNX Runtime's own style, and the faster of
both files is the twin, provided that it passes what the first had to pass.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence

import msgspec
import numpy as np

from edgeclin.convert.judging import Judge
from edgeclin.convert.latency import measure
from edgeclin.convert.quantising import Quantised
from edgeclin.convert.stages import BACKEND, Stage, Workshop, ask
from edgeclin.gates import Gate
from edgeclin.manifest import Confidence
from edgeclin.records import Record

TITLE = "INT8 CPU twin"
"""The stage that its gates name."""
_WORTH = 0.9
"""A second file is carried only for a tenth of the time: less is within the noise."""
_QUANTISER = "qdq_onnx_from_static_onnx"


class Twin(Record, frozen=True):
    """How the CPU twin was chosen; times are medians of `runs` runs in turn, on one thread.

    They hold for `machine`, where the bundle was made: the device's own CPU may be another.
    `difference` is the largest one between both files' outputs for the validation samples, in the
    unit of the output: each is tested against golden outputs of its own.
    """

    machine: str
    runs: int
    int8_ms: float
    uint8_ms: float
    difference: float
    gates: tuple[Gate, ...]
    kept: bool
    reason: str


def choose_twin(
    workshop: Workshop,
    model: Stage,
    primary: Quantised,
    judged: np.ndarray,
    judge: Judge,
    confidence: Confidence,
) -> tuple[Twin, Stage | None]:
    """Quantise again and compare.

    Returns:
        what was measured, and the twin if it is kept.

    Args:
        model: the float model that `primary` was quantised from.
        judged: prepared validation samples, float32 [n, …].
        judge: has the gates that the primary engine had to pass.
        confidence: fitted on the primary engine, and used for the twin's answers too.
    """
    stage = _quantised_again(workshop, model, primary, judged)
    first, second = primary.stage.outputs, stage.outputs
    assert first is not None
    assert second is not None
    gates = (
        *judge.engine(TITLE, second, quantised=True),
        *judge.promise(TITLE, second, confidence),
    )
    took = measure(
        BACKEND[stage.form],
        {"int8": primary.stage.path.read_bytes(), "uint8": stage.path.read_bytes()},
        np.ascontiguousarray(judged[0]),
    )
    int8, uint8 = took.medians["int8"], took.medians["uint8"]
    reason = _objection(gates, int8, uint8)
    twin = Twin(
        machine=f"{platform.system()} {platform.machine()}, {stage.engine}",
        runs=took.runs,
        int8_ms=round(int8, 4),
        uint8_ms=round(uint8, 4),
        difference=float(np.abs(first - second).max()),
        gates=gates,
        kept=not reason,
        reason=reason or "it passes the same gates and is faster",
    )
    return twin, stage if twin.kept else None


def _quantised_again(
    workshop: Workshop, model: Stage, primary: Quantised, judged: np.ndarray
) -> Stage:
    """The same ranges, in the style that ONNX Runtime executes fastest."""
    numeric = msgspec.structs.replace(
        workshop.profile.numeric, activations="uint8", symmetric_activations=False
    )
    profile = msgspec.structs.replace(workshop.profile, numeric=numeric)
    folder = workshop.folder / "twin"
    folder.mkdir()
    other = Workshop(folder, profile, workshop.progress)
    ranges = primary.calibrated.ranges[primary.method]
    path, _ = other.run(_QUANTISER, model.path, ranges=str(ranges), kept=primary.kept)
    return ask(model.form, path, judged)


def _objection(gates: Sequence[Gate], int8: float, uint8: float) -> str:
    missed = [gate.sentence for gate in gates if not gate.passed]
    if missed:
        return f"a gate is missed: {missed[0]}"
    if uint8 > int8 * _WORTH:
        return f"it is not faster by a tenth: {uint8:.3g} ms against {int8:.3g} ms"
    return ""
