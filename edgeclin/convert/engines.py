"""The engines that a bundle carries: one for the accelerator, and its twin for the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeclin.convert.judging import Judge
from edgeclin.convert.quantising import Quantised
from edgeclin.convert.routes import COMPILED
from edgeclin.convert.stages import BACKEND, Stage, Workshop
from edgeclin.convert.twins import Twin, choose_twin
from edgeclin.gates import Gate
from edgeclin.manifest import Confidence, Engine
from edgeclin.profiles import EngineKind, Profile

if TYPE_CHECKING:
    from edgeclin.convert.edgetpu_mapping import EdgeTPUMapping


@dataclass(frozen=True, slots=True)
class Finished:
    """What an accelerator's engine gets beyond the one that was judged.

    Attributes:
        twin: how a Jetson's CPU twin was chosen.
        stand_in: that twin, if it is a file of its own.
        mapping: of a Coral's operators.
        compiled: its engine, where the Edge TPU compiler is on this machine.
    """

    twin: Twin | None = None
    stand_in: Stage | None = None
    mapping: EdgeTPUMapping | None = None
    compiled: bytes | None = None

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Those of a twin that goes into the bundle."""
        return () if self.twin is None or self.stand_in is None else self.twin.gates

    def deployed(self, profile: Profile) -> str:
        """What the device executes, in a sentence; empty where it is the engine judged here."""
        if profile.engine is EngineKind.TENSORRT:
            return (
                "By `edgeclin build` the device makes its TensorRT engine from the Q/DQ model that "
                "was judged here; nothing was measured of that engine."
            )
        if profile.engine is EngineKind.TFLITE_EDGETPU and self.compiled is None:
            return (
                "The engine is not compiled for the Edge TPU: the device's CPU executes the one "
                "that was judged here."
            )
        if profile.engine is EngineKind.TFLITE_EDGETPU:
            return (
                "The Edge TPU's engine was compiled from the one that was judged here; nothing was "
                "measured of it."
            )
        return ""

    @property
    def warnings(self) -> list[str]:
        return [] if self.mapping is None else self.mapping.warnings


def finish(
    workshop: Workshop,
    model: Stage,
    quantised: Quantised | None,
    judged: np.ndarray,
    judge: Judge,
    confidence: Confidence,
) -> Finished:
    """Do for an accelerator what can be done on this machine.

    Args:
        model: the float model that `quantised` was made from.
        judged: prepared validation samples, float32 [n, …].
        confidence: fitted on the engine that was judged.
    """
    if workshop.profile.engine is EngineKind.TENSORRT and quantised is not None:
        return Finished(*choose_twin(workshop, model, quantised, judged, judge, confidence))
    if workshop.profile.engine is EngineKind.TFLITE_EDGETPU:
        from edgeclin.convert.edgetpu_mapping import map_engine

        engine = model if quantised is None else quantised.stage
        mapping, compiled = map_engine(
            workshop.profile, engine.path, workshop.folder, workshop.progress
        )
        return Finished(mapping=mapping, compiled=compiled)
    return Finished()


@dataclass(frozen=True, slots=True)
class Deployed:
    """Engines as the manifest lists them, and the files that they name."""

    engines: tuple[Engine, ...]
    files: dict[str, bytes]


def deploy(
    profile: Profile,
    made: Stage,
    precision: Literal["int8", "mixed", "float32"],
    float_layers: tuple[str, ...],
    finished: Finished,
) -> Deployed:
    """Name what was made.

    Args:
        made: the engine that was judged; for an accelerator what its engine is made from, and its
            CPU twin unless `finished` has another.
    """
    backend = BACKEND[made.form]
    name, data = f"engine{made.path.suffix}", made.path.read_bytes()
    if profile.engine not in COMPILED:
        engine = Engine(backend, name, precision, float_layers=float_layers)
        return Deployed((engine,), {name: data})
    files, own, other = {name: data}, name, name
    twin, compiled = finished.stand_in, finished.compiled
    if compiled is not None:
        own = f"engine_edgetpu{made.path.suffix}"
        files[own] = compiled
    if twin is not None:
        other = f"twin{twin.path.suffix}"
        files[other] = twin.path.read_bytes()
    state: Literal["ready", "not compiled"] = "not compiled" if compiled is None else "ready"
    return Deployed(
        (
            Engine(profile.engine.value, own, precision, state=state, float_layers=float_layers),
            Engine(backend, other, precision, role="cpu-twin", float_layers=float_layers),
        ),
        files,
    )
