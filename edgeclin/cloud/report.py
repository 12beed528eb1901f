"""One HTML page about everything in a store; it loads nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin import wire
from edgeclin.cloud.analysis import Analysis
from edgeclin.files import require_place_for_page, write_atomic, writing
from edgeclin.health import wilson
from edgeclin.pages import render
from edgeclin.pages.drawing import BLUE, GREEN, GREY, RED, YELLOW, figure, matrix, svg
from edgeclin.records import State
from edgeclin.version import VERSION

_COLOURS = {
    State.FINAL: BLUE,
    State.CONFIRMED: GREEN,
    State.AMENDED: RED,
    State.UNREVIEWED: YELLOW,
    State.PROVISIONAL: GREY,
}
_BINS = 60


def write_report(
    analysis: Analysis,
    statuses: Sequence[tuple[str, str, str, float, wire.Status]],
    path: Path,
) -> None:
    """Draw the report and put it at `path` in one step.

    Raises:
        BadFile: `path` cannot be written, or something else than a page stands there.
    """
    outcomes = analysis.outcome_rows()
    runs = {
        (site, device): status.run
        for site, device, topic, _, status in statuses
        if topic == "st/health"
    }
    plots = [] if not outcomes else _plots(analysis, outcomes)
    page = render(
        "edgeclin.cloud",
        "report.html",
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=VERSION,
        summary=analysis.summary(),
        plots=plots,
        labels=analysis.labels(),
        opinions=analysis.opinions(),
        shadows=[(row, wilson(row["agreed"], row["compared"])) for row in analysis.agreement()],
        bundles=sorted({(row["bundle"], row["engine"]) for row in outcomes}),
        devices=[
            (site, device, status, runs.get((site, device)), _moment(received))
            for site, device, topic, received, status in statuses
            if topic == "st/state"
        ],
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        require_place_for_page(path)
        write_atomic(path, page.encode())


def _plots(analysis: Analysis, outcomes: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Title, caption and SVG of each plot."""
    times = analysis.times()
    return [
        (
            "Volume over time",
            "Results a second made at the bedside and stored in the cloud (linear up to 100). "
            "During an outage the first goes on and the second stops.",
            _volume(times),
        ),
        (
            "Results waiting",
            "Made and not yet stored, from the two times of each result: what the device's queue "
            "held. Where device and cloud have different clocks it is off by their difference.",
            _depth(times),
        ),
        (
            "Confidence",
            "Calibrated confidence of the edge's answers, by what became of them (linear to 10).",
            _confidence(outcomes),
        ),
        (
            "Latency at the edge",
            "Share of results answered within the time: preprocessing, engine and decision.",
            _latency(outcomes),
        ),
        (
            "Edge against cloud",
            "Second opinions: rows what the edge said, columns what the cloud's model said.",
            _agreement(analysis.opinions()),
        ),
    ]


def _volume(times: dict[str, list[float]]) -> str:
    drawn, axes = figure()
    start = min(times["made_at"][0], times["received_at"][0])
    made = np.array(times["made_at"]) - start
    stored = np.array(times["received_at"]) - start
    end = max(made[-1], stored[-1], 1.0)
    edges = np.linspace(0, end, _BINS + 1)
    width = edges[1]
    for values, label, colour in ((made, "made", BLUE), (stored, "stored", RED)):
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts / width, edges, label=label, color=colour, linewidth=1.6)
    axes.set_xlabel(f"seconds since {_moment(start)}")
    axes.set_yscale("symlog", linthresh=100)
    axes.set_ylabel("results a second")
    axes.legend(frameon=False)
    return svg(drawn)


def _depth(times: dict[str, list[float]]) -> str:
    drawn, axes = figure()
    start = min(times["made_at"][0], times["received_at"][0])
    moments = np.concatenate([times["made_at"], times["received_at"]]) - start
    steps = np.concatenate([np.ones(len(times["made_at"])), -np.ones(len(times["received_at"]))])
    order = np.argsort(moments, kind="stable")
    depth = np.cumsum(steps[order])
    axes.fill_between(moments[order], np.maximum(depth, 0), step="post", color=YELLOW, alpha=0.7)
    axes.set_xlabel(f"seconds since {_moment(start)}")
    axes.set_ylabel("results waiting")
    return svg(drawn)


def _confidence(outcomes: list[dict[str, Any]]) -> str:
    drawn, axes = figure()
    shown = [state for state in State if any(row["final_state"] == state.value for row in outcomes)]
    values = [
        [row["confidence"] for row in outcomes if row["final_state"] == state.value]
        for state in shown
    ]
    axes.hist(
        values,
        bins=np.linspace(0, 1, 41),
        histtype="step",
        linewidth=1.6,
        label=[f"{state.value} ({len(group)})" for state, group in zip(shown, values, strict=True)],
        color=[_COLOURS[state] for state in shown],
    )
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlabel("confidence")
    axes.set_ylabel("results")
    axes.legend(frameon=False, loc="upper left")
    return svg(drawn)


def _latency(outcomes: list[dict[str, Any]]) -> str:
    drawn, axes = figure()
    for step, colour in (("engine_ms", BLUE), ("preprocess_ms", GREEN)):
        values = np.sort([row[step] for row in outcomes if row[step] is not None])
        if len(values):
            share = np.arange(1, len(values) + 1) / len(values)
            label = f"{step.removesuffix('_ms')} (n = {len(values)})"
            axes.step(values, share, where="post", label=label, color=colour)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("share of results")
    if axes.lines:
        axes.legend(frameon=False)
    return svg(drawn)


def _agreement(opinions: list[dict[str, Any]]) -> str:
    drawn, axes = figure()
    names = sorted({str(row[key]) for row in opinions for key in ("edge", "cloud")})
    counts = np.zeros((len(names), len(names)), dtype=int)
    for row in opinions:
        counts[names.index(str(row["edge"])), names.index(str(row["cloud"]))] = row["count"]
    if not names:
        axes.text(0.5, 0.5, "no opinions", ha="center", transform=axes.transAxes)
        return svg(drawn)
    matrix(axes, counts, names, row="edge", column="cloud")
    return svg(drawn)


def _moment(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    except (OSError, OverflowError, ValueError):
        return f"{seconds:.0f} s after 1970"  # A device's clock may say anything.
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
