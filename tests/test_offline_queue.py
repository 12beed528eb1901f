"""The queue against a pure model of it, and each of its promises by itself."""

from __future__ import annotations

import gzip
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from conftest import BUNDLE, ROOT
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from polling import wait_until

from edgeclin import wire
from edgeclin.errors import QueueFull
from edgeclin.offline_queue import NO_KEYS, Expiring, Keyring, OfflineQueue, Stored, Usage
from edgeclin.offline_queue import database as database_module
from edgeclin.offline_queue import questions as questions_module
from edgeclin.offline_queue.database import FREE_PAGES
from edgeclin.offline_queue.payloads import INLINE_LIMIT
from edgeclin.records import Drop, Result, Review, State, Tier

MakeResult = Callable[..., Result]
NEVER_S = 1000.0
"""A bound of routine flushes that no test reaches."""


def opinion(result: str, label: str | None, **changes: Any) -> wire.Opinion:
    made = wire.Opinion(result=result, model="big", label=label, confidence=0.8)
    return msgspec.structs.replace(made, **changes)


def receipt(queue: OfflineQueue, *ranges: tuple[int, int]) -> wire.Receipt:
    return wire.Receipt(epoch=queue.epoch, ranges=ranges)


def noise(size: int, seed: int = 0) -> np.ndarray:
    """A sample that zstd cannot make smaller; base64 makes it a third larger on the wire."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@dataclass
class Clock:
    """Seconds since boot that a test moves."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[OfflineQueue]:
    with OfflineQueue(tmp_path / "queue.db", uptime=clock, boot="boot 1") as opened:
        yield opened


# -- a pure model -------------------------------------------------------------------------------


@dataclass
class ModelRow:
    seq: int
    kind: str
    tier: Tier
    id: str | None
    facts: dict[str, Any]
    size: int = 0


@dataclass
class ModelQuestion:
    seq: int
    result: str
    label: str | None
    state: State
    boot: str
    asked_at: float
    deadline: float
    sample: np.ndarray | None
    size: int
    file: bool
    spare: bool = False
    doubt: float = 0.0


@dataclass
class Model:
    """What a queue is, without a file, a process or an index."""

    rows: dict[int, ModelRow] = field(default_factory=dict)
    questions: dict[int, ModelQuestion] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    last: int = 0
    ids: set[str] = field(default_factory=set)

    def add(self, kind: str, tier: Tier, identity: str | None, facts: dict[str, Any]) -> None:
        self.last += 1
        self.rows[self.last] = ModelRow(self.last, kind, tier, identity, facts)

    def review(self, question: ModelQuestion, state: State, label: str | None) -> None:
        facts = {"result": question.result, "state": state.value, "label": label}
        self.add("review", Tier.ROUTINE, None, facts)

    @property
    def spare(self) -> list[ModelQuestion]:
        """Questions about confident answers, the least doubtful first."""
        spare = [one for one in self.questions.values() if one.spare]
        return sorted(spare, key=lambda one: (one.doubt, one.seq))

    def keeps_spare(self, doubt: float, size: int) -> bool:
        more = sum(one.size for one in self.spare if one.doubt >= doubt)
        return more + size <= SPARE_BYTES

    def make_spare_room(self, size: int) -> None:
        while sum(one.size for one in self.spare) + size > SPARE_BYTES:
            del self.questions[self.spare[0].seq]

    def withdraw(self, question: ModelQuestion) -> None:
        question.state, question.sample = State.UNREVIEWED, None
        question.size, question.file = 0, False


SAMPLES = st.sampled_from([None, None, 10, 1000, 60_000])
LABELS = st.sampled_from(["normal", "ectopic", None])
SOURCES = st.sampled_from(["a", "b"])
SPARE_BYTES = 85_000
"""One of the largest samples of these, or one of the others and many of the smallest."""


class QueueMachine(RuleBasedStateMachine):
    """Random actions on a queue and on the model; after each, both must look the same."""

    keyring = NO_KEYS

    @initialize()
    def open_first(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgeclin-queue-"))
        self.clock, self.boot, self.model = Clock(), 1, Model()
        self.wall = 1_800_000_000.0
        self.open()
        self.epoch = self.queue.epoch

    def open(self) -> None:
        self.queue = OfflineQueue(
            self.folder / "queue.db",
            routine_sync_s=NEVER_S,
            spare_bytes=SPARE_BYTES,
            keyring=self.keyring,
            clock=lambda: self.wall,
            uptime=self.clock,
            boot=f"boot {self.boot}",
        )

    @property
    def overhead(self) -> int:
        """Bytes that sealing adds to a value."""
        return len(self.keyring.seal(b"", "drop", ""))

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.queue.close()
            shutil.rmtree(self.folder)

    @rule(
        tier=st.sampled_from(Tier),
        state=st.sampled_from([State.FINAL, State.PROVISIONAL]),
        audit=st.booleans(),
        confidence=st.sampled_from([0.9, 0.95, 0.99]),
        source=SOURCES,
        position=st.integers(0, 20),
        label=LABELS,
        size=SAMPLES,
        deadline=st.sampled_from([1.0, 5.0]),
    )
    def put(
        self,
        tier: Tier,
        state: State,
        audit: bool,
        confidence: float,
        source: str,
        position: int,
        label: str | None,
        size: int | None,
        deadline: float,
    ) -> None:
        audit = audit and state is State.FINAL
        result = Result(
            bundle=BUNDLE,
            engine="fake",
            preprocessing="p",
            source=source,
            position=position,
            made_at=self.wall,
            state=state,
            reason=f"confidence {confidence}",
            tier=tier,
            label=label,
            confidence=confidence,
            audit=audit,
        )
        sample = None if size is None else noise(size, seed=self.model.last)
        stored = self.queue.put(result, sample, deadline)
        model = self.model
        facts = {"source": source, "position": position, "label": label}
        model.add("result", tier, stored.id, facts)
        assert stored.seq == model.last
        assert stored.id not in model.ids, "an id is given once"
        model.ids.add(stored.id)
        known = model.positions.get(source, 0)
        model.positions[source] = max(known, position + 1)
        spare, doubt = state is State.FINAL and not audit, 1 - confidence
        asked = sample is not None
        if sample is not None:
            ask = wire.Ask(result=stored.id, model=BUNDLE, input=wire.to_array(sample))
            length = len(wire.encode(ask)) + self.overhead
            now = self.clock.now
        if sample is not None and spare:
            asked = all(model.keeps_spare(doubt, size) for size in (sample.nbytes, length))
            if asked:
                model.make_spare_room(length)
        assert stored.asked is asked
        if asked:
            model.questions[stored.seq] = ModelQuestion(
                stored.seq,
                stored.id,
                label,
                state,
                f"boot {self.boot}",
                now,
                now + (questions_module.SPARE_S if spare else deadline),
                sample,
                length,
                length > INLINE_LIMIT,
                spare,
                doubt,
            )

    @rule(
        first=st.integers(-3, 40),
        length=st.integers(-2, 10),
        overlap=st.integers(-1, 3),
        here=st.sampled_from([True, True, True, False]),
    )
    def remove(self, first: int, length: int, overlap: int, here: bool) -> None:
        ranges = ((first, first + length), (first + length - overlap, first + length + 2))
        covered = {seq for low, high in ranges for seq in range(low, high + 1)}
        gone = covered & self.model.rows.keys() if here else set()
        sent = wire.Receipt(epoch=self.epoch if here else "another", ranges=ranges)
        assert self.queue.remove(sent) == len(gone)
        assert self.queue.remove(sent) == 0, "the same receipt again"
        for seq in gone:
            del self.model.rows[seq]

    @precondition(lambda self: self.model.questions)
    @rule(data=st.data(), label=LABELS)
    def settle(self, data: st.DataObject, label: str | None) -> None:
        model = self.model
        question = model.questions[data.draw(st.sampled_from(sorted(model.questions)))]
        review = self.queue.settle(opinion(question.result, label))
        if label is None and question.state is not State.PROVISIONAL:
            assert review is None
            if question.state is State.FINAL:
                del model.questions[question.seq]
            return
        assert review is not None
        if label is None:
            expected, final = State.UNREVIEWED, question.label
        elif label == question.label:
            expected, final = State.CONFIRMED, question.label
        else:
            expected, final = State.AMENDED, label
        assert (review.state, review.label, review.edge_label) == (expected, final, question.label)
        here = question.boot == f"boot {self.boot}"
        waited = round(self.clock.now - question.asked_at, 3) if here else None
        assert review.waited_s == waited
        model.review(question, expected, final)
        if expected is State.UNREVIEWED:
            model.withdraw(question)
        else:
            del model.questions[question.seq]

    @rule()
    def settle_what_nobody_asked(self) -> None:
        assert self.queue.settle(opinion("unknown", "normal")) is None

    @rule()
    def expire(self) -> None:
        reviews = {review.result: review for review in self.queue.expire()}
        for seq, question in sorted(self.model.questions.items()):
            here = question.boot == f"boot {self.boot}"
            over = not here or question.deadline <= self.clock.now
            if question.state is State.UNREVIEWED or not over:
                continue
            if question.state is State.FINAL:
                del self.model.questions[seq]
                continue
            review = reviews.pop(question.result)
            assert (review.state, review.label) == (State.UNREVIEWED, question.label)
            assert ("restarted" in review.reason) is not here
            self.model.review(question, State.UNREVIEWED, question.label)
            self.model.withdraw(question)
        assert not reviews

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(wall=st.sampled_from([0.0, 1_800_086_400.0, 1_500_000_000.0]))
    def wall_clock_jumps(self, wall: float) -> None:
        self.wall = wall

    @rule(rebooted=st.booleans())
    def reopen(self, rebooted: bool) -> None:
        self.queue.close()
        if rebooted:
            self.boot += 1
            self.clock.now = 3.0
        self.open()

    @rule(
        tier=st.sampled_from(Tier),
        after=st.integers(0, 30),
        length=st.one_of(st.none(), st.integers(0, 20)),
        limit=st.integers(1, 6),
    )
    def look(self, tier: Tier, after: int, length: int | None, limit: int) -> None:
        through = None if length is None else after + length
        got = self.queue.pending(tier, after=after, through=through, limit=limit)
        wanted = [
            seq
            for seq, row in sorted(self.model.rows.items())
            if row.tier is tier and seq > after and (through is None or seq <= through)
        ]
        assert [row.seq for row in got] == wanted[:limit]

    @invariant()
    def looks_like_the_model(self) -> None:
        if not hasattr(self, "queue"):
            return
        queue, model = self.queue, self.model
        usage = queue.usage()
        assert queue.epoch == self.epoch
        assert queue.last_seq() == model.last
        for tier in Tier:
            rows = queue.pending(tier, limit=10_000)
            wanted = [row for _, row in sorted(model.rows.items()) if row.tier is tier]
            assert [(row.seq, row.kind) for row in rows] == [(r.seq, r.kind) for r in wanted]
            for row, expected in zip(rows, wanted, strict=True):
                body = msgspec.json.decode(row.body)
                assert {key: body.get(key) for key in expected.facts} == expected.facts
                if expected.id is not None:
                    assert row.id == expected.id
            size = sum(len(row.body) + self.overhead for row in rows)
            assert usage[tier.value] == Usage(len(rows), size)
        for name, spare in (("questions", False), ("spare", True)):
            asked = [one for one in model.questions.values() if one.size and one.spare is spare]
            assert usage[name] == Usage(len(asked), sum(q.size for q in asked))
        for source in ("a", "b", "never seen"):
            assert queue.next_position(source, BUNDLE) == model.positions.get(source, 0)
        self.questions_look_like_the_model()

    def questions_look_like_the_model(self) -> None:
        now = self.clock.now
        boot = f"boot {self.boot}"
        wanted = [
            question
            for _, question in sorted(self.model.questions.items())
            if question.sample is not None and question.boot == boot and question.deadline > now
        ]
        got = self.queue.questions(limit=10_000)
        assert [question.seq for question in got] == [question.seq for question in wanted]
        for question, expected in zip(got, wanted, strict=True):
            ask = wire.decode(question.ask, wire.Ask)
            assert ask.result == question.result == expected.result
            np.testing.assert_array_equal(wire.from_array(ask.input), expected.sample)
            assert question.remaining_s == pytest.approx(expected.deadline - now)
            assert question.spare is expected.spare
        spare = [one.seq for one in wanted if one.spare]
        doubt = {seq: self.model.questions[seq].doubt for seq in spare}
        most = self.queue.most_doubtful_spare(10_000)
        assert [one.seq for one in most] == sorted(spare, key=lambda seq: (-doubt[seq], -seq))
        others = self.queue.most_doubtful(10_000)
        assert {one.seq for one in others} == {one.seq for one in wanted if not one.spare}
        files = {path.name for path in Path(f"{self.queue.path}.payloads").iterdir()}
        assert files == {q.result for q in self.model.questions.values() if q.file}


class SealedQueueMachine(QueueMachine):
    """The same of a queue that is sealed, and gets another key now and then."""

    keys: tuple[bytes, ...] = (bytes(32),)
    keyring = Keyring(keys)

    @rule(key=st.binary(min_size=32, max_size=32), keep=st.booleans())
    def rekey(self, key: bytes, keep: bool) -> None:
        self.queue.close()
        self.keys = tuple(dict.fromkeys((key, *self.keys)))
        self.keyring = Keyring(self.keys)
        self.open()
        found = self.queue.rekey(lambda _: None)
        assert (found.absent, found.damaged, found.rebuilt) == (0, 0, True)
        if not keep:
            self.queue.close()
            self.keys = (key,)
            self.keyring = Keyring(self.keys)
            self.open()
        rows = len(self.model.rows)
        assert self.queue.standing().sealed == ({self.keyring.first: rows} if rows else {})
        assert self.queue.standing().absent == 0


TestQueueAgainstItsModel = QueueMachine.TestCase
TestSealedQueueAgainstItsModel = SealedQueueMachine.TestCase
for case in (TestQueueAgainstItsModel, TestSealedQueueAgainstItsModel):
    case.settings = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


# -- identity and order -------------------------------------------------------------------------


def test_deadlines_pass_though_nobody_delivers(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.offline_queue.expiring._EXPIRE_S", 0.01)
    with OfflineQueue(tmp_path / "q.sqlite") as queue, Expiring(queue):
        doubtful = make_result(state=State.PROVISIONAL)
        stored = [queue.put(doubtful, np.zeros(3), 0.05).seq for _ in range(100)]
        waits = queue.put(doubtful, np.zeros(3), 1000).seq
        wait_until(lambda: len(queue.reviews()) == 100, "all are unreviewed")
        assert {one.state for one in queue.reviews().values()} == {State.UNREVIEWED}
        assert set(queue.reviews()) == set(stored)
        assert [question.seq for question in queue.questions()] == [waits]


def test_deadlines_go_on_after_a_disk_was_full(
    queue: OfflineQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgeclin.offline_queue.expiring._EXPIRE_S", 0.01)
    turns: list[list[Review]] = []

    def expire() -> list[Review]:
        turns.append([])
        if len(turns) < 5:
            raise OSError("the disk is gone")
        return turns[-1]

    monkeypatch.setattr(queue, "expire", expire)
    with Expiring(queue):
        wait_until(lambda: len(turns) > 6, "it goes on")
    assert caplog.text.count("no answer can become unreviewed: the disk is gone") == 1


def test_ids_are_uuids_of_version_7_and_every_number_is_given_once(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    stored = [queue.put(make_result(position)) for position in range(20)]
    assert {UUID(entry.id).version for entry in stored} == {7}
    assert len({entry.id for entry in stored}) == 20
    assert [entry.seq for entry in stored] == list(range(1, 21))


def test_a_number_is_not_given_again_after_deletion_and_reopening(
    tmp_path: Path, make_result: MakeResult
) -> None:
    with OfflineQueue(tmp_path / "q.db") as first:
        for position in range(5):
            first.put(make_result(position))
        first.remove(receipt(first, (1, 5)))
        epoch = first.epoch
    with OfflineQueue(tmp_path / "q.db") as second:
        assert second.last_seq() == 5
        assert second.put(make_result(5)).seq == 6
        assert second.epoch == epoch


def test_order_is_that_of_putting_when_the_clock_goes_back_to_1970(
    tmp_path: Path, make_result: MakeResult
) -> None:
    times = iter([1_800_000_000.0, 0.0, 86_400.0])
    with OfflineQueue(tmp_path / "q.db", clock=lambda: next(times)) as queue:
        for position, made_at in enumerate([1_800_000_000.0, 0.0, 86_400.0]):
            queue.put(make_result(position, made_at=made_at))
        bodies = [msgspec.json.decode(row.body) for row in queue.pending(Tier.ROUTINE)]
    assert [body["position"] for body in bodies] == [0, 1, 2]


def test_a_position_never_goes_back(queue: OfflineQueue, make_result: MakeResult) -> None:
    for position in (0, 7, 3):
        queue.put(make_result(position))
    assert queue.next_position("test.npz", BUNDLE) == 8
    assert queue.next_position("another", BUNDLE) == 0


def test_a_receipt_for_another_epoch_deletes_nothing(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    queue.put(make_result())
    assert queue.remove(wire.Receipt(epoch="of a lost database", ranges=((1, 1),))) == 0
    assert queue.usage()["routine"].count == 1


@pytest.mark.parametrize(
    ("ranges", "left"),
    [
        (((-(2**80), 2**80),), []),
        (((2**70, 2**80),), [1, 2, 3]),
        (((-(2**80), -1),), [1, 2, 3]),
        (((-(2**90), -(2**80)),), [1, 2, 3]),
        (((1, -(2**80)),), [1, 2, 3]),
        (((3, 1),), [1, 2, 3]),
        (((1, 2), (2, 2)), [3]),
        ((), [1, 2, 3]),
    ],
)
def test_ranges_beyond_all_numbers_do_no_harm(
    queue: OfflineQueue,
    make_result: MakeResult,
    ranges: tuple[tuple[int, int], ...],
    left: list[int],
) -> None:
    for position in range(3):
        queue.put(make_result(position))
    assert queue.remove(receipt(queue, *ranges)) == 3 - len(left)
    assert [row.seq for row in queue.pending(Tier.ROUTINE)] == left


def test_two_threads_may_put_while_a_third_removes(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    stored: list[Stored] = []

    def put(source: str) -> None:
        stored.extend(queue.put(make_result(n, source=source)) for n in range(100))

    threads = [threading.Thread(target=put, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    removed = 0
    while any(thread.is_alive() for thread in threads):
        removed += queue.remove(receipt(queue, (1, 50)))
    for thread in threads:
        thread.join()
    removed += queue.remove(receipt(queue, (1, 50)))
    assert removed == 50
    assert sorted(entry.seq for entry in stored) == list(range(1, 201))
    assert queue.usage()["routine"].count == 150
    rows = queue.pending(Tier.ROUTINE, limit=1000)
    assert all(one.seq < other.seq for one, other in pairwise(rows))


# -- answers and opinions -----------------------------------------------------------------------


def ask_about(queue: OfflineQueue, result: Result, deadline_s: float = 60.0) -> Stored:
    return queue.put(result, np.arange(10, dtype=np.float32), deadline_s)


def last_review(queue: OfflineQueue) -> Review:
    row = queue.pending(Tier.ROUTINE, limit=1000)[-1]
    assert row.kind == "review"
    return msgspec.json.decode(row.body, type=Review)


def test_an_opinion_becomes_a_review_that_is_itself_delivered(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock
) -> None:
    stored = ask_about(queue, make_result(state=State.PROVISIONAL, label="normal"))
    clock.now += 2.5
    review = queue.settle(opinion(stored.id, "ectopic", reason="I looked twice"))
    assert review == last_review(queue)
    assert review.state is State.AMENDED
    assert (review.label, review.edge_label) == ("ectopic", "normal")
    assert (review.waited_s, review.model, review.reason) == (2.5, "big", "I looked twice")
    assert queue.usage()["questions"] == Usage(0, 0)


def test_the_same_opinion_again_changes_nothing(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    stored = ask_about(queue, make_result(state=State.PROVISIONAL))
    assert queue.settle(opinion(stored.id, "normal")) is not None
    assert queue.settle(opinion(stored.id, "ectopic")) is None
    assert queue.usage()["routine"].count == 2


def test_a_late_opinion_still_helps(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock
) -> None:
    stored = ask_about(queue, make_result(state=State.PROVISIONAL), deadline_s=1.0)
    clock.now += 1.0
    (expired,) = queue.expire()
    assert (expired.state, expired.waited_s) == (State.UNREVIEWED, 1.0)
    assert queue.questions() == []
    clock.now += 10
    late = queue.settle(opinion(stored.id, "normal"))
    assert late is not None
    assert (late.state, late.waited_s) == (State.CONFIRMED, 11.0)


def test_an_answer_of_before_the_restart_needs_a_person(
    tmp_path: Path, make_result: MakeResult, clock: Clock
) -> None:
    with OfflineQueue(tmp_path / "q.db", uptime=clock, boot="one") as queue:
        ask_about(queue, make_result(state=State.PROVISIONAL), deadline_s=1e6)
    with OfflineQueue(tmp_path / "q.db", uptime=clock, boot="two") as queue:
        assert queue.questions() == []
        (review,) = queue.expire()
    assert (review.state, review.waited_s) == (State.UNREVIEWED, None)
    assert review.reason == "the device restarted before an opinion came"


def test_an_audit_that_nobody_answers_leaves_the_final_answer_alone(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock
) -> None:
    stored = ask_about(queue, make_result(state=State.FINAL, audit=True), deadline_s=1.0)
    clock.now += 2
    assert queue.expire() == []
    assert queue.usage()["questions"].count == 0
    assert queue.settle(opinion(stored.id, "normal")) is None


def test_the_wall_clock_expires_nothing(
    tmp_path: Path, make_result: MakeResult, clock: Clock
) -> None:
    wall = Clock(1_800_000_000.0)
    with OfflineQueue(tmp_path / "q.db", clock=wall, uptime=clock, boot="one") as queue:
        ask_about(queue, make_result(state=State.PROVISIONAL), deadline_s=60.0)
        for jump in (-1_800_000_000.0, 1_900_000_000.0):
            wall.now += jump
            assert queue.expire() == []
            assert len(queue.questions()) == 1


def test_unanswered_questions_are_remembered_only_up_to_a_bound(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions_module, "_KEPT_UNREVIEWED", 3)
    asked = [ask_about(queue, make_result(n, state=State.PROVISIONAL), 1.0) for n in range(5)]
    clock.now += 2
    assert len(queue.expire()) == 5
    assert queue._database.one("SELECT COUNT(*) FROM questions") == (3,)
    assert queue.usage()["questions"] == Usage(0, 0)
    assert queue.settle(opinion(asked[1].id, "normal")) is None
    assert queue.settle(opinion(asked[2].id, "normal")) is not None


def test_questions_that_the_cloud_cannot_answer_are_remembered_up_to_the_same_bound(
    queue: OfflineQueue, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions_module, "_KEPT_UNREVIEWED", 3)
    for position in range(5):
        stored = ask_about(queue, make_result(position, state=State.PROVISIONAL))
        assert queue.settle(opinion(stored.id, None)) is not None
    assert queue._database.one("SELECT COUNT(*) FROM questions") == (3,)


def test_a_question_about_what_is_unreviewed_already_expires_too(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock
) -> None:
    ask_about(queue, make_result(state=State.UNREVIEWED), deadline_s=1.0)
    clock.now += 2
    assert queue.expire() == []
    assert queue.usage()["questions"].count == 0


def test_questions_come_oldest_first_and_page_by_page(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    asked = [ask_about(queue, make_result(n, state=State.PROVISIONAL)) for n in range(5)]
    first = queue.questions(limit=2)
    rest = queue.questions(after=first[-1].seq)
    assert [q.result for q in (*first, *rest)] == [entry.id for entry in asked]


def test_what_became_of_a_result_stays_known_after_the_receipt(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock
) -> None:
    stored = ask_about(queue, make_result(state=State.PROVISIONAL), deadline_s=1.0)
    assert queue.reviews() == {}
    clock.now += 2
    (expired,) = queue.expire()
    assert queue.reviews() == {stored.seq: expired}
    late = queue.settle(opinion(stored.id, "ectopic"))
    assert late is not None
    assert late.state is State.AMENDED
    queue.remove(receipt(queue, (1, 100)))
    assert queue.reviews() == {stored.seq: late}
    assert queue.reviews(first=stored.seq + 1) == {}


def test_a_flood_of_reviews_of_old_results_takes_none_of_a_new_one_s(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions_module, "KEPT_REVIEWS", 3)
    asked = [ask_about(queue, make_result(n, state=State.PROVISIONAL)) for n in range(8)]
    for entry in reversed(asked):
        assert queue.settle(opinion(entry.id, "normal")) is not None
    assert list(queue.reviews()) == [entry.seq for entry in asked[-3:]]


def test_a_lock_that_another_program_keeps_is_waited_for_and_then_told_as_what_may_pass(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.offline_queue.database._LOCKED_S", 0.1)
    with OfflineQueue(tmp_path / "q") as queue:
        with closing(sqlite3.connect(tmp_path / "q", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueFull, match=r"another program has kept it locked for 0\.1 s"):
                queue.put(make_result())
            other.execute("ROLLBACK")
        assert queue.put(make_result()).seq == 1


@pytest.mark.parametrize("schema", [1, 2, 3, 4, 5, 6])
def test_a_queue_of_an_older_schema_is_brought_up_to_date_with_all_that_waits(
    tmp_path: Path, schema: int
) -> None:
    path = tmp_path / "q.db"
    older = ROOT / f"tests/data/queue_{schema}.sqlite.gz"
    path.write_bytes(gzip.decompress(older.read_bytes()))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema,)
        before = connection.execute("SELECT * FROM rows").fetchall()
    with OfflineQueue(path, uptime=lambda: 110.0, boot="one") as queue:
        assert queue.epoch == "01a21796-ed68-7e36-adbe-1aa75acb9df6"
        assert queue._database.all("SELECT * FROM rows") == before
        assert queue.standing().set_aside == 0
        (question,) = queue.questions()
        assert queue.reviews() == {}
        review = queue.settle(opinion(question.result, "ectopic"))
        assert queue.reviews() == {question.seq: review}
    OfflineQueue(path).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- bounds -------------------------------------------------------------------------------------

BODY = 2000
"""About the size of one result of these tests, whose reason is padded to it."""


def padded(make_result: MakeResult, position: int, tier: Tier) -> Result:
    return make_result(position, tier=tier, reason="x" * BODY)


def fill(queue: OfflineQueue, make_result: MakeResult, tier: Tier) -> int:
    """Put until the queue is full; how many went in."""
    count = 0
    with pytest.raises(QueueFull):
        while True:
            queue.put(padded(make_result, count, tier))
            count += 1
    return count


def waiting(queue: OfflineQueue) -> int:
    return sum(entry.bytes for entry in queue.usage().values())


@pytest.fixture
def small(tmp_path: Path) -> Iterator[OfflineQueue]:
    with OfflineQueue(tmp_path / "small.db", max_bytes=100_000, routine_sync_s=NEVER_S) as opened:
        yield opened


@pytest.mark.parametrize("tier", [Tier.ROUTINE, Tier.URGENT])
def test_a_full_queue_refuses_and_stores_nothing(
    small: OfflineQueue, make_result: MakeResult, tier: Tier
) -> None:
    count = fill(small, make_result, tier)
    assert small.usage()[tier.value].count == count
    assert small.last_seq() == count
    assert small.next_position("test.npz", BUNDLE) == count
    assert waiting(small) <= 100_000


def test_a_full_queue_takes_results_again_after_a_receipt(
    small: OfflineQueue, make_result: MakeResult
) -> None:
    count = fill(small, make_result, Tier.ROUTINE)
    small.remove(receipt(small, (1, 1)))
    assert small.put(padded(make_result, count, Tier.ROUTINE)).seq == count + 1


def test_a_reserve_is_left_for_urgent_results(small: OfflineQueue, make_result: MakeResult) -> None:
    fill(small, make_result, Tier.ROUTINE)
    assert 85_000 < waiting(small) <= 90_000
    assert fill(small, make_result, Tier.URGENT) >= 4
    assert 95_000 < waiting(small) <= 100_000


def test_bulk_makes_room_and_leaves_a_record_of_what_went(
    small: OfflineQueue, make_result: MakeResult
) -> None:
    bulk = {small.put(padded(make_result, position, Tier.BULK)).seq for position in range(40)}
    for position in range(40, 60):
        small.put(padded(make_result, position, Tier.ROUTINE))
    left = {row.seq for row in small.pending(Tier.BULK, limit=1000)}
    drops = [
        msgspec.json.decode(row.body, type=Drop)
        for row in small.pending(Tier.ROUTINE, limit=1000)
        if row.kind == "drop"
    ]
    named = {seq for drop in drops for seq in range(drop.first_seq, drop.last_seq + 1)}
    gone = bulk - left
    assert gone
    assert gone <= named
    assert not left & named
    assert sum(drop.count for drop in drops) == len(gone)
    assert {drop.tier for drop in drops} == {Tier.BULK}
    assert waiting(small) <= 100_000


def test_a_drop_record_is_not_dropped_and_survives_reopening(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path, max_bytes=100_000) as queue:
        for position in range(60):
            queue.put(padded(make_result, position, Tier.BULK))
        fill(queue, make_result, Tier.ROUTINE)
    with OfflineQueue(path, max_bytes=100_000) as queue:
        assert queue.usage()["bulk"].count == 0
        rows = queue.pending(Tier.ROUTINE, limit=1000)
        drops = [msgspec.json.decode(row.body, type=Drop) for row in rows if row.kind == "drop"]
    assert sum(drop.count for drop in drops) == 60


def test_nothing_is_dropped_for_a_result_that_could_not_fit_all_the_same(
    small: OfflineQueue, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    fill(small, make_result, Tier.URGENT)
    small.remove(receipt(small, (1, 10)))
    for position in range(2):
        small.put(padded(make_result, position, Tier.BULK))
    before = small.usage()
    with pytest.raises(QueueFull, match=r"connect the device, or raise queue\.max_mb"):
        small.put(make_result(reason="x" * 50_000))
    assert small.usage() == before
    assert "dropped" not in caplog.text


def test_the_sample_of_a_question_counts_towards_the_bound(
    small: OfflineQueue, make_result: MakeResult
) -> None:
    with pytest.raises(QueueFull):
        small.put(make_result(state=State.PROVISIONAL), noise(120_000))
    assert waiting(small) == 0
    assert small.last_seq() == 0
    assert not list(Path(f"{small.path}.payloads").iterdir())


def test_the_counters_equal_what_is_there(tmp_path: Path, make_result: MakeResult) -> None:
    with OfflineQueue(tmp_path / "q.db", max_bytes=60_000) as queue:
        for position in range(50):
            tier = tuple(Tier)[position % 3]
            sample = noise(500, position) if position % 5 == 0 else None
            state = State.FINAL if sample is None else State.PROVISIONAL
            queue.put(make_result(position, tier=tier, state=state, reason="x" * 900), sample)
        queue.remove(receipt(queue, (3, 9)))
        usage = queue.usage()
        with sqlite3.connect(queue.path) as other:
            for number, tier in enumerate(Tier):
                query = "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM rows WHERE tier = ?"
                assert usage[tier.value] == Usage(*other.execute(query, (number,)).fetchone())
            asked = other.execute("SELECT COUNT(ask), SUM(LENGTH(ask)) FROM questions").fetchone()
            assert usage["questions"] == Usage(*asked)


# -- payload files ------------------------------------------------------------------------------


def payload_files(queue: OfflineQueue) -> list[Path]:
    return sorted(Path(f"{queue.path}.payloads").iterdir())


def test_a_large_question_is_a_file_and_a_small_one_is_not(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    queue.put(make_result(0, state=State.PROVISIONAL), noise(INLINE_LIMIT // 2))
    assert payload_files(queue) == []
    stored = queue.put(make_result(1, state=State.PROVISIONAL), noise(INLINE_LIMIT))
    (file,) = payload_files(queue)
    assert file.name == stored.id
    assert file.stat().st_mode & 0o777 == 0o600, "only the device's own user may read it"
    question = queue.questions()[1]
    assert question.ask == file.read_bytes()
    decoded = wire.decode(question.ask, wire.Ask)
    np.testing.assert_array_equal(wire.from_array(decoded.input), noise(INLINE_LIMIT))


@pytest.mark.parametrize("end", ["opinion", "no opinion", "deadline"])
def test_a_payload_goes_with_its_question(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock, end: str
) -> None:
    stored = queue.put(make_result(state=State.PROVISIONAL), noise(INLINE_LIMIT), 5.0)
    if end == "deadline":
        clock.now += 6
        assert len(queue.expire()) == 1
    else:
        label = "normal" if end == "opinion" else None
        assert queue.settle(opinion(stored.id, label)) is not None
    assert payload_files(queue) == []
    assert queue.usage()["questions"].bytes == 0


def test_files_that_a_crash_left_without_a_row_are_swept(
    tmp_path: Path, make_result: MakeResult
) -> None:
    with OfflineQueue(tmp_path / "q.db") as queue:
        stored = queue.put(make_result(state=State.PROVISIONAL), noise(INLINE_LIMIT))
        folder = payload_files(queue)[0].parent
    (folder / "orphan").write_bytes(b"x")
    (folder / ".half-written.abc").write_bytes(b"x")
    with OfflineQueue(tmp_path / "q.db") as queue:
        assert [file.name for file in payload_files(queue)] == [stored.id]
        assert len(queue.questions()) == 1


def test_a_process_that_starts_leaves_the_file_of_a_put_that_is_under_way(
    tmp_path: Path, make_result: MakeResult
) -> None:
    """`edgeclin sync` may start between another process's file and its row."""
    with OfflineQueue(tmp_path / "q.db") as queue:
        write = queue._questions._payloads.write
        second: list[threading.Thread] = []

        def write_and_let_another_start(name: str, data: bytes) -> None:
            write(name, data)
            other = threading.Thread(target=lambda: OfflineQueue(tmp_path / "q.db").close())
            other.start()
            other.join(timeout=0.5)
            second.append(other)

        queue._questions._payloads.write = write_and_let_another_start  # type: ignore[method-assign]
        queue.put(make_result(state=State.PROVISIONAL), noise(INLINE_LIMIT))
        second[0].join()
        assert len(payload_files(queue)) == 1
        assert len(queue.questions()) == 1


def test_a_payload_lost_with_the_disk_costs_the_opinion_not_the_queue(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock
) -> None:
    queue.put(make_result(state=State.PROVISIONAL), noise(INLINE_LIMIT), 5.0)
    payload_files(queue)[0].unlink()
    assert queue.questions() == []
    clock.now += 6
    assert [review.state for review in queue.expire()] == [State.UNREVIEWED]


def test_lost_payloads_do_not_hold_up_the_questions_after_them(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    for position in range(5):
        queue.put(make_result(position, state=State.PROVISIONAL), noise(INLINE_LIMIT))
    for file in payload_files(queue):
        file.unlink()
    last = queue.put(make_result(5, state=State.PROVISIONAL), noise(10))
    assert [question.result for question in queue.questions(limit=2)] == [last.id]


def test_a_payload_that_cannot_be_read_is_an_alarm_and_not_the_end(
    queue: OfflineQueue, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put(make_result(state=State.PROVISIONAL), noise(INLINE_LIMIT))
    (file,) = payload_files(queue)
    file.unlink()
    file.mkdir()
    assert queue.questions() == []
    assert f"ALARM: payload {file.name} cannot be read" in caplog.text


def test_an_interrupt_just_after_the_commit_keeps_the_payload(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OfflineQueue(tmp_path / "q.db") as queue:
        transaction = queue._database.transaction

        @contextmanager
        def interrupted(tier: Tier) -> Iterator[sqlite3.Connection]:
            with transaction(tier) as db:
                yield db
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(queue._database, "transaction", interrupted)
            with pytest.raises(KeyboardInterrupt):
                queue.put(make_result(state=State.PROVISIONAL), noise(INLINE_LIMIT))
        assert len(payload_files(queue)) == 1
        assert len(queue.questions()) == 1


def test_a_backlog_that_was_delivered_gives_its_room_back_to_the_disk(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    for position in range(6_000):
        queue.put(make_result(position))

    def pages() -> int:
        return int(queue._database.all("PRAGMA page_count")[0][0])

    most = pages()
    for first in range(1, 6_000, 100):
        queue.remove(receipt(queue, (first, first + 99)))
    assert queue.usage()["routine"].count == 0
    assert most > FREE_PAGES + 300
    assert pages() < FREE_PAGES + 30


# -- cost ---------------------------------------------------------------------------------------


def test_no_hot_statement_reads_the_backlog(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock
) -> None:
    """Every statement that a put, a delivery or an opinion executes, explained by SQLite."""
    seen: list[str] = []
    queue._database.connection.set_trace_callback(seen.append)
    asked = ask_about(queue, make_result(0, state=State.PROVISIONAL))
    ask_about(queue, make_result(1, state=State.PROVISIONAL), deadline_s=1.0)
    queue.pending(Tier.ROUTINE, after=0, through=10)
    queue.questions()
    queue.settle(opinion(asked.id, "normal"))
    queue.remove(receipt(queue, (1, 1)))
    clock.now += 5
    queue.expire()
    queue.next_position("test.npz", BUNDLE)
    queue.usage()
    queue.last_seq()
    queue._database.connection.set_trace_callback(None)
    verbs = ("SELECT", "INSERT", "UPDATE", "DELETE")
    statements = [text.strip() for text in seen if text.strip().startswith(verbs)]
    assert len(statements) > 15
    plans = {}
    for statement in statements:
        rows = queue._database.all(f"EXPLAIN QUERY PLAN {statement}", ())
        plans[statement] = "; ".join(str(row[3]) for row in rows)
    for statement, plan in plans.items():
        assert "SCAN rows" not in plan, (statement, plan)
        assert "SCAN positions" not in plan, (statement, plan)
        # `file` and `bytes` stand behind the payload, which SQLite reads to get there.
        for table in ("SCAN questions", "questions USING INTEGER PRIMARY KEY (rowid>"):
            assert table not in plan, (statement, plan)
        if "FROM rows" in statement or "result, ask, file" in statement:
            assert "TEMP B-TREE" not in plan, (statement, plan)
    assert any("USING INDEX rows_by_tier (tier=? AND" in plan for plan in plans.values())
    # What is still asked is not even looked at until its time is over.
    assert any("questions_by_deadline (boot=? AND deadline<?)" in plan for plan in plans.values())


def test_questions_expire_a_few_at_a_time_between_which_others_may_write(
    queue: OfflineQueue, make_result: MakeResult, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions_module, "_EXPIRED_AT_ONCE", 2)
    asked = [
        ask_about(queue, make_result(n, state=State.PROVISIONAL), deadline_s=1.0) for n in range(5)
    ]
    clock.now += 2
    parts = [[review.result for review in queue.expire()] for _ in range(4)]
    assert [len(part) for part in parts] == [2, 2, 1, 0]
    assert [one for part in parts for one in part] == [entry.id for entry in asked]


def test_where_no_question_is_due_nobody_has_to_wait_for_the_lock(
    queue: OfflineQueue, make_result: MakeResult
) -> None:
    ask_about(queue, make_result(state=State.PROVISIONAL))
    with closing(sqlite3.connect(queue.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert queue.expire() == []
        with OfflineQueue(queue.path, boot="boot 1") as second:  # also to open takes none
            assert second.usage()["questions"].count == 1


def test_a_put_waits_in_short_steps_while_another_process_writes(
    queue: OfflineQueue, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []
    with closing(sqlite3.connect(queue.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        def wait(seconds: float) -> None:
            steps.append(seconds)
            if len(steps) == 30:
                other.execute("COMMIT")

        monkeypatch.setattr(database_module.time, "sleep", wait)
        assert queue.put(make_result()).seq == 1
    assert len(steps) == 30
    assert max(steps) <= 0.001


def test_close_may_be_called_twice_and_waits_for_nothing(
    tmp_path: Path, make_result: MakeResult
) -> None:
    queue = OfflineQueue(tmp_path / "q.db", routine_sync_s=NEVER_S)
    queue.put(make_result())
    queue.close()
    queue.close()
    wait_until(lambda: not queue._database._flusher.is_alive(), "the thread ended", most_s=1)


def test_a_flush_that_failed_is_tried_again(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OfflineQueue(tmp_path / "queue.sqlite", routine_sync_s=0.05) as queue:
        failures: list[int] = []

        def fail(descriptor: int) -> None:
            failures.append(descriptor)
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("os.fdatasync", fail)
            queue.put(make_result())
            wait_until(lambda: len(failures) >= 3, "three attempts")
        synced: list[int] = []
        monkeypatch.setattr("os.fdatasync", synced.append)
        wait_until(lambda: synced, "an attempt that went well")


def test_nobody_but_owner_and_group_may_read_what_waits(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    before = os.umask(0o022)
    try:
        with OfflineQueue(tmp_path / "queue.sqlite") as queue:
            queue.put(make_result(), np.zeros(50_000))
            modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"queue.sqlite", "queue.sqlite-wal", "queue.sqlite.payloads"} <= modes.keys()
    told = {name for name, mode in modes.items() if mode & 0o007}
    locks = {"queue.sqlite.open.lock", "queue.sqlite.use.lock"}
    assert told <= locks | {"queue.sqlite.health"}
