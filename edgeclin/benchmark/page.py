"""`edgeclin benchmark -o`: the figures of a benchmark, drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from edgeclin.benchmark.percentiles import WANTED
from edgeclin.benchmark.report import Report, Scenario
from edgeclin.benchmark.taking import STEPS
from edgeclin.pages import render
from edgeclin.pages.drawing import BLUE, GREEN, GREY, RED, YELLOW, figure, svg

Plot: TypeAlias = "tuple[str, str, str]"
"""Title, caption and SVG."""
Latencies: TypeAlias = "Mapping[tuple[str, str], Sequence[float]]"
"""Milliseconds in the order of the run, by scenario and series."""
_COLOURS = (BLUE, RED, GREEN, YELLOW, GREY, "#6d597a", "#355070", "#bc6c25")
_POINTS = 2000
_OPERATORS = 15


def draw_page(report: Report, latencies: Latencies) -> bytes:
    """One self-contained page."""
    operators = () if isinstance(report.operators, str) else report.operators.operators
    page = render(
        "edgeclin.benchmark",
        "benchmark.html",
        report=report,
        rows=report.latencies(),
        sentences=report.sentences(),
        wanted=[f"p{100 * q:g}" for q in WANTED],
        operators=operators[:_OPERATORS],
        more_operators=max(0, len(operators) - _OPERATORS),
        plots=list(_plots(report, latencies)),
    )
    return page.encode()


def _plots(report: Report, latencies: Latencies) -> Iterator[Plot]:
    drawn = {key: np.array(values) for key, values in latencies.items() if len(values)}
    if drawn:
        yield (
            "Latency distribution",
            "Share of samples that were answered within a time. Marks: percentiles, with their "
            "interval where there were samples enough; none where there were too few.",
            _distributions(report, drawn),
        )
        yield (
            "In the order of the run",
            "Each latency, at most 2,000 of a series: bursts and drifts show here.",
            _order(drawn),
        )
    timed = [scenario for scenario in report.scenarios if scenario.steps]
    if timed:
        yield (
            "Where the time goes",
            "Mean of each step of a sample.",
            _steps(timed),
        )


def _distributions(report: Report, drawn: Mapping[tuple[str, str], np.ndarray]) -> str:
    picture, axes = figure(height=4.2)
    known = {(where, what): latency for where, what, latency in report.latencies()}
    for colour, (key, values) in zip(_COLOURS, drawn.items(), strict=False):
        latency = known[key]
        shares = np.linspace(0, 1, min(len(values), _POINTS))
        answered = len(values) / latency.n
        axes.plot(
            np.quantile(values, shares), shares * answered, color=colour, linewidth=1.4,
            label=f"{key[0]}: {key[1]} (n = {latency.n:,})",
        )  # fmt: skip
        for one in latency.percentiles:
            if one.value_ms is None:
                continue
            axes.plot(one.value_ms, one.q, marker="o", markersize=4, color=colour)
            if one.low_ms is not None and one.high_ms is not None:
                axes.hlines(one.q, one.low_ms, one.high_ms, color=colour, linewidth=4, alpha=0.35)
    for q in WANTED:
        axes.axhline(q, color="#d9e2ec", linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    axes.set_yticks(WANTED, [f"p{100 * q:g}" for q in WANTED], fontsize=7)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("milliseconds (logarithmic)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)
    return svg(picture)


def _order(drawn: Mapping[tuple[str, str], np.ndarray]) -> str:
    picture, axes = figure(height=3.4)
    for colour, (key, values) in zip(_COLOURS, drawn.items(), strict=False):
        picked = np.linspace(0, len(values) - 1, min(len(values), _POINTS)).astype(int)
        axes.scatter(
            picked / max(1, len(values) - 1), values[picked], s=2, color=colour, alpha=0.5,
            label=f"{key[0]}: {key[1]}", rasterized=True,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("part of the run")
    axes.set_ylabel("milliseconds")
    axes.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, markerscale=4
    )
    return svg(picture)


def _steps(timed: Sequence[Scenario]) -> str:
    picture, axes = figure(height=0.9 + 0.6 * len(timed))
    ends = np.zeros(len(timed))
    for colour, step in zip(_COLOURS, STEPS, strict=False):
        means = np.array(
            [
                next((one.mean_ms for one in scenario.steps if one.name == step), 0.0)
                for scenario in timed
            ]
        )
        axes.barh(range(len(timed)), means, left=ends, color=colour, label=step, height=0.5)
        ends += means
    axes.set_yticks(range(len(timed)), [scenario.name for scenario in timed])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize=8)
    return svg(picture)
