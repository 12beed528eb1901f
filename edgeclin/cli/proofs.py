"""How the proof of a conversion is printed: gates, float layers, a comparison of profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgeclin.cli.output import print_json, print_table

if TYPE_CHECKING:
    from edgeclin.convert import Converted
    from edgeclin.convert.diagnosis import Diagnosis
    from edgeclin.gates import Gate


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one profile."""

    profile: str
    metric: str
    gates: Sequence[Any]
    converted: Converted | None
    missed: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        if self.converted is None:
            return {
                "profile": self.profile,
                "bundle": None,
                "gates": self.gates,
                "advice": self.advice,
            }
        return {"profile": self.profile, **_facts(self.converted)}


def print_all(done: Sequence[Done], as_json: bool, signed: bool) -> None:
    if as_json:
        facts = [one.facts() for one in done]
        print_json(facts if len(facts) > 1 else facts[0])
        return
    for one in done:
        if len(done) > 1:
            click.secho(f"{one.profile}", bold=True)
        if one.converted is None:
            print_gates(one.gates)
        else:
            _print(one.converted, signed)
    if len(done) > 1:
        _print_comparison(done)


def _print_comparison(done: Sequence[Done]) -> None:
    """One line a profile: what its last engine lost, and what it weighs."""
    from edgeclin.convert.twins import TITLE as TWIN

    rows = []
    for one in done:
        judged = [gate for gate in one.gates if gate.stage != TWIN]
        last = {gate.name: f"{gate.value:.3g}" for gate in judged}
        made = one.converted
        rows.append(
            (
                one.profile,
                last.get("output error (relative MAE)", ""),
                last.get("decision agreement", ""),
                last.get(f"change of {one.metric}", ""),
                "MISSED" if made is None or made.manifest.gates_missed else "passed",
                "" if made is None else f"{made.engine_bytes:,}",
                "" if made is None else made.manifest.primary.state,
            )
        )
    head = ("profile", "output error", "agreement", "metric", "gates", "bytes", "engine")
    print_table(head, rows)


def print_gates(gates: Sequence[Gate]) -> None:
    """A table of gates."""
    from edgeclin.gates.gate import shown

    rows = [
        (
            gate.stage,
            gate.name,
            shown(gate.value),
            f"[{shown(gate.low)}, {shown(gate.high)}]",
            f"{gate.rule} {gate.limit:g}",
            gate.n if gate.n >= gate.least else f"{gate.n}, needs {gate.least}",
            "passed" if gate.passed else "MISSED",
        )
        for gate in gates
    ]
    print_table(("stage", "gate", "value", "95 % interval", "rule", "n", ""), rows)


def print_float_layers(diagnosis: Diagnosis) -> None:
    """Which layers stay in float, and what each of them costs."""
    mixed = diagnosis.mixed
    if mixed is None or not mixed.kept:
        return
    rows = [
        (
            layer.title,
            f"{layer.harm_db:.1f}",
            "" if layer.price is None else f"{layer.price.latency_ms:+.3f}",
            "" if layer.price is None else f"{layer.price.bytes:+,}",
        )
        for layer in diagnosis.layers
        if layer.kept
    ]
    print_table(("layer kept in float", "SQNR in INT8 (dB)", "ms", "bytes"), rows)
    int8 = "none that can be loaded"
    if mixed.int8_bytes:
        int8 = f"{mixed.int8_latency_ms:.3f} ms and {mixed.int8_bytes:,} bytes"
    click.echo(
        f"mixed engine: {mixed.latency_ms:.3f} ms and {mixed.bytes:,} bytes, all INT8 {int8} "
        f"(medians of {mixed.runs} runs in turn, one thread of this machine)"
    )


def _print(converted: Converted, signed: bool) -> None:
    confidence = converted.manifest.confidence
    print_gates(converted.gates)
    for warning in converted.warnings:
        click.echo(f"warning: {warning}")
    if confidence.fitted and not confidence.coverage:
        click.echo(
            f"confidence: no threshold keeps {confidence.max_error:.2%} of errors on these "
            f"{confidence.samples} held-out samples: every answer is in doubt"
        )
    elif confidence.fitted:
        click.echo(
            f"confidence: temperature {confidence.temperature:.3f}, "
            f"{confidence.said(converted.manifest.output)}: {confidence.coverage:.1%} of "
            f"{confidence.samples} held-out samples are confident, with "
            f"{confidence.error:.2%} errors (95 % bound {confidence.error_bound:.2%}, allowed "
            f"{confidence.max_error:.2%})"
        )
    else:
        click.echo(
            "confidence: no threshold (it takes labels, and a classifier): every answer is in doubt"
        )
    if converted.diagnosis is not None:
        print_float_layers(converted.diagnosis)
    click.echo(
        f"size: float {converted.float_bytes:,} bytes, engine {converted.engine_bytes:,} bytes"
    )
    if converted.manifest.gates_missed:
        click.echo("warning: gates were missed; the bundle says so for good")
    click.echo(f"{converted.path} written{'' if signed else ', NOT SIGNED'}")


def _facts(converted: Converted) -> dict[str, object]:
    return {
        "bundle": str(converted.path),
        "gates": converted.gates,
        "warnings": converted.warnings,
        "confidence": converted.manifest.confidence,
        "engine_bytes": converted.engine_bytes,
        "float_bytes": converted.float_bytes,
        "gates_missed": converted.manifest.gates_missed,
        "float_layers": converted.manifest.primary.float_layers,
    }
