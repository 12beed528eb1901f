"""The agent sends a large question in parts, and goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeclin import batches, wire
from edgeclin.cloud.inputs import Inputs
from edgeclin.config import SyncConfig
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, State, Tier
from edgeclin.sync import SyncAgent
from edgeclin.sync.uploading import PART_BYTES
from edgeclin.transport import AROUND, MemoryBroker, MemoryTransport, Message, Refusal

TOPICS = wire.Topics("ward", "bed")
SAMPLE = np.random.default_rng(1).integers(0, 256, 600_000, np.uint8)
SMALL = np.arange(9, dtype=np.float32)
Make = Callable[..., Result]


class Ward:
    """An agent whose clock a test moves, and a cloud that keeps parts or does not."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self._folder = folder
        self.broker = MemoryBroker()
        self.inputs = Inputs(folder / "store")
        self.queue = OfflineQueue(folder / "q.sqlite", uptime=lambda: self.now, boot="this")
        self.seen: list[Message] = []
        self.keeps = True
        self.cloud = self.broker.transport()
        self.cloud.open(("ec/v1/+/+/ask/+", "ec/v1/+/+/up/+"), self._hear)
        self.start()

    def start(self) -> None:
        """Another process of the agent."""
        self.transport: MemoryTransport = self.broker.transport()
        self.agent = SyncAgent(
            self.queue,
            self.transport,
            TOPICS,
            SyncConfig(receipt_timeout_s=5),
            monotonic=lambda: self.now,
            jitter=lambda bound: bound,
        )
        self.agent.open()

    def _hear(self, message: Message) -> None:
        self.seen.append(message)
        if message.topic == TOPICS.part and self.keeps:
            part = wire.decode(message.payload, wire.Part)
            kept = self.inputs.add(TOPICS, part)
            self.cloud.publish(Message(TOPICS.kept, wire.encode(kept)))
        elif "/up/" in message.topic:
            batch = batches.decode(message.payload)
            stored = wire.Receipt(batch.epoch, wire.ranges(item.seq for item in batch.items))
            self.cloud.publish(Message(TOPICS.receipt, wire.encode(stored)))

    def step(self, times: int = 1, seconds: float = 0.0) -> None:
        for _ in range(times):
            self.now += seconds
            self.agent.step()

    def parts(self) -> list[wire.Part]:
        own = [one for one in self.seen if one.topic == TOPICS.part]
        return [wire.decode(one.payload, wire.Part) for one in own]

    def wholes(self) -> list[wire.AskWhole]:
        own = [one for one in self.seen if one.topic == TOPICS.whole]
        return [wire.decode(one.payload, wire.AskWhole) for one in own]

    def ask(self, make_result: Make, position: int = 0, sample: np.ndarray = SAMPLE) -> str:
        result = make_result(position, state=State.PROVISIONAL)
        return self.queue.put(result, sample, deadline_s=600.0).id

    def answer(self, result: str) -> None:
        opinion = wire.Opinion(result=result, model="m", label="abnormal", confidence=0.9)
        self.cloud.publish(Message(TOPICS.opinion, wire.encode(opinion)))


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = Ward(tmp_path)
    yield made
    made.queue.close()
    made.inputs.close()


def test_a_large_question_travels_in_parts_below_128_kib(ward: Ward, make_result: Make) -> None:
    identity = ward.ask(make_result)
    (question,) = ward.queue.questions()
    ward.step(200)
    assert len(ward.parts()) >= len(question.ask) / PART_BYTES
    assert all(len(message.payload) <= 128 << 10 for message in ward.seen)
    assert all(message.expiry_s for message in ward.seen if message.topic == TOPICS.part)
    (asked,) = ward.wholes()
    assert asked.result == identity
    assert ward.inputs.read(TOPICS, asked.whole) == question.ask
    ward.answer(identity)
    ward.step(3)
    assert ward.queue.questions() == []
    assert ward.agent.opinions == 1


def test_after_a_restart_no_part_that_is_stored_is_sent_again_but_the_first(
    ward: Ward, make_result: Make
) -> None:
    ward.ask(make_result)
    while len(ward.parts()) < 3:
        ward.step()
    before = sum(len(part.data) for part in ward.parts())
    ward.transport.close()
    ward.start()
    ward.step(200)
    assert len(ward.wholes()) == 1
    first = next(part for part in ward.parts()[3:] if part.at == 0)
    again = sum(len(part.data) for part in ward.parts()[3:])
    assert again == ward.parts()[0].size - before + len(first.data)


def test_what_nobody_receipts_is_sent_again_after_the_timeout(
    ward: Ward, make_result: Make
) -> None:
    ward.ask(make_result)
    ward.keeps = False
    ward.step(5)
    assert [part.at for part in ward.parts()] == [0], "the first goes alone"
    ward.step(5, seconds=0.9)
    assert len(ward.parts()) == 1
    ward.keeps = True
    ward.step(seconds=0.6)
    ward.step(200)
    assert [part.at for part in ward.parts()[:2]] == [0, 0]
    assert len(ward.wholes()) == 1


def test_small_questions_and_rows_go_between_parts(ward: Ward, make_result: Make) -> None:
    large = ward.ask(make_result)
    ward.step(2)
    assert len(ward.wholes()) == 0
    small = ward.ask(make_result, 1, SMALL)
    ward.queue.put(make_result(2, tier=Tier.URGENT))
    ward.seen.clear()
    ward.step()
    topics = [message.topic for message in ward.seen]
    assert topics[0] == TOPICS.up(Tier.URGENT)
    asked = [wire.decode(m.payload, wire.Ask) for m in ward.seen if m.topic == TOPICS.ask]
    assert [one.result for one in asked] == [small]
    ward.step(200)
    assert [one.result for one in ward.wholes()] == [large]


def test_one_after_the_other_and_one_without_an_answer_is_asked_after_the_others(
    ward: Ward, make_result: Make
) -> None:
    one, two, three = (ward.ask(make_result, position) for position in range(3))
    ward.step(200)
    assert [asked.result for asked in ward.wholes()] == [one]
    ward.step(seconds=5.1)
    ward.step(200)
    assert [asked.result for asked in ward.wholes()] == [one, two]
    ward.answer(two)
    ward.step(200)
    assert [asked.result for asked in ward.wholes()] == [one, two, three]
    ward.answer(three)
    ward.step(200)
    assert [asked.result for asked in ward.wholes()] == [one, two, three, one]


def test_a_cloud_that_lost_it_gets_it_anew_but_not_at_once(ward: Ward, make_result: Make) -> None:
    ward.ask(make_result)
    ward.step(200)
    (asked,) = ward.wholes()
    ward.inputs.answered(TOPICS, asked.whole)
    with ward.inputs._database.transaction() as db:
        db.execute("DELETE FROM wholes")
    ward.seen.clear()
    gone = wire.Kept(asked.whole, (), "it is not kept here")
    ward.cloud.publish(Message(TOPICS.kept, wire.encode(gone)))
    ward.step(4, seconds=1.0)
    assert ward.parts() == []
    ward.step(seconds=2.1)
    ward.step(200)
    assert sum(len(part.data) for part in ward.parts()) == ward.parts()[0].size
    assert len(ward.wholes()) == 1


def test_a_question_whose_time_is_over_is_sent_no_further(ward: Ward, make_result: Make) -> None:
    ward.ask(make_result)
    ward.step(2)
    ward.seen.clear()
    ward.step(1, seconds=601.0)
    ward.step(10, seconds=1.0)
    assert ward.parts() == ward.wholes() == []
    assert ward.agent.idle or ward.queue.questions() == []
    assert not ward.agent._asking.outstanding


@pytest.mark.parametrize("most", [2_000, 5_000, 50_000])
def test_no_part_is_larger_than_the_broker_takes(ward: Ward, make_result: Make, most: int) -> None:
    ward.transport.most_bytes = most
    ward.ask(make_result, sample=SAMPLE[:60_000])
    ward.step(200)
    assert max(len(message.payload) for message in ward.seen) + AROUND <= most
    assert len(ward.wholes()) == 1


def test_a_broker_that_takes_not_even_parts_is_told(
    ward: Ward, make_result: Make, caplog: pytest.LogCaptureFixture
) -> None:
    ward.transport.most_bytes = 1_500
    ward.ask(make_result)
    ward.step(9)
    assert "ALARM: no opinion can be asked about row 1" in caplog.text
    assert caplog.text.count("are too large") == 1
    assert ward.parts() == []


def end_connection(ward: Ward) -> None:
    """As a broker does that does not like what was sent, without saying what."""
    ward.agent._receive(Refusal(None, 0x95, "packet too large"))
    ward.transport.cut()
    ward.step(2)
    ward.transport.mend()
    ward.step(2)


def test_one_that_ends_connections_is_given_up_and_all_else_goes_on(
    ward: Ward, make_result: Make, caplog: pytest.LogCaptureFixture
) -> None:
    ward.keeps = False
    ward.ask(make_result)
    small = ward.ask(make_result, 1, SMALL)
    for _ in range(60):
        sent = len(ward.parts())
        ward.step(seconds=0.5)
        if len(ward.parts()) > sent:
            end_connection(ward)
    assert "ALARM: no opinion can be asked about row 1" in caplog.text
    asked = [wire.decode(m.payload, wire.Ask) for m in ward.seen if m.topic == TOPICS.ask]
    assert {one.result for one in asked} == {small}
    ward.queue.put(make_result(2))
    ward.step(9, seconds=1.1)
    assert ward.queue.usage()["routine"].count == 0


def test_one_is_not_to_blame_of_which_nothing_was_on_its_way(ward: Ward, make_result: Make) -> None:
    ward.ask(make_result)
    while len(ward.parts()) < 3:
        ward.step()
    kept = ward.agent._asking._upload
    assert kept is not None
    ward.keeps = False
    kept.clear()
    assert ward.agent._asking.outstanding == set()
    end_connection(ward)
    ward.keeps = True
    ward.step(200)
    ward.step(20, seconds=1.1)
    ward.step(200)
    assert len(ward.wholes()) >= 1
