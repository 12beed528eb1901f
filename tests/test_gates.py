"""Gates of engines: what is measured, and what decides."""

from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest
from scipy import stats

from edgeclin.description import Metric, Output, Task
from edgeclin.gates import Answers, Gate, Margins
from edgeclin.gates.bootstrap import Bootstrap
from edgeclin.gates.engines import (
    agreement_gate,
    calibration_error_gate,
    confident_gates,
    error_gate,
    loss_gates,
    metric_gate,
)
from edgeclin.gates.gate import shown
from edgeclin.gates.margins import DecisionMargins, LossMargins
from edgeclin.gates.trial import Trial
from edgeclin.manifest import Confidence, LabelThreshold

EYE = np.eye(3)
OUTPUT = Output(activation="none", labels=("a", "b", "c"))
ACCURACY = Metric(margin=0.05)


def logits(*labels: int) -> np.ndarray:
    """Outputs [n, 3] that choose these labels."""
    return EYE[list(labels)]


# -- another engine's threshold ----------------------------------------------------------------


def test_only_answers_that_reach_the_threshold_count_as_confident_errors() -> None:
    confidence = Confidence(temperature=0.5, threshold=0.9, max_error=0.3, fitted=True)
    outputs = np.concatenate([logits(0, 0, 0, 1) * 3, logits(1, 1) * 0.1])
    given = Answers.of(outputs, Task.CLASSIFICATION, OUTPUT)
    truth = np.zeros((6, 1), np.int64)
    (gate,) = confident_gates("twin", given, truth, confidence)
    assert (gate.value, gate.n, gate.passed) == (0.25, 4, False)
    assert gate.high == pytest.approx(0.751395)  # scipy.stats.beta.ppf(0.95, 2, 3)
    loose = msgspec.structs.replace(confidence, max_error=0.76)
    assert confident_gates("twin", given, truth, loose)[0].passed
    silent = msgspec.structs.replace(confidence, threshold=1.01)
    assert confident_gates("twin", given, truth, silent)[0].n == 0


def test_answers_that_find_nothing_are_never_confident_ones() -> None:
    confidence = Confidence(temperature=1.0, threshold=0.3, max_error=0.3, fitted=True)
    outputs = np.array([[3.0, 3.0, 0.0], [3.0, 0.0, 0.0]])
    given = Answers.of(outputs, Task.CLASSIFICATION, OUTPUT)
    (gate,) = confident_gates("twin", given, np.array([[1], [0]]), confidence)
    assert (gate.value, gate.n) == (0.0, 1)


def test_each_label_has_a_gate_where_it_has_a_threshold() -> None:
    own = tuple(
        LabelThreshold(label, threshold, 0.8, 2, 0.5, 0.0, 0.8)
        for label, threshold in zip(OUTPUT.labels, (0.9, 0.5, 1.01), strict=True)
    )
    confidence = Confidence(0.5, 1.01, 0.8, True, thresholds="per-class", by_label=own)
    outputs = np.concatenate([logits(0, 0, 1, 2) * 3, logits(0, 1) * 0.5])
    given = Answers.of(outputs, Task.CLASSIFICATION, OUTPUT)
    gates = confident_gates("twin", given, np.array([[0], [0], [1], [2], [0], [0]]), confidence)
    assert [gate.name for gate in gates] == [
        f"error of the confident answers {label!r}" for label in OUTPUT.labels
    ]
    assert [(gate.value, gate.n) for gate in gates] == [(0.0, 2), (0.5, 2), (0.0, 0)]


def read(outputs: np.ndarray) -> Answers:
    return Answers.of(outputs, Task.CLASSIFICATION, OUTPUT)


def answers(*labels: int) -> Answers:
    return read(logits(*labels))


def column(*labels: int) -> np.ndarray:
    return np.array(labels)[:, np.newaxis]


def agreement(source: Answers, engine: Answers, limit: float = 0.95) -> Gate:
    margins = Margins(decisions=DecisionMargins(agreement=limit))
    return agreement_gate("int8", source, engine, margins, Bootstrap(len(source)))


def trial(
    source: Answers,
    engine: Answers,
    truth: np.ndarray,
    metric: Metric = ACCURACY,
    groups: list[str] | None = None,
    margins: Margins | None = None,
    output: Output = OUTPUT,
) -> Trial:
    named = None if groups is None else tuple(groups)
    return Trial(
        stage="int8",
        metric=metric,
        output=output,
        source=source,
        engine=engine,
        truth=truth,
        groups=named,
        margins=margins or Margins(),
        bootstrap=Bootstrap(len(truth), named),
    )


def error(stage: str, source: np.ndarray, engine: np.ndarray, limit: float) -> Gate:
    return error_gate(stage, source, engine, limit, Bootstrap(len(source)))


def accuracy(source: Answers, engine: Answers, truth: np.ndarray, margin: float = 0.05) -> Gate:
    return metric_gate(trial(source, engine, truth, Metric(margin=margin)))


# -- output error -------------------------------------------------------------------------------


def test_the_error_is_the_mean_absolute_one_over_the_range_of_the_source() -> None:
    source = np.array([[0.0, 10.0], [5.0, 5.0]])
    engine = np.array([[1.0, 10.0], [5.0, 8.0]])
    gate = error("int8", source, engine, limit=0.1)
    assert gate.value == pytest.approx((1 + 0 + 0 + 3) / 4 / 10)
    assert gate.passed
    assert gate.n == 2


def test_the_error_gate_is_missed_just_above_its_limit() -> None:
    source = np.array([[0.0, 1.0]])
    assert error("int8", source, source + 0.05, limit=0.0500001).passed
    assert not error("int8", source, source + 0.05, limit=0.0499999).passed


def test_equal_outputs_pass_also_where_the_source_never_varies() -> None:
    constant = np.full((4, 2), 3.0)
    assert error("float", constant, constant, 1e-5).passed
    assert not error("float", constant, constant + 1, 1e-5).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["source", "engine"])
def test_outputs_that_are_not_finite_miss_and_can_still_be_written(bad: float, where: str) -> None:
    sides = {"source": np.ones((3, 2)), "engine": np.ones((3, 2))}
    sides[where][1, 1] = bad
    gate = error("int8", sides["source"], sides["engine"], limit=1e9)
    assert not gate.passed
    assert "not finite" in gate.name
    assert msgspec.json.decode(msgspec.json.encode(gate), type=Gate) == gate


# -- decisions ----------------------------------------------------------------------------------


def test_agreement_is_the_share_of_equal_decisions() -> None:
    source, engine = answers(*[0, 1, 2, 0] * 10), answers(*[0, 1, 2, 1] * 10)
    gate = agreement(source, engine, limit=0.75)
    assert gate.value == 0.75
    assert gate.passed
    assert not agreement(source, engine, limit=0.76).passed


def test_accuracy_is_judged_by_the_bound_not_by_the_point_estimate() -> None:
    gate = accuracy(answers(*[0] * 40), answers(*[0] * 39, 1), column(*[0] * 40))
    assert gate.value == pytest.approx(-1 / 40)
    assert gate.value > -0.05, "the point estimate alone would pass"
    assert gate.low < -0.05
    assert not gate.passed


def test_an_engine_that_answers_as_its_source_loses_nothing_however_bad_both_are() -> None:
    truth = np.array([0, 1, 2] * 10)
    wrong = answers(*((truth + 1) % 3))
    gate = accuracy(wrong, wrong, column(*truth), margin=0.0)
    assert (gate.value, gate.low, gate.high) == (0.0, 0.0, 0.0)
    assert gate.passed


@pytest.mark.parametrize("n", [1, 5, 29, 30])
def test_no_decision_gate_passes_on_a_handful_of_samples(n: int) -> None:
    same = answers(*[0] * n)
    for gate in (agreement(same, same), accuracy(same, same, column(*[0] * n))):
        assert (gate.low, gate.high) == (gate.value, gate.value), "the interval has no width"
        assert gate.passed is (n >= 30)
        needed = f" on {n} sample{'s' * (n > 1)}, at least 30 are needed"
        assert gate.sentence.endswith(needed) is (n < 30)


def test_the_error_of_one_sample_is_judged_as_it_is() -> None:
    one = np.array([[0.0, 1.0]])
    gate = error("int8", one, one, limit=0.05)
    assert gate.passed
    assert "needed" not in gate.sentence


def test_a_better_engine_passes() -> None:
    truth = [0, 1, 2] * 10
    gate = accuracy(answers(*[0] * 30), answers(*truth), column(*truth), margin=0.0)
    assert gate.value == pytest.approx(2 / 3)
    assert gate.passed


def test_the_margin_of_the_description_goes_before_that_of_the_gates_file() -> None:
    source, engine, truth = answers(*[0] * 400), answers(*[0] * 397, 1, 1, 1), column(*[0] * 400)
    strict = Margins(loss=LossMargins(accuracy=0.001))
    for metric, passed in ((Metric(), False), (Metric(margin=0.02), True)):
        gate = metric_gate(trial(source, engine, truth, metric, margins=strict))
        assert gate.passed is passed


# -- who suffers --------------------------------------------------------------------------------


def losses(
    source: Answers, engine: Answers, truth: np.ndarray, groups: list[str]
) -> dict[str, Gate]:
    found = loss_gates(trial(source, engine, truth, groups=groups))
    return {gate.name: gate for gate in found}


def test_a_group_that_suffers_is_found_behind_a_good_average() -> None:
    truth = column(*[0] * 400)
    engine = answers(*([0] * 390 + [1] * 5 + [0] * 5))
    groups = [f"many {index // 10}" for index in range(390)] + ["few"] * 10
    found = losses(answers(*[0] * 400), engine, truth, groups)
    gate = found["change of accuracy in the worst group (few)"]
    assert (gate.value, gate.n, gate.passed) == (-0.5, 10, False)
    assert found["change of accuracy"].passed


def test_a_rare_label_that_int8_no_longer_finds_is_found_behind_a_good_average() -> None:
    truth = [0] * 990 + [2] * 10
    found = losses(answers(*truth), answers(*[0] * 1000), column(*truth), ["one"] * 1000)
    assert found["change of accuracy"].passed
    gate = found["change of recall in the worst label (c)"]
    assert (gate.value, gate.n, gate.passed) == (-1.0, 10, False)


def test_a_label_that_the_source_finds_and_the_engine_never_does_is_found_however_rare() -> None:
    truth = [0] * 400 + [2] * 9
    found = losses(answers(*truth), answers(*[0] * 409), column(*truth), ["one"] * 409)
    assert found["change of recall in the worst label (a)"].passed, "nine are too few for a share"
    gate = found["labels that the engine no longer finds"]
    assert (gate.value, gate.passed) == (1.0, False)
    assert gate.sentence.endswith("it never finds c")


def test_a_label_that_was_hardly_ever_found_is_not_called_lost() -> None:
    truth = [0] * 400 + [2] * 9
    source = answers(*[0] * 400, 2, 2, *[0] * 7)
    found = losses(source, answers(*[0] * 409), column(*truth), ["one"] * 409)
    assert found["labels that the engine no longer finds"].passed


SEGMENTS = Output(activation="none", labels=("tissue", "lesion"), positive=("lesion",))


def maps(lesions: np.ndarray) -> Answers:
    """Pictures [n, pixels] of which 1 is a lesion, as two scores a pixel."""
    outputs = np.stack([1.0 - lesions, lesions], axis=2).reshape(len(lesions), -1)
    return Answers.of(outputs, Task.SEGMENTATION, SEGMENTS)


def pictures() -> np.ndarray:
    """120 pictures of 1,000 pixels, 8 of each a lesion."""
    truth = np.zeros((120, 1000), np.int64)
    truth[:, 100:108] = 1
    return truth


def test_a_segmentation_that_never_finds_the_lesion_misses_though_most_pixels_agree() -> None:
    truth, dice = pictures(), Metric(name="dice", margin=0.1)
    blind = maps(np.zeros(truth.shape))
    assert agreement(maps(truth), blind).value == pytest.approx(0.992)
    judged = loss_gates(trial(maps(truth), blind, truth, dice, output=SEGMENTS))
    assert {gate.name for gate in judged if not gate.passed} == {
        "change of Dice",
        "change of recall in the worst label (lesion)",
        "labels that the engine no longer finds",
    }


def test_a_patient_whose_lesions_are_lost_is_found_behind_a_good_average() -> None:
    truth, dice = pictures(), Metric(name="dice", margin=0.3)
    groups = [f"p{index // 10}" for index in range(120)]
    engine = truth.copy()
    engine[:10] = 0
    judged = loss_gates(trial(maps(truth), maps(engine), truth, dice, groups, output=SEGMENTS))
    found = {gate.name: gate for gate in judged}
    assert found["change of Dice"].passed
    worst = found["change of Dice in the worst group (p0)"]
    assert (worst.value, worst.n, worst.passed) == (-1.0, 10, False)


def test_groups_of_a_sample_each_are_judged_together() -> None:
    truth = column(*[0] * 60)
    everyone_apart = [f"patient {index}" for index in range(60)]
    name = "change of accuracy in the worst group (60 groups of fewer than 10 samples)"
    one = losses(answers(*[0] * 60), answers(*[0] * 59, 1), truth, everyone_apart)[name]
    assert (one.passed, one.n) == (True, 60)
    many = losses(answers(*[0] * 60), answers(*[0] * 50, *[1] * 10), truth, everyone_apart)[name]
    assert not many.passed


def test_no_group_that_suffers_passes() -> None:
    found = losses(answers(*[0] * 40), answers(*[0] * 40), column(*[0] * 40), ["a", "b"] * 20)
    assert all(gate.passed for gate in found.values())


def test_scores_that_are_sure_where_they_are_wrong_miss_though_no_decision_changes() -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 3, 600)
    clear = np.where(random.uniform(size=600) < 0.5, 4.0, 0.3)
    chosen = np.where((random.uniform(size=600) < 0.4) & (clear < 1), (truth + 1) % 3, truth)
    source = EYE[chosen] * clear[:, np.newaxis]
    turned = EYE[chosen] * (4.3 - clear)[:, np.newaxis]

    def gate(engine: np.ndarray) -> Gate:
        return calibration_error_gate(trial(read(source), read(engine), truth[:, np.newaxis]))

    assert agreement(read(source), read(turned)).value == 1
    assert not gate(turned).passed
    assert gate(source * 0.25).value == pytest.approx(0, abs=1e-3), "temperatures are fitted anew"


# -- intervals ----------------------------------------------------------------------------------


def test_the_interval_is_that_of_an_independent_bootstrap() -> None:
    change = np.array([1.0] * 10 + [0.0] * 170 + [-1.0] * 20)
    source = answers(*np.where(change > 0, 1, 0))
    engine = answers(*np.where(change < 0, 1, 0))
    gate = accuracy(source, engine, column(*[0] * 200), margin=0.2)
    reference = stats.bootstrap(
        (change,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(7)
    ).confidence_interval
    assert gate.low == pytest.approx(reference.low, abs=0.012)
    assert gate.high == pytest.approx(reference.high, abs=0.012)
    assert gate.low < gate.value < gate.high


def test_the_same_outputs_give_the_same_interval() -> None:
    generator = np.random.default_rng(3)
    source, engine = (read(generator.normal(size=(50, 3))) for _ in range(2))
    assert agreement(source, engine) == agreement(source, engine)


def test_a_large_validation_set_needs_little_memory() -> None:
    values = read(np.zeros((50_000, 3)))
    tracemalloc.start()
    agreement(values, values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_a_gate_says_what_it_measured_in_one_sentence() -> None:
    gate = agreement(answers(*[0, 1] * 20), answers(*[0, 0] * 20))
    assert gate.sentence == "int8: decision agreement is 0.5 (at least 0.95)"


def test_a_gate_that_is_judged_by_a_bound_says_the_bound() -> None:
    gate = accuracy(answers(*[0] * 40), answers(*[0] * 39, 1), column(*[0] * 40))
    assert gate.sentence == (
        f"int8: change of accuracy is -0.025, its lower 95 % bound {gate.low:.4g} "
        "(lower bound at least -0.05)"
    )


# -- outputs of other shapes --------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["first", "last"])
def test_every_pixel_of_a_segmentation_is_a_decision(axis: str) -> None:
    output = Output(activation="softmax", labels=("tissue", "vessel"), axis=axis)
    maps = np.zeros((4, 3, 5, 2))
    wanted = np.random.default_rng(1).integers(0, 2, (4, 3, 5))
    np.put_along_axis(maps, wanted[..., np.newaxis], 1.0, axis=-1)
    rows = (np.moveaxis(maps, -1, 1) if axis == "first" else maps).reshape(4, -1)
    read_back = Answers.of(rows, Task.SEGMENTATION, output)
    assert (read_back.decisions == wanted.reshape(4, -1)).all()


def test_one_sigmoid_a_pixel_stands_for_two_labels() -> None:
    output = Output(activation="sigmoid", labels=("tissue", "vessel"))
    found = Answers.of(np.array([[0.1, 0.9, 0.6]]), Task.SEGMENTATION, output)
    assert found.decisions.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_one_value_stands_for_two_labels_and_several_for_themselves(activation: str) -> None:
    two = Output(activation=activation, labels=("low", "high"))
    single = np.array([[0.9], [0.1]]) - (0.5 if activation == "none" else 0)
    assert Answers.of(single, Task.CLASSIFICATION, two).decisions.ravel().tolist() == [1, 0]
    pair = np.array([[0.9, 0.1], [0.2, 0.7]])
    assert Answers.of(pair, Task.CLASSIFICATION, two).decisions.ravel().tolist() == [0, 1]


def test_outputs_that_stand_for_no_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="4 values do not stand for 3 labels"):
        Answers.of(np.zeros((2, 4)), Task.CLASSIFICATION, OUTPUT)
    with pytest.raises(ValueError, match="7 values"):
        Answers.of(np.zeros((2, 7)), Task.SEGMENTATION, OUTPUT)


@pytest.mark.parametrize(
    ("figure", "said"),
    [(1200.0, "1200"), (0.95249, "0.952"), (-0.00333, "-0.00333"), (3.4e38, "3.4e+38")],
)
def test_a_figure_of_thousands_is_printed_whole(figure: float, said: str) -> None:
    assert shown(figure) == said
