"""Gates of the source model: what harms source and engine alike."""

from __future__ import annotations

import numpy as np
import pytest

from edgeclin.description import Metric, Output, Task
from edgeclin.gates import Answers, Gate, Margins
from edgeclin.gates.bootstrap import Bootstrap
from edgeclin.gates.source import reverse_gate, source_gates

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
    assert all(gate.passed for gate in judged(truth, truth))
    _, chance, order = judged((truth + 1) % 3, truth)
    assert not chance.passed
    assert "order of labels" in chance.sentence
    assert not order.passed
    assert (
        "where it says a it is c; where it says b it is a; where it says c it is b"
        in order.sentence
    )


def test_two_labels_changed_over_are_named_though_the_others_are_right() -> None:
    """Two of five: mean recall 0.6, far above chance."""
    labels = Output(activation="none", labels=("a", "b", "c", "d", "e"))
    truth = np.arange(200) % 5
    swapped = np.array([0, 2, 1, 3, 4])[truth]
    answers = Answers.of(np.eye(5)[swapped], Task.CLASSIFICATION, labels)
    gates = source_gates(
        Metric(), labels, answers, truth[:, np.newaxis], Margins(), Bootstrap(len(truth))
    )
    (missed,) = [gate for gate in gates if not gate.passed]
    assert missed.value == pytest.approx(0.4)
    assert missed.sentence.endswith("where it says b it is c; where it says c it is b")


@pytest.mark.parametrize("seed", range(5))
def test_a_weak_model_is_not_accused_of_another_order(seed: int) -> None:
    """Right in 45 % of three labels, one of them rare, and else at random."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, 150, p=[0.6, 0.35, 0.05])
    decided = np.where(random.random(150) < 0.45, truth, random.integers(0, 3, 150))
    assert judged(decided, truth)[2].passed


def test_pictures_that_are_known_better_with_colours_changed_over_miss() -> None:
    random = np.random.default_rng(2)
    well, badly = random.random(160) < 0.95, random.random(160) < 0.4
    assert not reverse_gate(badly, well).passed
    assert "order of colours" in reverse_gate(badly, well).sentence
    assert reverse_gate(well, badly).passed
    assert reverse_gate(well, well).passed, "grey pictures are the same either way"


def test_always_the_most_frequent_label_is_no_better_than_chance_however_accurate() -> None:
    truth = np.array([0] * 95 + [1] * 5)
    _, gate, _ = judged(np.zeros(100, int), truth)
    assert gate.value == 0.5
    assert not gate.passed


def test_validation_data_of_one_label_alone_prove_nothing() -> None:
    gate, _ = judged(np.zeros(200, int), np.zeros(200, int))
    assert not gate.passed
    assert "all a: a constant answer would do as well" in gate.sentence


@pytest.mark.parametrize(("expected", "passed"), [(0.80, True), (0.84, True), (0.95, False)])
def test_a_model_that_is_worse_than_it_was_where_it_was_validated_misses(
    expected: float, passed: bool
) -> None:
    truth = np.arange(300) % 3
    decided = np.where(np.arange(300) % 5 == 0, (truth + 1) % 3, truth)
    gate = judged(decided, truth, expected)[-1]
    assert gate.name == "accuracy"
    assert gate.value == pytest.approx(0.8)
    assert gate.passed is passed


def test_a_label_that_one_patient_has_alone_does_not_spoil_the_bound_of_recall() -> None:
    """Draws of patients without that label say nothing about the mean of both."""
    truth = np.array([0] * 10 + [1] * 60)
    decided = np.array([0] * 10 + [1] * 30 + [0] * 30)
    patients = ("p0",) * 10 + tuple(f"p{1 + index % 12}" for index in range(60))
    output = Output(activation="none", labels=("no", "yes"))
    answers = Answers.of(np.eye(2)[decided], Task.CLASSIFICATION, output)
    bootstrap = Bootstrap(70, patients)
    gates = source_gates(Metric(), output, answers, truth[:, np.newaxis], Margins(), bootstrap)
    recall = {gate.name: gate for gate in gates}[
        "mean recall of all labels, above a constant answer's"
    ]
    assert recall.value == 0.75
    assert recall.passed
