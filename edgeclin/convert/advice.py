"""What to do about an engine that misses its gates: which remedy fits what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from edgeclin.convert.cautions import OUTSIDE, UNSTABLE
from edgeclin.convert.layers import Layer, Layers
from edgeclin.gates import Gate
from edgeclin.gates.samples import STAGE as CALIBRATION_DATA
from edgeclin.gates.source import STAGE as SOURCE_MODEL
from edgeclin.records import Record

SATURATED = 0.01
MIXED = 32.0
"""The narrowest part of such an output has eight of 256 steps left."""
_PROBABILITY_WIDTH = 2.0
"""Probabilities and what tanh gives lie within one unit, however seldom some of them are used."""
SPREAD = 16.0
"""The median channel beside such a wide one has 16 of 256 steps left."""
_NAMED = 3


class Remedy(str, Enum):
    """What can be done, the cheapest first."""

    MODEL = "mend the model or its description"
    SOURCE = "mend the float stage"
    VALIDATION = "more validation data"
    CALIBRATION = "other calibration data"
    SPLIT = "split the output"
    OFFSET = "take out the offset"
    EQUALISE = "equalise channels"
    TRAINING = "quantisation-aware training"


class Advice(Record, frozen=True):
    """One remedy, and the sentence that says why it fits."""

    remedy: Remedy
    sentence: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules go by.

    Attributes:
        instability: see `Statistics.instability`.
        outside: share of validation values beyond calibration's.
        clipping: whether ranges were chosen to leave values out, so that saturation says nothing of
            the data.
    """

    gates: Sequence[Gate]
    layers: Layers
    instability: float
    outside: float
    clipping: bool


def advise(facts: Facts) -> tuple[Advice, ...]:
    """Remedies in the order in which to try them; empty when every gate holds."""
    missed = [gate for gate in facts.gates if not gate.passed]
    if not missed:
        return ()
    if all(gate.n < gate.least for gate in missed):
        least = max(gate.least for gate in missed)
        return (Advice(Remedy.VALIDATION, f"give at least {least} validation samples"),)
    first = missed[0]
    if first.stage == SOURCE_MODEL:
        return (
            Advice(
                Remedy.MODEL,
                "the source model itself misses a gate, and no engine is better than its source: "
                "compare preprocessing, units and the order of labels with those of training",
            ),
        )
    if first.stage.startswith("float "):
        return (
            Advice(
                Remedy.SOURCE,
                f"{first.stage} is the first stage that misses a gate, before anything is "
                "quantised: its converter changes what the model says",
            ),
        )
    found = (
        *_of_validation(missed),
        *_of_calibration(facts),
        *_of_output(facts.layers),
        *_of_channels(facts.layers),
    )
    return found or (
        Advice(
            Remedy.TRAINING,
            "neither data nor single channels explain it: train on with INT8 rounding in the loop "
            "(quantisation-aware training), and convert again",
        ),
    )


def breaking(layers: Layers) -> str:
    """Which layers break an engine, in a sentence."""
    jump = layers.jump
    worst = "; ".join(f"{one.title} ({one.harm_db:.1f} dB)" for one in layers.ranked[:_NAMED])
    alone = f"worst layers, each alone: {worst}"
    if jump is None:
        return f"no single layer makes the error large; {alone}"
    return (
        f"the error gets large at layer {jump.title} (SQNR {jump.accumulated.worst_db:.1f} dB); "
        f"{alone}"
    )


def _of_validation(missed: Sequence[Gate]) -> Iterator[Advice]:
    """Where no value is beyond its limit, but its bound."""
    wanted = [gate.enough for gate in missed if gate.n >= gate.least]
    if wanted and None not in wanted:
        most = max(count for count in wanted if count is not None)
        yield Advice(
            Remedy.VALIDATION,
            "what was measured is within its limit, and only the width of its interval is not: "
            f"about {most:,} validation samples would decide it (estimated: an interval narrows "
            "with the root of the samples)",
        )


def _of_calibration(facts: Facts) -> Iterator[Advice]:
    layers = facts.layers.layers
    saturated = max(layers, key=lambda layer: layer.saturated, default=None)
    reasons = []
    if facts.outside > OUTSIDE:
        reasons.append(
            f"{facts.outside:.1%} of the validation values are beyond calibration's range"
        )
    if facts.instability > UNSTABLE:
        reasons.append(
            f"two halves of the calibration samples disagree by {facts.instability:.0%} about a "
            "range"
        )
    if saturated and saturated.saturated > SATURATED and not facts.clipping:
        reasons.append(
            f"{saturated.saturated:.1%} of the values of layer {saturated.title} are beyond what "
            "its integers represent"
        )
    spoilt = any(gate.stage == CALIBRATION_DATA and not gate.passed for gate in facts.gates)
    what = "calibrate with more data, of the kind that is validated with"
    if spoilt:
        what = "mend the calibration data first: no range that is chosen from them can be trusted"
    if spoilt or reasons:
        yield Advice(Remedy.CALIBRATION, ": ".join(filter(None, (what, "; ".join(reasons)))))


def _of_output(layers: Layers) -> Iterator[Advice]:
    output = layers.layers[-1] if layers.layers else None
    if output and output.mixture >= MIXED and output.high - output.low > _PROBABILITY_WIDTH:
        yield Advice(
            Remedy.SPLIT,
            f"the output {output.title} mixes ranges: it reaches from {output.low:.3g} to "
            f"{output.high:.3g}, {output.mixture:,.0f} times as far as its narrowest part, and one "
            "scale cannot serve both: split it into a model for each, or scale its parts to one "
            "range inside the model",
        )
    offset = max(abs(output.low), abs(output.high)) if output else 0.0
    if output and 0 < output.high - output.low < offset / MIXED:
        yield Advice(
            Remedy.OFFSET,
            f"all values of the output {output.title} lie between {output.low:.6g} and "
            f"{output.high:.6g}, and its integers must represent 0 too: take the constant out of "
            "the last layer's bias",
        )


def _of_channels(layers: Layers) -> Iterator[Advice]:
    """Of layers with weights, but the last: nothing behind it could scale its channels back."""
    inner = (layer for layer in layers.ranked if layer != layers.layers[-1])
    found = [layer for layer in inner if _is_uneven(layer)][:_NAMED]
    if not found:
        return
    named = "; ".join(_of_one(layer) for layer in found)
    yield Advice(
        Remedy.EQUALISE,
        f"equalise channels that differ too much to share a scale (batch normalisation folded into "
        f"weights leaves such; scale them against the next layer's weights): {named}",
    )


def _is_uneven(layer: Layer) -> bool:
    return layer.weight_spread > 0 and (
        layer.channel_spread > SPREAD or (_shares_a_scale(layer) and layer.weight_spread > SPREAD)
    )


def _shares_a_scale(layer: Layer) -> bool:
    return layer.weight_scales == 1


def _of_one(layer: Layer) -> str:
    if _shares_a_scale(layer) and layer.weight_spread > SPREAD:
        return (
            f"layer {layer.title} has one scale for weights of which the largest channel is "
            f"{layer.weight_spread:,.0f} times the median one"
        )
    return (
        f"layer {layer.title} gives a channel {layer.channel_spread:,.0f} times as wide as its "
        "median one"
    )
