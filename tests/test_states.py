from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclin.confidence import ALWAYS_IN_DOUBT
from edgeclin.description import Output, Thresholds
from edgeclin.errors import EdgeclinError
from edgeclin.manifest import Confidence, LabelThreshold
from edgeclin.records import State, Tier
from edgeclin.states import advance, decide, review

OUTPUT = Output(activation="softmax", labels=("normal", "ectopic", "flutter"), urgent=("flutter",))
FORWARD = {
    (State.FINAL, State.CONFIRMED),
    (State.FINAL, State.AMENDED),
    (State.PROVISIONAL, State.UNREVIEWED),
    (State.PROVISIONAL, State.CONFIRMED),
    (State.PROVISIONAL, State.AMENDED),
    (State.UNREVIEWED, State.CONFIRMED),
    (State.UNREVIEWED, State.AMENDED),
}


def fitted(threshold: float) -> Confidence:
    return Confidence(temperature=1.0, threshold=threshold, max_error=0.05, fitted=True)


def test_a_confident_answer_is_final() -> None:
    decision = decide(np.array([0.05, 0.92, 0.03]), OUTPUT, fitted(0.9))
    assert (decision.state, decision.label, decision.confidence) == (State.FINAL, "ectopic", 0.92)
    assert decision.reason == "confidence 0.920 reaches 0.900"


def test_a_confidence_just_below_the_threshold_is_told_in_enough_digits() -> None:
    decision = decide(np.array([0.902719, 0.097281, 0.0]), OUTPUT, fitted(0.902786))
    assert decision.reason == "confidence 0.9027 is below 0.9028"


def test_an_answer_that_just_reaches_the_threshold_is_final() -> None:
    assert decide(np.array([0.9, 0.1, 0.0]), OUTPUT, fitted(0.9)).state is State.FINAL
    below = float(np.nextafter(0.9, 0))
    assert decide(np.array([below, 0.1, 0.0]), OUTPUT, fitted(0.9)).state is State.PROVISIONAL


def test_an_unsure_answer_is_provisional_and_says_why() -> None:
    decision = decide(np.array([0.6, 0.3, 0.1]), OUTPUT, fitted(0.9))
    assert decision.state is State.PROVISIONAL
    assert decision.reason == "confidence 0.600 is below 0.900"


@pytest.mark.parametrize(
    ("scores", "label", "tier"),
    [
        ((0.4, 0.2, 0.4), "flutter", Tier.URGENT),
        ((0.4, 0.4, 0.2), "ectopic", Tier.ROUTINE),
        ((0.4, 0.3, 0.3), "normal", Tier.ROUTINE),
    ],
)
def test_of_labels_that_share_the_highest_score_the_gravest_is_named(
    scores: tuple[float, ...], label: str, tier: Tier
) -> None:
    output = msgspec.structs.replace(OUTPUT, positive=("ectopic",))
    decision = decide(np.array(scores), output, fitted(0.9), "nothing is found")
    assert (decision.label, decision.tier) == (label, tier)


def test_without_a_fitted_threshold_even_certainty_is_in_doubt() -> None:
    unfitted = Confidence(temperature=1.0, threshold=ALWAYS_IN_DOUBT, max_error=0.05, fitted=False)
    decision = decide(np.array([1.0, 0.0, 0.0]), OUTPUT, unfitted)
    assert decision.state is State.PROVISIONAL
    assert "no threshold was fitted" in decision.reason


@pytest.mark.parametrize(
    ("scores", "tier"), [((0.9, 0.1, 0.0), Tier.ROUTINE), ((0.1, 0.2, 0.7), Tier.URGENT)]
)
def test_an_urgent_finding_goes_first_sure_or_not(scores: tuple[float, ...], tier: Tier) -> None:
    for threshold in (0.5, 0.99):
        assert decide(np.array(scores), OUTPUT, fitted(threshold)).tier is tier


def test_scores_that_are_not_numbers_are_never_sure() -> None:
    for scores in ([np.nan] * 3, [np.nan, 1.0, 0.0]):
        assert decide(np.array(scores), OUTPUT, fitted(0.0)).state is not State.FINAL


TWO = Output(activation="softmax", labels=("normal", "flutter"), urgent=("flutter",))


def own(output: Output, *thresholds: float) -> Confidence:
    """A threshold for each label."""
    by_label = tuple(
        LabelThreshold(label, threshold, 0.05, 10, 0.5, 0.0, 0.05)
        for label, threshold in zip(output.labels, thresholds, strict=True)
    )
    kind: Thresholds = "dual" if len(thresholds) == 2 else "per-class"
    return Confidence(1.0, max(thresholds), 0.05, True, thresholds=kind, by_label=by_label)


@pytest.mark.parametrize(
    ("flutter", "label", "state"),
    [
        (0.95, "flutter", State.FINAL),
        (0.9, "flutter", State.FINAL),
        (0.89, "flutter", State.PROVISIONAL),
        (0.5001, "flutter", State.PROVISIONAL),
        (0.31, "normal", State.PROVISIONAL),
        (0.3, "normal", State.FINAL),
        (0.0, "normal", State.FINAL),
    ],
)
def test_between_a_lower_and_an_upper_threshold_an_answer_is_in_doubt(
    flutter: float, label: str, state: State
) -> None:
    decision = decide(np.array([1 - flutter, flutter]), TWO, own(TWO, 0.7, 0.9))
    assert (decision.label, decision.state) == (label, state)
    assert decision.tier is (Tier.URGENT if label == "flutter" else Tier.ROUTINE)


def test_each_answer_is_held_to_the_threshold_of_its_label() -> None:
    confidence = own(OUTPUT, 0.6, 0.9, ALWAYS_IN_DOUBT)
    for scores, state, reason in (
        ((0.7, 0.2, 0.1), State.FINAL, "confidence 0.700 reaches 0.600, the threshold of normal"),
        ((0.1, 0.8, 0.1), State.PROVISIONAL, "confidence 0.800 is below 0.900, the threshold of"),
        ((0.0, 0.0, 1.0), State.PROVISIONAL, "confidence 1.000 is below 1.010, the threshold of"),
    ):
        decision = decide(np.array(scores), OUTPUT, confidence)
        assert decision.state is state
        assert decision.reason.startswith(reason)


def test_what_is_unlike_calibration_is_never_sure_and_an_urgent_finding_still_urgent() -> None:
    decision = decide(np.array([0.0, 0.0, 1.0]), OUTPUT, fitted(0.5), "spread 9 is above 2")
    assert (decision.state, decision.tier) == (State.PROVISIONAL, Tier.URGENT)
    assert (decision.reason, decision.confidence) == ("spread 9 is above 2", 1.0)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(State, State)))
def test_a_state_only_moves_forward(state: State, to: State) -> None:
    if (state, to) in FORWARD:
        assert advance(state, to) is to
    else:
        with pytest.raises(EdgeclinError, match=f"{state.value} cannot become {to.value}"):
            advance(state, to)


@pytest.mark.parametrize("state", [State.FINAL, State.PROVISIONAL, State.UNREVIEWED])
def test_agreement_confirms_and_another_label_amends(state: State) -> None:
    assert review(state, "normal", "normal") is State.CONFIRMED
    assert review(state, "normal", "flutter") is State.AMENDED
    assert review(state, None, "flutter") is State.AMENDED


def test_an_opinion_without_a_label_leaves_a_doubtful_answer_to_a_person() -> None:
    assert review(State.PROVISIONAL, "normal", None) is State.UNREVIEWED
    assert review(State.UNREVIEWED, "normal", None) is State.UNREVIEWED
    assert review(State.FINAL, "normal", None) is State.FINAL


@pytest.mark.parametrize("state", [State.CONFIRMED, State.AMENDED])
def test_what_was_reviewed_is_not_reviewed_again(state: State) -> None:
    for label in ("normal", "flutter"):
        with pytest.raises(EdgeclinError):
            review(state, "normal", label)


@given(st.lists(st.sampled_from([None, "normal", "ectopic", "flutter"]), max_size=6))
def test_no_run_of_opinions_makes_a_doubtful_answer_final(opinions: list[str | None]) -> None:
    state = State.PROVISIONAL
    for opinion in opinions:
        before = state
        try:
            state = review(state, "normal", opinion)
        except EdgeclinError:
            assert before in (State.CONFIRMED, State.AMENDED)
        assert state is not State.FINAL
        assert state is before or (before, state) in FORWARD
