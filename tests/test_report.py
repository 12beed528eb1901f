"""The report of a conversion: its figures against independent ones, and that its page is whole."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from conftest import ECG

from edgeclin.convert import report as reporting
from edgeclin.convert.diagnosis import Diagnosis
from edgeclin.convert.judging import Judge
from edgeclin.convert.layers import Error, Layer, Price
from edgeclin.convert.ranges import Range
from edgeclin.convert.report import Form, Report
from edgeclin.description import load_description
from edgeclin.gates import Margins

LABELS = ("normal", "R-on-T PVC", "PVC", "supraventricular", "unclassified")
COUNT = 200


@pytest.fixture
def judge() -> Judge:
    random = np.random.default_rng(4)
    truth = random.integers(0, 5, (COUNT, 1))
    source = random.normal(0, 1, (COUNT, 5)) + 2 * np.eye(5)[truth[:, 0]]
    description = load_description(ECG / "edge.toml")
    return Judge(description, Margins(), source, truth, None)


@pytest.fixture
def engine(judge: Judge) -> np.ndarray:
    """As the source, but for samples 3 and 70, of which 70 decides otherwise."""
    outputs = judge.source.copy()
    outputs[3] += 0.5
    outputs[70, judge.source[70].argmin()] += 9
    return outputs


def made(judge: Judge, engine: np.ndarray, **changes: Any) -> Report:
    compared = reporting.compare(judge, engine)
    source, other = compared if compared is not None else (None, None)
    report = Report(
        schema=reporting.SCHEMA,
        name="ecg",
        version="1",
        intended_use="a test",
        refused=False,
        deployed="",
        profile="cpu-x86_64",
        made_at="2026-01-01T00:00:00+00:00",
        machine="Linux x86_64",
        validation="validation.npz",
        samples=COUNT,
        labels=LABELS,
        runs=50,
        forms=(
            Form(name="TFLite", bytes=4000, latency_ms=2.0),
            Form(name="INT8 engine", bytes=1000, latency_ms=1.0),
        ),
        twin=None,
        size_ratio=0.25,
        latency_ratio=0.5,
        gates=tuple(judge.engine("INT8 engine", engine, quantised=True)),
        warnings=("350 calibration samples",),
        figures=reporting.figures(judge, engine),
        groups=reporting.by_group(judge, engine),
        source=source,
        engine=other,
        confidence=judge.confidence(engine),
        method="mse",
        method_errors={"mse": 0.01, "min-max": 0.02},
        ranges=(Range(tensor="a", low=-3.0, high=5.0, chosen=(-2.0, 4.0)),),
        worst=reporting.worst_examples(judge, engine),
    )
    return msgspec.structs.replace(report, **changes)


def page(report: Report, samples: list[np.ndarray], diagnosis: Diagnosis | None = None) -> str:
    pytest.importorskip("matplotlib")
    from edgeclin.convert.report_page import draw_report

    return draw_report(report, diagnosis, samples).decode()


def test_confusion_counts_every_pair_of_truth_and_decision(
    judge: Judge, engine: np.ndarray
) -> None:
    compared = reporting.compare(judge, engine)
    assert compared is not None
    assert judge.truth is not None
    pairs = Counter(zip(judge.truth[:, 0].tolist(), engine.argmax(axis=1).tolist(), strict=True))
    counted = {(truth, decision): count for truth, decision, count in compared[1].confusion}
    assert counted == pairs
    before = Counter({(truth, decision): n for truth, decision, n in compared[0].confusion})
    assert (before - pairs).total() == (pairs - before).total() == 1, "one decision changed"


def test_reliability_holds_every_answer_once_with_its_mean_confidence(
    judge: Judge, engine: np.ndarray
) -> None:
    compared = reporting.compare(judge, engine)
    assert compared is not None
    bins = compared[1].reliability
    assert sum(own.count for own in bins) == COUNT
    right = sum(own.count * own.right for own in bins) / COUNT
    assert judge.truth is not None
    assert right == pytest.approx((engine.argmax(axis=1) == judge.truth[:, 0]).mean())
    assert [own.confidence for own in bins] == sorted(own.confidence for own in bins)


def test_the_worst_examples_are_first_those_whose_decision_changed(
    judge: Judge, engine: np.ndarray
) -> None:
    worst = reporting.worst_examples(judge, engine)
    assert [one.position for one in worst[:2]] == [70, 3]
    assert worst[0].source != worst[0].engine
    assert worst[1].error == pytest.approx(0.5)
    assert worst[0].truth in LABELS


def test_every_figure_that_the_labels_allow_is_told_of_both_sides(
    judge: Judge, engine: np.ndarray
) -> None:
    found = {one.name: one for one in reporting.figures(judge, engine)}
    assert set(found) == {"accuracy", "AUC", "sensitivity at 90% specificity"}
    accuracy = found["accuracy"]
    assert judge.truth is not None
    assert accuracy.source == (judge.source.argmax(axis=1) == judge.truth[:, 0]).mean()
    assert accuracy.engine_interval[0] <= accuracy.engine <= accuracy.engine_interval[1]


def test_without_labels_there_is_nothing_to_compare_with(judge: Judge, engine: np.ndarray) -> None:
    unlabelled = Judge(judge.description, judge.margins, judge.source, None, None)
    assert reporting.compare(unlabelled, engine) is None
    assert reporting.figures(unlabelled, engine) == ()
    assert {one.truth for one in reporting.worst_examples(unlabelled, engine)} == {None}


@pytest.mark.parametrize(
    "shape", [(140, 1), (1, 140, 1), (8, 8, 3), (3, 8, 8), (8, 8, 1), (12,), (1,)]
)
def test_the_page_draws_all_and_loads_nothing(
    judge: Judge, engine: np.ndarray, shape: tuple[int, ...]
) -> None:
    report = made(judge, engine)
    samples = [np.random.default_rng(1).normal(size=shape) for _ in report.worst]
    text = page(report, samples)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert {"Decisions", "Reliability", "Calibration ranges"} <= set(titles)
    assert "Where source and engine differ most" in titles
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)", text)
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
    if 140 in shape:
        assert text.count("line2d_") < 200, "one line a signal, not one a value"
    assert "25 %" in text, "the engine's size beside the float form's"
    assert "0.50</b>times the float form" in text


def test_a_missed_gate_stands_out_and_says_why(judge: Judge, engine: np.ndarray) -> None:
    report = made(judge, engine[:, ::-1])
    missed = [gate for gate in report.gates if not gate.passed]
    text = page(report, [np.zeros((140, 1)) for _ in report.worst])
    assert text.count(">MISSED<") == len(missed) > 0
    assert 'class="alarm"' in text


def test_a_label_is_text_whatever_stands_in_it(judge: Judge, engine: np.ndarray) -> None:
    report = made(judge, engine, labels=("<b>", "$x^", "]]>", "-->", "&amp;"))
    text = page(report, [np.zeros((140, 1)) for _ in report.worst])
    assert "<b>&lt;" not in text
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_the_figures_survive_a_round_trip(judge: Judge, engine: np.ndarray) -> None:
    report = made(judge, engine)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_a_thousand_labels_are_drawn_without_their_numbers() -> None:
    pytest.importorskip("matplotlib")
    from edgeclin.pages.drawing import figure, matrix, svg

    drawn, axes = figure()
    matrix(axes, np.eye(1000, dtype=int), [str(label) for label in range(1000)], "row", "column")
    assert len(svg(drawn)) < 500_000


def layer(order: int, own: float, arriving: float, kept: bool = False) -> Layer:
    def error(level: float) -> Error:
        return Error(sqnr_db=level, channel_db=level, mse=0.1, cosine=0.9)

    return Layer(
        order=order,
        name=f"layer_{order}",
        operator="CONV_2D",
        tensors=(f"layer_{order}",),
        accumulated=error(arriving),
        own=error(own),
        saturated=0.01,
        low=-1.0,
        high=1.0,
        least=-1.0,
        most=1.0,
        channel_spread=1.0,
        mixture=1.0,
        kept=kept,
        price=Price(latency_ms=0.5, bytes=1200) if kept else None,
    )


def test_layers_are_drawn_and_the_hardest_told_with_the_price_of_those_kept(
    judge: Judge, engine: np.ndarray
) -> None:
    diagnosis = Diagnosis(
        schema=1,
        profile="cpu-x86_64",
        quantiser="ai-edge-quantizer",
        method="mse",
        samples=32,
        executed_by="LiteRT",
        layers=tuple(layer(order, 40 - order, 30 - order, order == 11) for order in range(12)),
        jump=None,
        breaking="layer 11 breaks it",
        missed=(),
        mixed=None,
    )
    report = made(judge, engine)
    text = page(report, [np.zeros((140, 1)) for _ in report.worst], diagnosis)
    assert "Layer errors" in text
    rows = re.findall(r"<td>(\d+ CONV_2D layer_\d+)</td>", text)
    assert rows[0] == "11 CONV_2D layer_11", "the worst first"
    assert len(rows) == 10
    assert "kept in float: +0.500 ms, +1,200 bytes" in text


def test_each_patient_is_shown_the_worst_first(judge: Judge, engine: np.ndarray) -> None:
    groups = tuple(f"p{index // 50}" for index in range(COUNT))
    members = reporting.by_group(replace(judge, groups=groups), engine)
    assert judge.truth is not None
    right = engine.argmax(axis=1) == judge.truth[:, 0]
    known = {f"p{index}": right[50 * index : 50 * index + 50].mean() for index in range(4)}
    assert {one.group: one.engine for one in members} == pytest.approx(known)
    assert [one.engine for one in members] == sorted(known.values())
    assert {one.samples for one in members} == {50}
    assert reporting.by_group(judge, engine) == ()
    text = page(made(judge, engine, groups=members), [np.zeros((140, 1))] * reporting.WORST)
    assert "<h2>Groups</h2>" in text


def test_a_refusal_and_what_the_device_will_execute_stand_at_the_top(
    judge: Judge, engine: np.ndarray
) -> None:
    samples = [np.zeros((140, 1))] * reporting.WORST
    deployed = "The engine is not compiled for the Edge TPU"
    text = page(made(judge, engine, refused=True, deployed=deployed), samples)
    assert text.index("no bundle was written") < text.index("Stages and gates")
    assert text.index(deployed) < text.index("Stages and gates")
    assert "no bundle was written" not in page(made(judge, engine), samples)
