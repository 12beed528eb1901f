"""`report.html`: the report of a conversion, drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from edgeclin.convert.diagnosis import Diagnosis
from edgeclin.convert.layers import LOW_DB, Layer
from edgeclin.convert.ranges import Range
from edgeclin.convert.report import Comparison, Report
from edgeclin.gates.gate import shown
from edgeclin.pages import render
from edgeclin.pages.drawing import BLUE, GREY, RED, figure, matrix, svg

Plot: TypeAlias = "tuple[str, str, str]"
"""Title, caption and SVG."""
_WORST_LAYERS = 10
_ROW = 4
"""Examples side by side."""
_SIDE, _MANY = 256, 4000
"""Pictures are thinned out to about so many pixels a side; longer signals are drawn as pixels."""


def draw_report(
    report: Report, diagnosis: Diagnosis | None, examples: Sequence[np.ndarray]
) -> bytes:
    """One self-contained page.

    Args:
        diagnosis: of the layers, where something was quantised.
        examples: the prepared samples of `report.worst`, float32 [...].
    """
    layers = () if diagnosis is None else diagnosis.layers
    page = render(
        "edgeclin.convert",
        "report.html",
        report=report,
        shown=shown,
        missed=sum(not gate.passed for gate in report.gates),
        sentences=[
            *(gate.sentence for gate in report.gates if not gate.passed),
            *(() if diagnosis is None else diagnosis.sentences),
            *report.warnings,
        ],
        worst_layers=sorted(layers, key=lambda layer: layer.harm_db)[:_WORST_LAYERS],
        layer_samples=0 if diagnosis is None else diagnosis.samples,
        plots=list(_plots(report, layers, examples)),
    )
    return page.encode()


def _plots(
    report: Report, layers: Sequence[Layer], examples: Sequence[np.ndarray]
) -> Iterator[Plot]:
    if report.source is not None and report.engine is not None:
        yield (
            "Decisions",
            "Rows: the truth; columns: what was answered, by the source model and by the engine.",
            _confusion(report, report.source, report.engine),
        )
        if report.engine.reliability:
            yield (
                "Reliability",
                "Share of right answers by calibrated confidence, each side with its own fitted "
                "temperature; the size of a point is the number of answers. On the line confidence "
                "is what it says.",
                _reliability(report.source, report.engine),
            )
    if layers:
        yield (
            "Layer errors",
            "Signal-to-quantisation-noise ratio of each layer in the order of execution, higher is "
            "better: what the layer adds alone, on the float model's tensors, and what arrives "
            "there in the whole engine. Below 20 dB the error is a tenth of the signal.",
            _layers(layers),
        )
    if report.ranges:
        yield (
            "Calibration ranges",
            f"Of every tensor in the order of the model: the extremes that calibration saw (grey), "
            f"and the range that {report.method} chose (blue).",
            _ranges(report.ranges),
        )
    if len(examples):
        yield (
            "Where source and engine differ most",
            "Validation samples as the model takes them: those whose decision changed first, then "
            "those whose outputs are furthest apart.",
            _examples(report, examples),
        )


def _confusion(report: Report, source: Comparison, engine: Comparison) -> str:
    drawn, axes = figure(height=3.4, columns=2)
    for place, side, name in zip(axes, (source, engine), ("source", "engine"), strict=True):
        counts = np.zeros((len(report.labels), len(report.labels)), dtype=np.int64)
        for truth, decision, count in side.confusion:
            counts[truth, decision] = count
        matrix(place, counts, report.labels, row="truth", column=name)
    return svg(drawn)


def _reliability(source: Comparison, engine: Comparison) -> str:
    drawn, axes = figure(height=3.8)
    axes.plot([0, 1], [0, 1], color="#d9e2ec", linewidth=1)
    for side, name, colour in ((source, "source", GREY), (engine, "engine", BLUE)):
        counts = np.array([own.count for own in side.reliability])
        axes.scatter(
            [own.confidence for own in side.reliability],
            [own.right for own in side.reliability],
            s=12 + 200 * counts / counts.sum(),
            color=colour,
            alpha=0.7,
            label=f"{name} (n = {counts.sum()})",
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of right answers")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.legend(frameon=False, loc="upper left", markerscale=0.6)
    return svg(drawn)


def _layers(layers: Sequence[Layer]) -> str:
    drawn, axes = figure(height=3.4)
    order = [layer.order for layer in layers]
    arriving = [layer.accumulated.sqnr_db for layer in layers]
    own = [(layer.order, layer.own.sqnr_db) for layer in layers if layer.own is not None]
    axes.plot(order, arriving, color=GREY, linewidth=1.4, label="arriving")
    axes.scatter(*zip(*own, strict=True), s=14, color=BLUE, label="alone")
    kept = [(layer.order, layer.accumulated.sqnr_db) for layer in layers if layer.kept]
    if kept:
        axes.scatter(*zip(*kept, strict=True), marker="s", s=40, color=RED, label="kept in float")
    axes.axhline(LOW_DB, color=RED, linewidth=0.8, linestyle=":")
    axes.set_xlabel("layer")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("SQNR (dB)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return svg(drawn)


def _ranges(ranges: Sequence[Range]) -> str:
    drawn, axes = figure(height=3.4)
    order = np.arange(len(ranges))
    seen = np.array([(one.low, one.high) for one in ranges])
    chosen = np.array([one.chosen for one in ranges])
    axes.vlines(order, seen[:, 0], seen[:, 1], color=GREY, linewidth=3, alpha=0.6, label="seen")
    axes.vlines(order, chosen[:, 0], chosen[:, 1], color=BLUE, linewidth=1.4, label="chosen")
    axes.axhline(0, color="#d9e2ec", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_xlabel("tensor")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("value")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return svg(drawn)


def _examples(report: Report, examples: Sequence[np.ndarray]) -> str:
    rows = -(-len(examples) // _ROW)
    drawn, _ = figure(width=9.0, height=2.3 * rows)
    drawn.clear()
    for index, (example, sample) in enumerate(zip(report.worst, examples, strict=True)):
        axes = drawn.add_subplot(rows, _ROW, index + 1)
        _show(axes, sample)
        changed = example.source != example.engine
        said = f"{example.source} → {example.engine}" if changed else example.engine
        truth = "" if example.truth is None else f"\ntruth: {example.truth}"
        axes.set_title(
            f"#{example.position}: {said}{truth}",
            fontsize=8,
            color=RED if changed else "black",
            parse_math=False,
        )
        axes.tick_params(labelsize=6)
    return svg(drawn)


def _show(axes: Any, sample: np.ndarray) -> None:
    picture = _picture(sample)
    if picture is None:
        signal = np.squeeze(sample) if sample.size > 1 else sample.ravel()
        lines = signal.reshape(len(signal), -1)
        axes.plot(lines, linewidth=0.8, rasterized=sample.size > _MANY)
        return
    axes.imshow(picture, cmap="gray")
    axes.set_xticks([])
    axes.set_yticks([])


def _picture(sample: np.ndarray) -> np.ndarray | None:
    """[height, width] or [height, width, 3] between 0 and 1, or None for what is no picture."""
    if sample.ndim == 3 and sample.shape[0] in (1, 3) and sample.shape[-1] not in (1, 3):
        sample = np.moveaxis(sample, 0, -1)
    if sample.ndim != 3 or sample.shape[-1] not in (1, 3) or min(sample.shape[:2]) < 2:
        return None
    step = max(1, max(sample.shape[:2]) // _SIDE)
    sample = sample[::step, ::step]
    low, high = float(sample.min()), float(sample.max())
    scaled = (sample - low) / ((high - low) or 1.0)
    return scaled[..., 0] if sample.shape[-1] == 1 else scaled
