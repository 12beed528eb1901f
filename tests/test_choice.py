"""Which questions are worth their bytes: never more than can be sent, as good as is promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sync import TOPICS, Device

from edgeclin import wire
from edgeclin.config import BudgetConfig, SyncConfig
from edgeclin.offline_queue import OfflineQueue, OpenQuestion
from edgeclin.records import Result, State, Tier
from edgeclin.states import chance_wrong
from edgeclin.sync.choice import choose

Make = Callable[..., Result]


def value(some: Sequence[OpenQuestion]) -> float:
    return sum(one.doubt for one in some)


def fits(some: Sequence[OpenQuestion], most_bytes: float, bytes_per_s: float) -> bool:
    """Whether all arrive in time, sent one after the other in this order."""
    sent = 0
    for one in some:
        sent += one.bytes
        if sent > most_bytes or sent / bytes_per_s > one.remaining_s:
            return False
    return True


@st.composite
def questions(draw: st.DrawFn, most: int = 9, urgent: bool = True) -> list[OpenQuestion]:
    return [
        OpenQuestion(
            seq,
            draw(st.integers(1, 1000)),
            draw(st.floats(0.1, 60)),
            draw(st.floats(0, 1)),
            draw(st.booleans()) if urgent else False,
        )
        for seq in range(draw(st.integers(0, most)))
    ]


@given(questions(), st.integers(0, 5000), st.floats(1, 1000))
def test_what_is_chosen_fits_and_arrives_in_time(
    some: list[OpenQuestion], most_bytes: int, bytes_per_s: float
) -> None:
    chosen = choose(some, most_bytes, bytes_per_s)
    assert len({one.seq for one in chosen}) == len(chosen)
    assert fits(chosen, most_bytes, bytes_per_s * 1.000001)


@given(questions())
def test_where_nothing_is_scarce_all_are_asked_the_earliest_deadline_first(
    some: list[OpenQuestion],
) -> None:
    assert choose(some) == sorted(some, key=lambda one: (one.remaining_s, one.seq))


@given(questions(urgent=False), st.integers(0, 5000))
def test_under_a_budget_it_is_worth_half_of_the_best_set_at_least(
    some: list[OpenQuestion], most_bytes: int
) -> None:
    best = max(
        value(one)
        for count in range(len(some) + 1)
        for one in combinations(some, count)
        if sum(each.bytes for each in one) <= most_bytes
    )
    assert value(choose(some, most_bytes)) >= best / 2 - 1e-9


def test_on_a_slow_link_it_corrects_more_than_the_oldest_first_would() -> None:
    """40 questions of 1 to 60 kB, 400 kB a minute: what is measured is the expected number of wrong
    answers that are asked about in time, over 200 draws. The oldest first passes over what is too
    late when its turn comes."""
    rate = 400_000 / 60
    draw = np.random.default_rng(3)
    ours, oldest = 0.0, 0.0
    for _ in range(200):
        some = [
            OpenQuestion(
                seq,
                int(draw.integers(1_000, 60_000)),
                float(draw.uniform(20, 60)),
                float(draw.beta(1, 4)),
                False,
            )
            for seq in range(40)
        ]
        ours += value(choose(some, bytes_per_s=rate))
        sent = 0
        for one in some:
            if sent / rate < one.remaining_s:
                sent += one.bytes
                oldest += one.doubt * (sent / rate <= one.remaining_s)
    assert ours > 2 * oldest


def test_questions_about_urgent_results_go_before_all_others() -> None:
    urgent = OpenQuestion(1, 900, 60.0, 0.1, True)
    others = [OpenQuestion(seq, 100, 60.0, 0.9, False) for seq in range(2, 9)]
    assert urgent in choose([urgent, *others], most_bytes=1000)
    assert choose([urgent, *others], most_bytes=1000) == [urgent, others[0]]


def test_one_that_would_come_too_late_is_not_paid_for() -> None:
    late, small = OpenQuestion(1, 10_000, 5.0, 1.0, True), OpenQuestion(2, 900, 5.0, 0.1, False)
    assert choose([late, small], inf, 1000.0) == [small]


def test_the_chance_to_be_wrong_is_known_for_low_confidence_alone(make_result: Make) -> None:
    low = make_result(
        state=State.PROVISIONAL, confidence=0.7, reason="confidence 0.700 is below 0.900"
    )
    assert chance_wrong(low) == pytest.approx(0.3)
    strange = make_result(state=State.PROVISIONAL, confidence=0.99, reason="unlike validation: …")
    assert chance_wrong(strange) == 1.0
    assert chance_wrong(make_result(state=State.FINAL, audit=True, confidence=0.95)) == 0.0


def test_the_queue_gives_urgent_ones_first_and_then_the_most_doubtful(
    tmp_path: Path, make_result: Make
) -> None:
    def put(position: int, confidence: float, tier: Tier = Tier.ROUTINE) -> int:
        reason = f"confidence {confidence:.3f} is below 0.990"
        result = make_result(
            position, state=State.PROVISIONAL, confidence=confidence, reason=reason, tier=tier
        )
        return queue.put(result, np.zeros(9, np.float32)).seq

    with OfflineQueue(tmp_path / "q") as queue:
        seqs = [put(at, 0.5 + at / 20) for at in range(5)]
        urgent = put(5, 0.97, Tier.URGENT)
        found = queue.most_doubtful(4)
    assert [one.seq for one in found] == [urgent, *seqs[:3]]
    assert [one.urgent for one in found] == [True, False, False, False]
    assert found[1].doubt == pytest.approx(0.5)
    assert all(one.bytes > 0 and 0 < one.remaining_s <= 60 for one in found)


def test_a_budget_is_spent_on_what_is_most_doubtful_and_what_is_left_out_is_told(
    tmp_path: Path, make_result: Make
) -> None:
    settings = SyncConfig(budget=BudgetConfig(day_mb=0.1))
    here = Device(tmp_path, settings)
    asked = {}
    for position, confidence in enumerate((0.9, 0.5, 0.8, 0.6, 0.7)):
        result = make_result(
            position,
            state=State.PROVISIONAL,
            confidence=confidence,
            reason=f"confidence {confidence:.3f} is below 0.950",
        )
        sample = np.random.default_rng(position).integers(0, 256, 40_000, np.uint8)
        asked[here.queue.put(result, sample, deadline_s=3600.0).id] = confidence

    def questions() -> list[float]:
        sent = [one for one in here.seen if one.topic == TOPICS.ask]
        return [asked[wire.decode(one.payload, wire.Ask).result] for one in sent]

    for _ in range(9):
        here.step(0.3)
    assert sorted(questions()) == [0.5, 0.6]
    assert here.agent.health().held["questions"].startswith("3 would come too late, or cost more")
    here.agent.set_budget(None)
    here.agent.set_budget(1.0)
    here.receipt((1, 5))
    for _ in range(9):
        here.step(0.3)
    assert sorted(questions()) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert not here.agent.health().held
    here.queue.close()
