"""The cloud's two workers: store before the receipt, answer every question that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_disk import take_all_room

from edgeclin import batches, wire
from edgeclin.bundle import Bundle
from edgeclin.records import Result
from edgeclin.runtime import Runtime
from edgeclin.transport import MemoryBroker, MemoryTransport, Message

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

from edgeclin.cloud.ingest import Ingest
from edgeclin.cloud.offload import Offload
from edgeclin.cloud.store import Store

TOPICS = wire.Topics("ward", "bed")


class Device:
    """A device's end: what it hears, and a way to speak."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.heard: list[Message] = []
        self.transport: MemoryTransport = broker.transport()
        self.transport.open((TOPICS.receipt, TOPICS.opinion), self.heard.append)

    def say(self, topic: str, payload: bytes) -> None:
        self.transport.publish(Message(topic, payload, correlation=b"r"))


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


def encoded(make: Callable[..., Result], *seqs: int) -> bytes:
    items = tuple(
        batches.Item(seq, f"id-{seq}", "result", msgspec.Raw(msgspec.json.encode(make(seq))))
        for seq in seqs
    )
    return batches.encode(batches.Batch(epoch="e", items=items))


def test_a_receipt_comes_after_the_store_and_again_for_what_comes_again(
    broker: MemoryBroker, store: Store, make_result: Callable[..., Result]
) -> None:
    ingest = Ingest(store, broker.transport())
    ingest.open()
    device = Device(broker)
    for _ in range(2):
        device.say("ec/v1/ward/bed/up/routine", encoded(make_result, 1, 2, 5))
    receipts = [wire.decode(message.payload, wire.Receipt) for message in device.heard]
    assert receipts == [wire.Receipt(epoch="e", ranges=((1, 2), (5, 5)))] * 2
    assert (ingest.stored, ingest.duplicates) == (3, 3)
    assert len(store.tables()["result"]) == 3


def test_a_full_disk_is_an_alarm_without_a_receipt_until_there_is_room(
    broker: MemoryBroker,
    small_disk: Path,
    make_result: Callable[..., Result],
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Device(broker)

    def send(seq: int) -> list[tuple[tuple[int, int], ...]]:
        """The ranges of every receipt that came."""
        device.heard.clear()
        device.say("ec/v1/ward/bed/up/routine", encoded(make_result, seq))
        return [wire.decode(message.payload, wire.Receipt).ranges for message in device.heard]

    with closing(Store(small_disk)) as store:
        worker = Ingest(store, broker.transport())
        worker.open()
        assert send(1) == [((1, 1),)]
        ballast = take_all_room(small_disk)
        last = next(seq for seq in range(2, 10_000) if not send(seq))
        assert worker.failed == 1
        assert "ALARM: a message on ec/v1/ward/bed/up/routine was not stored" in caplog.text
        worker.compact()
        assert "ALARM: nothing was compacted" in caplog.text
        ballast.unlink()
        assert send(last) == [((last, last),)]
        worker.compact()
        stored = [row["seq"] for row in store.tables()["result"].to_pylist()]
    assert sorted(stored) == list(range(1, last + 1))


@pytest.mark.parametrize("payload", [b"", b"x" * 99, wire.encode(wire.Status("online", 1.0))])
def test_what_is_no_batch_is_counted_and_the_next_one_is_stored(
    broker: MemoryBroker, store: Store, make_result: Callable[..., Result], payload: bytes
) -> None:
    ingest = Ingest(store, broker.transport())
    ingest.open()
    device = Device(broker)
    device.say("ec/v1/ward/bed/up/routine", payload)
    device.say("ec/v1/ward/bed/up/routine", encoded(make_result, 1))
    assert (ingest.refused, ingest.stored) == (1, 1)


@pytest.mark.parametrize(
    "topic",
    [
        "ec/v1/../bed/up/routine",
        "ec/v1/ward/b d/up/routine",
        f"ec/v1/{'w' * 65}/bed/up/routine",
        "ec/v1//bed/up/routine",
        "ec/v2/ward/bed/up/routine",
    ],
)
def test_a_site_or_device_that_no_folder_can_be_named_for_is_refused(
    broker: MemoryBroker, store: Store, make_result: Callable[..., Result], topic: str
) -> None:
    ingest = Ingest(store, broker.transport())
    ingest.handle(Message(topic, encoded(make_result, 1)))
    assert (ingest.refused, ingest.stored) == (1, 0)
    assert len(store.tables()["result"]) == 0


def test_a_sequence_number_that_no_database_holds_stops_nothing_else(
    broker: MemoryBroker, store: Store, make_result: Callable[..., Result]
) -> None:
    ingest = Ingest(store, broker.transport())
    ingest.open()
    device = Device(broker)
    device.say("ec/v1/ward/bed/up/routine", encoded(make_result, 2**70))
    assert device.heard == []
    device.say("ec/v1/ward/bed/up/routine", encoded(make_result, 1))
    assert len(device.heard) == 1
    assert len(store.tables()["result"]) == 1


def test_several_workers_share_the_batches_and_each_is_receipted(
    broker: MemoryBroker, store: Store, make_result: Callable[..., Result]
) -> None:
    workers = [Ingest(store, broker.transport()) for _ in range(2)]
    for worker in workers:
        worker.open()
    device = Device(broker)
    for _ in range(2):
        for seq in range(10):
            device.say("ec/v1/ward/bed/up/routine", encoded(make_result, seq))
    assert len(device.heard) == 20
    assert sum(worker.stored for worker in workers) == 10
    assert sum(worker.duplicates for worker in workers) == 10
    assert all(worker.stored + worker.duplicates == 10 for worker in workers)
    assert len(store.tables()["result"]) == 10


def test_a_status_is_kept_and_answered_with_nothing(broker: MemoryBroker, store: Store) -> None:
    Ingest(store, broker.transport()).open()
    device = Device(broker)
    device.say(TOPICS.state, wire.encode(wire.Status("online", 1.0)))
    assert [row[2] for row in store.statuses()] == ["st/state"]
    assert device.heard == []


def test_a_device_fills_no_store_with_statuses_of_its_own_making(
    broker: MemoryBroker, store: Store
) -> None:
    ingest = Ingest(store, broker.transport())
    ingest.open()
    device = Device(broker)
    topics = ["birth", "state", "health", *(f"x{number}" for number in range(5))]
    for topic in topics:
        device.say(f"ec/v1/ward/bed/st/{topic}", wire.encode(wire.Status("online", 1.0)))
    assert {row[2] for row in store.statuses()} == {"st/birth", "st/state", "st/health"}
    assert ingest.refused == 5


def ask(sample: np.ndarray) -> bytes:
    return wire.encode(wire.Ask(result="r", model="m", input=wire.to_array(sample)))


def test_an_opinion_is_the_larger_model_s_own_answer(
    broker: MemoryBroker, bundle: Bundle, beats: np.ndarray
) -> None:
    runtime = Runtime(bundle)
    offload = Offload(runtime, broker.transport())
    offload.open()
    device = Device(broker)
    for beat in beats[:5]:
        device.say(TOPICS.ask, ask(beat))
        message = device.heard[-1]
        opinion = wire.decode(message.payload, wire.Opinion)
        assert message.correlation == b"r"
        assert opinion.label == runtime.predict(beat).label
        assert (opinion.result, opinion.model) == ("r", bundle.digest)
    assert offload.answered == 5


def test_a_sample_that_cannot_be_judged_is_answered_with_that(
    broker: MemoryBroker, bundle: Bundle
) -> None:
    Offload(Runtime(bundle), broker.transport()).open()
    device = Device(broker)
    device.say(TOPICS.ask, ask(np.full(140, np.nan, np.float32)))
    opinion = wire.decode(device.heard[0].payload, wire.Opinion)
    assert opinion.label is None
    assert "not finite" in opinion.reason


def test_a_question_that_cannot_be_read_is_counted(broker: MemoryBroker, bundle: Bundle) -> None:
    offload = Offload(Runtime(bundle), broker.transport())
    offload.open()
    device = Device(broker)
    device.say(TOPICS.ask, b"nonsense")
    bad = wire.Array(dtype="<f4", shape=(3,), data="AAAA")
    device.say(TOPICS.ask, wire.encode(wire.Ask(result="r", model="m", input=bad)))
    assert (offload.refused, offload.answered) == (2, 0)
