"""Gates of the source model: what harms source and engine alike."""

from __future__ import annotations

import numpy as np
import pytest

from edgeclin.description import Metric, Output, Task
from edgeclin.gates import Answers, Gate, Margins
from edgeclin.gates.bootstrap import Bootstrap
from edgeclin.gates.source import source_gates

OUTPUT = Output(activation="none", labels=("a", "b", "c"))


def judged(decided: np.ndarray, truth: np.ndarray, expected: float | None = None) -> list[Gate]:
    answers = Answers.of(np.eye(3)[decided], Task.CLASSIFICATION, OUTPUT)
    metric = Metric(expected=expected)
    return list(
        source_gates(
            metric, OUTPUT, answers, truth[:, np.newaxis], Margins(), Bootstrap(len(truth))
        )
    )


def test_a_model_with_its_labels_in_another_order_misses() -> None:
    truth = np.arange(90) % 3
    _, right = judged(truth, truth)
    _, shifted = judged((truth + 1) % 3, truth)
    assert right.passed
    assert not shifted.passed
    assert "order of labels" in shifted.sentence


def test_always_the_most_frequent_label_is_no_better_than_chance_however_accurate() -> None:
    truth = np.array([0] * 95 + [1] * 5)
    _, gate = judged(np.zeros(100, int), truth)
    assert gate.value == 0.5
    assert not gate.passed


def test_validation_data_of_one_label_alone_prove_nothing() -> None:
    (gate,) = judged(np.zeros(200, int), np.zeros(200, int))
    assert not gate.passed
    assert "all a: a constant answer would do as well" in gate.sentence


@pytest.mark.parametrize(("expected", "passed"), [(0.80, True), (0.84, True), (0.95, False)])
def test_a_model_that_is_worse_than_it_was_where_it_was_validated_misses(
    expected: float, passed: bool
) -> None:
    truth = np.arange(300) % 3
    decided = np.where(np.arange(300) % 5 == 0, (truth + 1) % 3, truth)
    gate = judged(decided, truth, expected)[2]
    assert gate.name == "accuracy"
    assert gate.value == pytest.approx(0.8)
    assert gate.passed is passed
