"""The last results: bounded, cheap for the loop, and true whatever listeners do."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("uvicorn", reason="the http extra is not installed")

from edgeclin.endpoint.history import ASKED, KEPT, KEPT_BYTES, Cursor, History
from edgeclin.errors import BadInput
from edgeclin.inbox import Sample
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import Stored
from edgeclin.records import Result, Review, State, Tier

MakeResult = Callable[..., Result]
Add = Callable[..., None]
SAMPLE = np.zeros(140, np.float32)


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def add(
    history: History,
    make_result: MakeResult,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> Add:
    def one(seq: int, sample: Sample = SAMPLE) -> None:
        result = make_result(seq, label="normal")
        history.add(Stored(seq, str(seq)), result, sample, manifest_and_files[0])

    return one


def review(seq: int, state: State) -> Review:
    return Review(result=str(seq), state=state, label="normal", reason="", made_at=0.0)


def test_only_the_last_are_kept(history: History, add: Add) -> None:
    for seq in range(1, KEPT + 11):
        add(seq)
    assert [shown.seq for shown in history.newest()] == list(range(KEPT + 10, 10, -1))
    latest, _ = history.since(Cursor())
    assert (latest.results[0].seq, latest.missed) == (11, 10)


def test_a_cursor_brings_each_change_once(history: History, add: Add) -> None:
    add(1)
    add(2)
    latest, cursor = history.since(Cursor())
    assert [shown.seq for shown in latest.results] == [1, 2]
    assert history.since(cursor)[0].results == ()
    history.review({1: review(1, State.UNREVIEWED)})
    history.review({1: review(1, State.UNREVIEWED)})
    latest, again = history.since(cursor)
    assert [(shown.seq, shown.state) for shown in latest.results] == [(1, State.UNREVIEWED)]
    history.review({1: review(1, State.UNREVIEWED), 7: review(7, State.CONFIRMED)})
    assert history.cursor == again
    history.review({1: review(1, State.AMENDED)})
    ((shown,), _) = (history.since(again)[0].results, None)
    assert (shown.state, shown.result.state) == (State.AMENDED, State.FINAL)


@pytest.mark.parametrize(
    ("tier", "state", "label", "urgent"),
    [
        (Tier.ROUTINE, State.AMENDED, "R-on-T PVC", True),
        (Tier.URGENT, State.AMENDED, "normal", False),
        (Tier.URGENT, State.AMENDED, "R-on-T PVC", True),
        (Tier.URGENT, State.CONFIRMED, "R-on-T PVC", True),
        (Tier.URGENT, State.UNREVIEWED, None, True),
        (Tier.ROUTINE, State.CONFIRMED, "normal", False),
    ],
)
def test_a_result_is_urgent_as_it_is_now(
    history: History,
    make_result: MakeResult,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
    tier: Tier,
    state: State,
    label: str | None,
    urgent: bool,
) -> None:
    manifest, _ = manifest_and_files
    assert "R-on-T PVC" in manifest.output.urgent
    history.add(Stored(1, "1"), make_result(tier=tier, label="normal"), SAMPLE, manifest)
    assert history.newest()[0].urgent == (tier is Tier.URGENT)
    history.review({1: replace(review(1, state), label=label)})
    assert history.newest()[0].urgent == urgent


def test_a_review_of_an_unknown_bundle_leaves_a_result_as_urgent_as_it_was(
    history: History, make_result: MakeResult
) -> None:
    history.add(Stored(1, "1"), make_result(tier=Tier.URGENT, label="another"), SAMPLE, None)
    history.review({1: review(1, State.AMENDED)})
    assert history.newest()[0].urgent


def test_the_last_urgent_and_the_last_amended_one_stay_however_many_follow(
    history: History,
    make_result: MakeResult,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    def add(seq: int, **changes: object) -> None:
        made = make_result(seq, label="normal", **changes)
        history.add(Stored(seq, str(seq)), made, SAMPLE, manifest_and_files[0])

    add(1, state=State.PROVISIONAL)
    add(2, tier=Tier.URGENT)
    add(3, tier=Tier.URGENT)
    add(4, audit=True)
    for seq in range(5, KEPT + 10):
        add(seq)
    latest, cursor = history.since(Cursor())
    assert [shown.seq for shown in latest.results[:2]] == [3, 10]
    assert latest.missed == 8
    assert history.oldest_seq == 1
    history.review({1: replace(review(1, State.AMENDED), label="R-on-T PVC")})
    latest, cursor = history.since(cursor)
    assert [(one.seq, one.state, one.urgent) for one in latest.results] == [
        (1, State.AMENDED, True)
    ]
    history.review({4: replace(review(4, State.AMENDED), label="R-on-T PVC")})
    latest, cursor = history.since(cursor)
    assert [one.seq for one in latest.results] == [4], "it is both now"
    assert [one.seq for one in history.since(Cursor())[0].results[:2]] == [4, 10]
    assert len(history.newest()) == KEPT
    history.review({4: replace(review(4, State.AMENDED), label="normal")})
    latest, _ = history.since(cursor)
    assert [(one.seq, one.urgent) for one in latest.results] == [(1, True), (4, False)]


def test_what_became_of_an_older_result_is_told_though_it_is_not_kept_in_sight(
    history: History,
    make_result: MakeResult,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    for seq in range(1, KEPT + 10):
        doubtful = seq in (1, 3)
        state = State.PROVISIONAL if doubtful else State.FINAL
        made = make_result(seq, label="normal", state=state)
        history.add(Stored(seq, str(seq)), made, SAMPLE, manifest_and_files[0])
    _, cursor = history.since(Cursor())
    history.review({3: replace(review(3, State.AMENDED), label="R-on-T PVC")})
    latest, cursor = history.since(cursor)
    assert [one.seq for one in latest.results] == [3]
    history.review({1: review(1, State.CONFIRMED)})
    latest, after = history.since(cursor)
    assert [(one.seq, one.state) for one in latest.results] == [(1, State.CONFIRMED)]
    assert history.since(after)[0].results == ()


def test_an_earlier_urgent_one_is_in_sight_again_where_the_last_is_amended_to_none(
    history: History,
    make_result: MakeResult,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    for seq in range(1, KEPT + 10):
        tier = Tier.URGENT if seq < 4 else Tier.ROUTINE
        made = make_result(seq, label="normal", tier=tier, state=State.PROVISIONAL)
        history.add(Stored(seq, str(seq)), made, SAMPLE, manifest_and_files[0])
    latest, cursor = history.since(Cursor())
    assert [one.seq for one in latest.results if one.urgent] == [3]
    history.review({3: review(3, State.AMENDED)})
    latest, cursor = history.since(cursor)
    assert [(one.seq, one.urgent) for one in latest.results] == [(2, True), (3, False)]
    assert [one.seq for one in history.since(Cursor())[0].results if one.urgent] == [2]
    history.review({1: review(1, State.CONFIRMED)})
    assert [one.seq for one in history.since(cursor)[0].results] == [1]


def test_every_urgent_answer_that_expires_is_told_and_the_newest_stays_in_sight(
    history: History,
    make_result: MakeResult,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    for seq in range(1, KEPT + 10):
        unsure = seq < 3
        made = make_result(
            seq,
            label="normal",
            tier=Tier.URGENT if unsure else Tier.ROUTINE,
            state=State.PROVISIONAL if unsure else State.FINAL,
        )
        history.add(Stored(seq, str(seq)), made, SAMPLE, manifest_and_files[0])
    _, cursor = history.since(Cursor())
    history.review({seq: review(seq, State.UNREVIEWED) for seq in (1, 2)})
    latest, cursor = history.since(cursor)
    assert [(one.seq, one.state) for one in latest.results] == [
        (1, State.UNREVIEWED),
        (2, State.UNREVIEWED),
    ]
    assert history.since(Cursor())[0].results[0].seq == 2
    assert history.since(cursor)[0].results == ()


def test_a_confident_answer_that_is_amended_late_comes_into_sight(
    history: History,
    make_result: MakeResult,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    """Questions about such ones push out none about an answer in doubt."""
    unsure = make_result(1, label="normal", state=State.PROVISIONAL)
    history.add(Stored(1, "1", asked=True), unsure, SAMPLE, manifest_and_files[0])
    last = KEPT + ASKED + 1
    for seq in range(2, last + 1):
        made = make_result(seq, label="normal")
        history.add(Stored(seq, str(seq), asked=True), made, SAMPLE, manifest_and_files[0])
    _, cursor = history.since(Cursor())
    history.review({2: review(2, State.AMENDED), 1: review(1, State.CONFIRMED)})
    assert {one.seq for one in history.since(cursor)[0].results} == {1, 2}
    assert history.since(Cursor())[0].results[0].seq == 2


def test_what_may_still_be_amended_is_bounded(
    make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.endpoint.history.ASKED", 3)
    history = History()
    for seq in range(1, KEPT + 11):
        made = make_result(seq, state=State.PROVISIONAL)
        history.add(Stored(seq, str(seq)), made, SAMPLE, None)
    assert history.oldest_seq == 8
    history.review({9: review(9, State.CONFIRMED), 8: review(8, State.CONFIRMED)})
    assert history.oldest_seq == 10


def test_ages_go_on_while_the_device_sleeps_and_by_no_clock_that_is_set(
    add: Add, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(1)
    asked = []
    monkeypatch.setattr(time, "clock_gettime", lambda clock: asked.append(clock) or 1e9)
    assert history.newest()[0].age_s > 1e8
    assert asked == [time.CLOCK_BOOTTIME]


def test_samples_are_bounded_in_bytes_and_the_oldest_go_first(history: History, add: Add) -> None:
    half = np.zeros(KEPT_BYTES // 2, np.uint8)
    for seq in (1, 2, 3):
        add(seq, half.copy())
    add(4, np.zeros(KEPT_BYTES + 1, np.uint8))
    assert [shown.drawn for shown in history.newest()] == [False, False, False, False]
    add(5, half)
    assert [shown.drawn for shown in history.newest()] == [True, False, False, False, False]


def test_a_window_does_not_keep_the_recording_that_it_was_cut_from(
    history: History, add: Add
) -> None:
    recording = np.zeros(1_000_000, np.float32)
    add(1, recording[:140])
    kept = history.sample(1)
    assert kept is not None
    assert kept[0].base is None


def test_what_could_not_be_read_has_no_drawing(history: History, add: Add) -> None:
    add(1, BadInput("not a picture"))
    assert history.sample(1) is None
    assert not history.newest()[0].drawn


def test_the_result_of_a_bundle_that_is_not_known_any_more_is_shown_all_the_same(
    history: History, make_result: MakeResult
) -> None:
    history.add(Stored(1, "1"), make_result(label="another"), SAMPLE, None)
    (shown,) = history.newest()
    assert (shown.threshold, shown.drawn) == (None, False)
