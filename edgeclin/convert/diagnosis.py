"""What an INT8 engine does to each layer, and what is done when it misses its gates.

First another quantiser, where there is one and nobody chose; then mixed precision. What still
misses a gate gets advice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from edgeclin.convert.advice import Advice, Facts, advise, breaking
from edgeclin.convert.layers import INPUT, Layer, Layers
from edgeclin.convert.loading import gate_of
from edgeclin.convert.mixed import Found, MixedPrecision, Mixer, with_prices
from edgeclin.convert.quantising import Quantised, quantise_by
from edgeclin.convert.ranges import Method
from edgeclin.convert.routes import QUANTISERS, layers_of
from edgeclin.convert.stages import Progress, Stage, Workshop
from edgeclin.errors import ConversionFailed, EdgeclinError, GateMissed
from edgeclin.gates import Gate
from edgeclin.profiles import EngineKind, Profile
from edgeclin.records import Record

SCHEMA = 1
AUTO = "auto"
UNCOMPARED = "the layers could not be compared"
Judge = Callable[[np.ndarray], Sequence[Gate]]
"""Gates of an engine's answers to the validation samples, float32 [n, outputs]."""


class Diagnosis(Record, frozen=True):
    """`layers.json`: what quantising does to each layer, and what came of it.

    Attributes:
        quantiser, method: of the INT8 engine that `layers` are about, kept layers or not.
        samples: how many of the validation samples layers were compared on.
        executed_by: what computed the layers there.
        jump: name of the layer at which the error that arrives gets large, if there is one.
        breaking: which layers are hardest, in a sentence; or why there are none.
        missed: gates that the INT8 engine misses.
        mixed: what mixed precision did about it; None where no gate was missed.
    """

    schema: int
    profile: str
    quantiser: str
    method: str
    samples: int
    executed_by: str
    layers: tuple[Layer, ...]
    jump: str | None
    breaking: str
    missed: tuple[Gate, ...]
    mixed: MixedPrecision | None
    advice: tuple[Advice, ...] = ()

    def advised(self, gates: Sequence[Gate], instability: float, outside: float) -> Diagnosis:
        """The same, with what to do about the gates that are missed still, or by INT8 alone."""
        still = any(not gate.passed for gate in gates)
        layers = Layers(samples=self.samples, executed_by=self.executed_by, layers=self.layers)
        clipping = self.method != Method.MIN_MAX.value
        judged = gates if still else self.missed
        found = advise(Facts(judged, layers, instability, outside, clipping))
        return msgspec.structs.replace(self, advice=found)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What somebody needs to know whose conversion missed a gate."""
        advice = tuple(one.sentence for one in self.advice)
        if not self.missed:
            return advice
        mixed = () if self.mixed is None else (self.mixed.said,)
        return (self.breaking, *mixed, *advice)


@dataclass(frozen=True, slots=True)
class Case:
    """A float model whose engine is judged.

    Attributes:
        source: the source model's answers to the validation samples, float32 [n, outputs].
        judged: prepared validation samples, float32 [n, …], and `validation` their file.
        data_gates: what is judged of the calibration data themselves.
        quantiser: one of the names in `QUANTISERS`, or `AUTO`.
    """

    workshop: Workshop
    model: Stage
    source: np.ndarray
    judged: np.ndarray
    validation: Path
    judge: Judge
    data_gates: Sequence[Gate]
    progress: Progress
    quantiser: str = AUTO
    mixed_precision: bool = True


def check_quantiser(name: str, profile: Profile) -> str:
    """The name of the first quantiser to take for a profile's engine; empty for the default.

    Raises:
        EdgeclinError: it makes no such engines.
    """
    known = QUANTISERS[profile.engine]
    if name not in (AUTO, *known):
        raise EdgeclinError(
            f"{name} makes no {profile.engine.value} engines (profile {profile.name}); choose "
            f"{' or '.join((AUTO, *known))}"
        )
    return "" if name == AUTO else name


def diagnose(case: Case, quantised: Quantised) -> tuple[Quantised, Diagnosis]:
    """Compare the engine layer by layer, and mend it where it misses its gates.

    Returns:
        the engine to go on with, which may still miss gates, and what was found.

    Raises:
        ConversionFailed: a converter crashed or refused.
        GateMissed: no engine can be loaded on this machine.
    """
    quantised = _by_the_best_quantiser(case, quantised)
    layers, problem = _compared_or_not(case, quantised)
    missed = _missed(case, quantised)
    mixed, found = None, None
    if missed:
        found = _mixed(case, quantised, layers, missed)
        mixed = found.facts if isinstance(found, Found) else found
    diagnosis = Diagnosis(
        schema=SCHEMA,
        profile=case.workshop.profile.name,
        quantiser=quantised.quantiser,
        method=quantised.method.value,
        samples=layers.samples,
        executed_by=layers.executed_by,
        layers=layers.layers,
        jump=None if layers.jump is None else layers.jump.name,
        breaking=problem or breaking(layers),
        missed=tuple(missed),
        mixed=mixed,
    )
    if not isinstance(found, Found):
        if quantised.stage.refused:
            raise GateMissed([gate.sentence for gate in missed], missed, diagnosis.sentences)
        return quantised, diagnosis
    priced = with_prices(layers, found.prices, found.facts.kept)
    return found.quantised, msgspec.structs.replace(diagnosis, layers=priced.layers)


def _by_the_best_quantiser(case: Case, quantised: Quantised) -> Quantised:
    """Another quantiser costs time and memory: it is tried only where the first misses a gate, and
    with the ranges that served the first best, or with all where none gave an engine that can be
    loaded."""
    missed = _missed(case, quantised)
    if not missed or case.quantiser != AUTO or _not_of_the_engine(case):
        return quantised
    method, calibrated = quantised.method, quantised.calibrated
    served = calibrated.ranges if quantised.stage.refused else {method: calibrated.ranges[method]}
    chosen = replace(calibrated, ranges=served)
    best = _rank(missed, quantised), quantised, case.workshop.tools
    for name in QUANTISERS[case.workshop.profile.engine]:
        if name == quantised.quantiser:
            continue
        case.progress(f"{quantised.quantiser} misses {_count(missed)}: trying {name}")
        case.workshop.tools = dict(best[2])
        try:
            other = quantise_by(name, case.workshop, case.model, case.source, case.judged, chosen)
        except ConversionFailed as exc:
            case.progress(f"{name} is no help ({exc})")
            continue
        rank = _rank(_missed(case, other), other)
        other = replace(other, calibrated=calibrated)
        best = min(best, (rank, other, case.workshop.tools), key=lambda one: one[0])
    # A bundle names the tools that made its engine, and no others.
    case.workshop.tools = best[2]
    return best[1]


def _rank(missed: Sequence[Gate], quantised: Quantised) -> tuple[bool, int, float]:
    return bool(quantised.stage.refused), len(missed), quantised.errors[quantised.method]


def _compared_or_not(case: Case, quantised: Quantised) -> tuple[Layers, str]:
    """No layers, and why, where they cannot be compared: an engine is no worse for that."""
    try:
        return _compared(case, quantised), ""
    except ConversionFailed as exc:
        return Layers(samples=0, executed_by="", layers=()), f"{UNCOMPARED}: {exc}"


def _compared(case: Case, quantised: Quantised) -> Layers:
    path, _ = case.workshop.run(
        layers_of(case.model.form),
        case.model.path,
        samples=str(case.validation),
        engine=str(quantised.stage.path),
        kept=quantised.kept,
    )
    return msgspec.json.decode(path.read_bytes(), type=Layers)


def _missed(case: Case, quantised: Quantised) -> list[Gate]:
    """Gates that another engine could hold; those that lack samples are none."""
    assert quantised.stage.outputs is not None
    if quantised.stage.refused:
        return [gate_of(quantised.stage, len(case.judged))]
    return _of(case.judge(quantised.stage.outputs))


def _of(gates: Sequence[Gate]) -> list[Gate]:
    return [gate for gate in gates if not gate.passed and gate.n >= gate.least]


def _mixed(
    case: Case, quantised: Quantised, layers: Layers, missed: Sequence[Gate]
) -> Found | MixedPrecision:
    reason = _why_not(case, layers)
    if reason:
        return MixedPrecision(kept=(), trials=0, said=f"mixed precision was not tried: {reason}")
    case.progress(f"INT8 misses {_count(missed)}; {breaking(layers)}")
    mixer = Mixer(
        case.workshop,
        case.model,
        case.source,
        case.judged,
        quantised,
        layers,
        lambda outputs: not _of(case.judge(outputs)),
        case.progress,
    )
    return mixer.search()


def _why_not(case: Case, layers: Layers) -> str:
    if not case.mixed_precision:
        return "it was turned off"
    if not layers.layers:
        return UNCOMPARED
    if reason := _not_of_the_engine(case):
        return reason
    if case.workshop.profile.engine is EngineKind.TFLITE_EDGETPU:
        return _cost_of_a_break(case.workshop.profile, layers)
    return ""


def _not_of_the_engine(case: Case) -> str:
    """Why no other engine could hold the gates, if so."""
    if not all(gate.passed for gate in case.data_gates):
        return "the calibration data missed a gate, so that no range can be trusted"
    if case.model.outputs is not None and _of(case.judge(case.model.outputs)):
        return "the float engine itself misses a gate"
    return ""


def _cost_of_a_break(profile: Profile, layers: Layers) -> str:
    """An Edge TPU runs one partition: it ends before the first operator that is not integer."""
    hardest = next(layer for layer in layers.ranked if layer.operator != INPUT)
    behind = len(layers.layers) - hardest.order
    return (
        f"{profile.name} computes in integers throughout; with the hardest layer, {hardest.title}, "
        f"in float its one partition would end there, and {behind} of {len(layers.layers) - 1} "
        "layers would run on the CPU"
    )


def _count(missed: Sequence[Gate]) -> str:
    return "a gate" if len(missed) == 1 else f"{len(missed)} gates"
