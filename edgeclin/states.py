"""What a result may become, and when: pure rules, without a clock, a queue or a network."""

from __future__ import annotations

import numpy as np

from edgeclin.description import Output
from edgeclin.errors import EdgeclinError
from edgeclin.manifest import Confidence
from edgeclin.records import Record, Result, State, Tier

_NEXT = {
    State.FINAL: {State.CONFIRMED, State.AMENDED},
    State.PROVISIONAL: {State.UNREVIEWED, State.CONFIRMED, State.AMENDED},
    State.UNREVIEWED: {State.CONFIRMED, State.AMENDED},
    State.CONFIRMED: set[State](),
    State.AMENDED: set[State](),
}
"""A final result is reviewed when an audit drew it, or bandwidth allows; a late opinion still helps
a person."""

_BY_CONFIDENCE = "confidence"


class Decision(Record, frozen=True):
    """What the device makes of one output."""

    label: str
    confidence: float
    state: State
    tier: Tier
    reason: str


def decide(scores: np.ndarray, output: Output, confidence: Confidence, doubt: str = "") -> Decision:
    """Turn calibrated probabilities into an answer.

    Args:
        scores: float [labels], summing to one.
        doubt: why it is in doubt, however high its confidence: what is unlike the samples that the
            bundle was calibrated on, or that nothing is found, as where labels share the highest
            score.
    """
    best = _named(scores, output) if doubt else int(scores.argmax())
    label, certainty = output.labels[best], float(scores.item(best))
    threshold = confidence.threshold_of(best)
    sure = not doubt and certainty >= threshold
    if doubt:
        reason = doubt
    elif not confidence.fitted and not sure:
        reason = "no threshold was fitted, so every answer is in doubt"
    else:
        reason = _compared(certainty, threshold, sure)
        if confidence.by_label:
            reason += f", the threshold of {label}"
    return Decision(
        label=label,
        confidence=certainty,
        state=State.FINAL if sure else State.PROVISIONAL,
        tier=Tier.URGENT if label in output.urgent else Tier.ROUTINE,
        reason=reason,
    )


def chance_wrong(result: Result) -> float:
    """The chance that an answer is wrong for which an opinion is asked, as far as is known: one
    minus its calibrated confidence. Where it is in doubt for something else than its confidence,
    that says nothing, and it is 1; of an audit 0, for which audits are asked must not depend on
    their answers."""
    if result.audit:
        return 0.0
    return 1 - result.confidence if result.reason.startswith(_BY_CONFIDENCE) else 1.0


def _compared(certainty: float, threshold: float, sure: bool) -> str:
    """In as many digits as show which is higher, and no fewer than three."""
    digits = 3
    while not sure and digits < 9 and f"{certainty:.{digits}f}" == f"{threshold:.{digits}f}":
        digits += 1
    word = "reaches" if sure else "is below"
    return f"{_BY_CONFIDENCE} {certainty:.{digits}f} {word} {threshold:.{digits}f}"


def _named(scores: np.ndarray, output: Output) -> int:
    """The label of the highest score; of several that share it one that is urgent, else a finding:
    the order of labels must not decide who goes first."""
    best = int(scores.argmax())
    highest = scores.item(best)
    if np.count_nonzero(scores == highest) > 1:
        for label in (*output.urgent, *output.positive):
            at = output.labels.index(label)
            if scores.item(at) == highest:
                return at
    return best


def advance(state: State, to: State) -> State:
    """Move a state forward.

    Raises:
        EdgeclinError: the step would go back or sideways.
    """
    if to not in _NEXT[state]:
        raise EdgeclinError(f"a result that is {state.value} cannot become {to.value}")
    return to


def review(state: State, edge_label: str | None, opinion_label: str | None) -> State:
    """The state after an opinion: agreement confirms, another label amends.

    An opinion without a label (the cloud's model could not judge either) leaves a provisional
    answer to a person and changes no other.
    """
    if opinion_label is None:
        return advance(state, State.UNREVIEWED) if state is State.PROVISIONAL else state
    return advance(state, State.CONFIRMED if opinion_label == edge_label else State.AMENDED)
