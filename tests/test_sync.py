"""The agent against a scripted cloud: nothing is deleted early, nothing lost, urgent goes first."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polling import wait_until

from edgeclin import batches, wire
from edgeclin.config import SyncConfig
from edgeclin.errors import QueueFull
from edgeclin.health import RunHealth
from edgeclin.offline_queue import NO_KEYS, Keyring, OfflineQueue, Row, waiting
from edgeclin.records import Result, Review, State, Tier
from edgeclin.sync import SyncAgent
from edgeclin.sync.window import Flight, SendWindow
from edgeclin.transport import MemoryBroker, MemoryTransport, Message

TOPICS = wire.Topics("ward", "bed")
SETTINGS = SyncConfig(
    batch_results=8,
    batch_bytes=100_000,
    window_batches=3,
    receipt_timeout_s=5,
    receipt_most_s=40,
)
Make = Callable[..., Result]


class Device:
    """An agent with its queue, whose clocks a test moves."""

    def __init__(
        self,
        folder: Path,
        settings: SyncConfig = SETTINGS,
        keyring: Keyring = NO_KEYS,
        spare_bytes: int = 0,
    ) -> None:
        self.now = 100.0
        self.broker = MemoryBroker()
        self.queue = OfflineQueue(
            folder / "queue.sqlite",
            uptime=lambda: self.now,
            boot="this",
            clock=lambda: 1e9,
            spare_bytes=spare_bytes,
            keyring=keyring,
        )
        self.transport = self.broker.transport()
        self.agent = SyncAgent(
            self.queue,
            self.transport,
            TOPICS,
            settings,
            monotonic=lambda: self.now,
            jitter=lambda bound: bound,
        )
        self.cloud = self.broker.transport()
        self.seen: list[Message] = []
        self.cloud.open(("ec/v1/+/+/up/+", "ec/v1/+/+/ask/+", "ec/v1/+/+/st/+"), self.seen.append)
        self.agent.open()

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.agent.step()

    def batches(self) -> list[tuple[Tier, batches.Batch]]:
        """Every batch so far, in order."""
        return [
            (Tier(message.topic.rsplit("/", 1)[1]), batches.decode(message.payload))
            for message in self.seen
            if "/up/" in message.topic
        ]

    def receipt(self, *ranges: tuple[int, int], epoch: str | None = None) -> None:
        message = wire.Receipt(epoch=epoch or self.queue.epoch, ranges=ranges)
        self.cloud.publish(Message(TOPICS.receipt, wire.encode(message)))

    def opinion(self, result: str, label: str | None) -> None:
        message = wire.Opinion(result=result, model="m", label=label, confidence=0.9)
        self.cloud.publish(Message(TOPICS.opinion, wire.encode(message)))

    def waiting(self) -> int:
        return sum(self.queue.usage()[tier.value].count for tier in Tier)

    def reviews(self) -> list[Review]:
        rows = [row for tier in Tier for row in self.queue.pending(tier, limit=1000)]
        return [msgspec.json.decode(r.body, type=Review) for r in rows if r.kind == "review"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.queue.close()


def test_a_row_goes_on_the_receipt_and_not_on_the_publish(
    device: Device, make_result: Make
) -> None:
    for position in range(3):
        device.queue.put(make_result(position))
    device.step()
    assert [item.seq for _, batch in device.batches() for item in batch.items] == [1, 2, 3]
    assert device.waiting() == 3
    device.receipt((1, 2))
    device.step()
    assert device.waiting() == 1
    assert device.agent.delivered == 2


def test_what_nobody_receipts_is_sent_again_after_the_timeout(
    device: Device, make_result: Make
) -> None:
    for position in range(4):
        device.queue.put(make_result(position))
    device.step()
    device.receipt((1, 1), (3, 3))
    device.step(4.9)
    assert len(device.batches()) == 1
    device.step(0.2)
    device.step()
    assert [item.seq for item in device.batches()[1][1].items] == [2, 4]


def test_a_batch_that_lacks_its_receipt_while_others_get_theirs_is_sent_again(
    device: Device, make_result: Make
) -> None:
    for position in range(16):
        device.queue.put(make_result(position))
    device.step()
    device.step(2)
    device.receipt((9, 16))
    device.step()
    device.step(3)
    assert [item.seq for item in device.batches()[2][1].items] == list(range(1, 9))
    assert device.transport.sessions == 1, "the link is not silent"


def test_a_silent_link_is_made_anew_and_each_time_waited_for_twice_as_long(
    device: Device, make_result: Make, caplog: pytest.LogCaptureFixture
) -> None:
    device.queue.put(make_result())
    device.step()
    sessions = []
    for wait in (5.0, 10.0, 20.0, 40.0, 40.0):
        device.step(wait - 0.1)
        sessions.append(device.transport.sessions)
        device.step(0.1)
        device.step()
    assert sessions == [1, 2, 3, 4, 5], "not before it was waited for so long"
    assert device.transport.sessions == 6
    assert len(device.batches()) == 6, "sent once in each session"
    assert caplog.text.count("the cloud says nothing: connecting anew") == 5
    device.receipt((1, 1))
    device.queue.put(make_result(1))
    device.step()
    device.step(5.0)
    assert device.transport.sessions == 7, "after a receipt it is as at first"


def refuse(device: Device, code: int, told: Callable[[batches.Batch], bool]) -> None:
    """Have the broker refuse batches of which that is true."""

    def refuses(message: Message) -> int:
        if "/up/" not in message.topic:
            return 0
        return code if told(batches.decode(message.payload)) else 0

    device.transport.refuses = refuses


def take_in(device: Device, took: Callable[[batches.Batch], bool] = lambda _: True) -> None:
    """Have the cloud receipt batches of which that is true, a whole batch or none of it."""

    def receipt(message: Message) -> None:
        if "/up/" in message.topic:
            batch = batches.decode(message.payload)
            if took(batch):
                device.receipt(*wire.ranges([item.seq for item in batch.items]))

    device.broker.transport().open(("ec/v1/+/+/up/+",), receipt)


def set_aside(device: Device) -> dict[int, str]:
    rows = waiting(device.queue.path)
    return {one.row.seq: one.set_aside for one in rows if one.set_aside}


@pytest.mark.parametrize("code", [0x95, 0x99])
def test_a_row_that_the_broker_never_takes_is_found_and_set_aside_and_the_others_go(
    device: Device, make_result: Make, code: int
) -> None:
    for position in range(20):
        device.queue.put(make_result(position))
    refuse(device, code, lambda batch: any(item.seq in (3, 11) for item in batch.items))
    take_in(device)
    for _ in range(8):
        device.step(0.1)
    assert device.waiting() == 2
    assert set(set_aside(device)) == {3, 11}
    assert set(set_aside(device).values()) == {f"the broker refuses it: refused by {code:#x}"}
    assert device.agent.idle, "nothing waits that could be sent"
    device.step(1000)
    assert {item.seq for _, batch in device.batches()[-1:] for item in batch.items} != {3, 11}


def test_what_was_set_aside_is_tried_again_by_the_next_agent(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result())
    device.queue.set_aside(1, "the broker refuses it")
    device.step()
    assert not device.batches()
    assert device.agent.idle
    take_in(device)
    again = SyncAgent(device.queue, device.broker.transport(), TOPICS, SETTINGS)
    again.open()
    again.step()
    again.step()
    assert device.waiting() == 0


@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x97])
def test_a_tier_that_the_broker_does_not_take_now_waits_longer_each_time_and_others_go_on(
    device: Device, make_result: Make, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    refused: list[float] = []

    def routine(batch: batches.Batch) -> bool:
        tiers = {json.loads(bytes(item.body))["tier"] for item in batch.items}
        if tiers == {"routine"}:
            refused.append(device.now)
        return tiers == {"routine"}

    refuse(device, code, routine)
    take_in(device, lambda _: False)
    for position in range(40):
        device.queue.put(make_result(position))
    for _ in range(400):
        device.step(0.25)
        if len(refused) == 2 * 6:
            break
    device.queue.put(make_result(40, tier=Tier.URGENT))
    device.step()
    waits = [round(b - a) for a, b in zip(refused[1::2], refused[2::2], strict=False)]
    assert waits == [2, 4, 8, 16, 32], "both of a window were on their way together"
    assert device.batches()[-1][0] is Tier.URGENT
    assert device.agent.health().refused == (f"{TOPICS.up(Tier.ROUTINE)}: refused by {code:#x}",)
    assert f"ALARM: the broker refuses what is sent on {TOPICS.up(Tier.ROUTINE)}" in caplog.text
    device.transport.refuses = lambda _: 0
    take_in(device)
    for _ in range(60):
        device.step(1.0)
    assert device.waiting() == 0
    assert device.agent.health().refused == ()
    assert not set_aside(device)


def test_a_batch_larger_than_the_broker_takes_goes_in_parts_and_a_row_alone_is_set_aside(
    device: Device, make_result: Make
) -> None:
    noise = random.Random(1)
    for position in range(6):
        size = 3000 if position == 4 else 300
        device.queue.put(make_result(position, reason=noise.randbytes(size).hex()))
    device.transport.most_bytes = 2000
    take_in(device)
    for _ in range(4):
        device.step(0.1)
    assert all(len(message.payload) + 256 <= 2000 for message in device.seen)
    (why,) = set_aside(device).values()
    assert set(set_aside(device)) == {5}
    assert "is too large: the broker takes 2000" in why
    assert device.waiting() == 1


def test_a_row_that_the_cloud_never_receipts_is_found_while_others_are(
    device: Device, make_result: Make
) -> None:
    take_in(device, lambda batch: all(item.seq != 3 for item in batch.items))
    for position in range(8):
        device.queue.put(make_result(position))
    for position in range(8, 108):
        device.step(1.0)
        device.queue.put(make_result(position))
    device.step(1.0)
    device.step()
    (why,) = set_aside(device).values()
    assert set(set_aside(device)) == {3}
    assert "times, while others got theirs" in why
    assert device.waiting() == 1
    assert device.transport.sessions == 1


def test_a_slow_cloud_costs_no_row_its_way(
    tmp_path: Path, make_result: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Each receipt comes after 22 s, of 5 that it may take."""
    device = Device(tmp_path, msgspec.structs.replace(SETTINGS, window_batches=50))
    due: list[tuple[float, batches.Batch]] = []

    def later(message: Message) -> None:
        if "/up/" in message.topic:
            due.append((device.now + 22, batches.decode(message.payload)))

    device.broker.transport().open(("ec/v1/+/+/up/+",), later)
    for position in range(100):
        device.queue.put(make_result(position))
        device.step(1.0)
        while due and due[0][0] <= device.now:
            batch = due.pop(0)[1]
            device.receipt(*wire.ranges([item.seq for item in batch.items]))
    for _ in range(200):
        device.step(1.0)
        while due and due[0][0] <= device.now:
            batch = due.pop(0)[1]
            device.receipt(*wire.ranges([item.seq for item in batch.items]))
    assert device.waiting() == 0
    assert "is set aside" not in caplog.text
    sent = sum(len(batch.items) for _, batch in device.batches())
    assert sent < 200, "once it is known how long it takes, nothing is sent twice"
    device.queue.close()


def test_a_damaged_row_spoils_no_batch(device: Device, make_result: Make) -> None:
    for position in range(5):
        device.queue.put(make_result(position))
    for seq, change in ((1, "body = CAST('{' || body AS BLOB)"), (2, "kind = 'resulu'"),
                        (3, "body = x'ff'")):  # fmt: skip
        with closing(sqlite3.connect(device.queue.path)) as connection, connection:
            connection.execute(f"UPDATE rows SET {change} WHERE seq = {seq}")
    take_in(device)
    device.step()
    device.step()
    assert device.waiting() == 3
    assert set(set_aside(device)) == {1, 2, 3}


@pytest.mark.parametrize("poison", [(), (1,), (3, 11, 40), tuple(range(1, 41))])
def test_rows_that_end_connections_are_found_and_set_aside_and_the_others_go(
    device: Device, make_result: Make, poison: tuple[int, ...]
) -> None:
    for position in range(40):
        device.queue.put(make_result(position))

    def ends(message: Message) -> bool:
        if "/up/" not in message.topic:
            return False
        batch = batches.decode(message.payload)
        return any(item.seq in poison for item in batch.items)

    device.transport.ends = ends
    take_in(device)
    for _ in range(1000):
        device.step(1.0)
        if not device.transport.connected:
            device.step(0.1)
            device.transport.mend()
    assert tuple(sorted(set_aside(device))) == poison
    assert device.waiting() == len(poison)
    assert device.agent.idle


def test_a_question_that_ends_connections_is_given_up_and_rows_go(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result(state=State.PROVISIONAL), np.zeros(9), deadline_s=1000)
    for position in range(1, 20):
        device.queue.put(make_result(position))
    device.transport.ends = lambda message: message.topic == TOPICS.ask
    take_in(device)
    for _ in range(60):
        device.step(0.1)
        if not device.transport.connected:
            device.transport.mend()
    assert device.waiting() == 0
    assert device.transport.sessions < 10


def test_a_single_end_of_a_connection_sets_nothing_aside(device: Device, make_result: Make) -> None:
    once = iter([True])
    device.transport.ends = lambda message: "/up/" in message.topic and next(once, False)
    device.queue.put(make_result(tier=Tier.URGENT))
    take_in(device)
    device.step()
    assert not device.transport.connected
    device.transport.mend()
    for _ in range(5):
        device.step(1.0)
    assert device.waiting() == 0


def test_urgent_rows_go_while_suspects_and_questions_wait(
    device: Device, make_result: Make
) -> None:
    """Nobody answers the questions, and one row ends each connection that it is sent over."""
    device.transport.ends = lambda message: (
        "/up/" in message.topic
        and any(item.seq == 1 for item in batches.decode(message.payload).items)
    )
    take_in(device)
    device.queue.put(make_result(0))
    for position in range(1, 120):
        if position % 4 == 0:
            doubtful = make_result(position, state=State.PROVISIONAL)
            device.queue.put(doubtful, np.zeros(9), deadline_s=1000)
        device.queue.put(make_result(1000 + position, tier=Tier.URGENT))
        for _ in range(10):
            device.step(1.0)
            if not device.transport.connected:
                device.transport.mend()
        assert device.queue.usage()["urgent"].count == 0, position
    assert set(set_aside(device)) == {1}


@pytest.mark.parametrize("opinions", [False, True], ids=["silent", "with opinions"])
def test_rows_that_the_cloud_cannot_read_hold_up_no_others_though_each_batch_has_one(
    device: Device, make_result: Make, opinions: bool
) -> None:
    poison = {3, 11, 19, 27, 35}
    take_in(device, lambda batch: not poison & {item.seq for item in batch.items})
    for position in range(40):
        device.queue.put(make_result(position))
    for _ in range(3400):
        device.step(1.0)
        if opinions and device.now % 3 == 0:
            device.opinion("of another", "normal")
    waits = {one.row.seq for one in waiting(device.queue.path)}
    assert waits == poison


def test_what_was_set_aside_is_tried_again_after_an_hour(device: Device, make_result: Make) -> None:
    device.queue.put(make_result())
    device.queue.set_aside(1, "the cloud was half away")
    take_in(device)
    device.step(3500)
    assert device.waiting() == 1
    device.step(200)
    device.step()
    device.step()
    assert device.waiting() == 0


def test_a_tier_waits_longer_each_time_though_another_is_taken(
    device: Device, make_result: Make
) -> None:
    refused: list[float] = []

    def refuses(message: Message) -> int:
        if message.topic != TOPICS.up(Tier.ROUTINE):
            return 0
        refused.append(device.now)
        return 0x87

    device.transport.refuses = refuses
    take_in(device)
    device.queue.put(make_result())
    for position in range(120):
        device.queue.put(make_result(position, tier=Tier.URGENT))
        device.step(1.0)
    assert len(refused) < 8


def test_a_link_that_breaks_after_a_refusal_ends_nothing(device: Device, make_result: Make) -> None:
    for position in range(4):
        device.queue.put(make_result(position))
    refuse(device, 0x95, lambda _: True)
    device.step()
    device.transport.cut()
    device.step()
    device.transport.refuses = lambda _: 0
    device.transport.mend()
    take_in(device)
    device.step()
    device.step()
    assert device.waiting() == 0


def test_a_status_that_is_too_large_goes_without_what_run_said(device: Device) -> None:
    alarms = tuple(f"failed: {random.Random(n).randbytes(20).hex()}" for n in range(99))
    told = RunHealth(made_at=1.0, up_s=1.0, bundle="b", engine="e", alarms=alarms)
    device.queue.notices.tell(told)
    for most, full in ((None, True), (1500, False)):
        device.transport.most_bytes = most
        device.step(10)
        last = [message for message in device.seen if message.topic == TOPICS.health][-1]
        assert (wire.decode(last.payload, wire.Status).run is not None) == full
        assert most is None or len(last.payload) < most


@pytest.mark.parametrize(("code", "times"), [(0x95, 1), (0x87, 3)])
def test_a_question_that_the_broker_refuses_is_given_up_or_asked_later(
    device: Device, make_result: Make, code: int, times: int
) -> None:
    refused: list[float] = []

    def refuses(message: Message) -> int:
        if message.topic != TOPICS.ask:
            return 0
        refused.append(device.now)
        return code

    device.transport.refuses = refuses
    device.queue.put(make_result(state=State.PROVISIONAL), np.zeros(9), deadline_s=1000)
    take_in(device)
    for _ in range(28):
        device.step(0.5)
    assert len(refused) == times


def test_how_long_no_receipt_came_is_told(device: Device, make_result: Make) -> None:
    device.step(1000)
    device.queue.put(make_result())
    device.step()
    device.step(4.9)
    assert device.agent.health().silent_s == 0.0
    device.step(0.1)
    device.step(2)
    assert device.agent.health().silent_s == pytest.approx(7)
    device.transport.cut()
    device.step(3)
    device.transport.mend()
    device.step()
    assert device.agent.health().silent_s == pytest.approx(10)
    device.receipt((1, 1))
    device.step()
    assert device.agent.health().silent_s == 0.0


def test_what_was_on_its_way_is_sent_again_after_a_reconnect(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result())
    device.step()
    device.transport.cut()
    device.step()
    device.transport.mend()
    device.step()
    first, second = device.batches()
    assert first[1].items[0].id == second[1].items[0].id


def test_a_cut_link_stops_nothing_but_sending(device: Device, make_result: Make) -> None:
    device.transport.cut()
    device.queue.put(make_result())
    device.step()
    assert not device.batches()
    assert device.waiting() == 1


@pytest.mark.parametrize("ranges", [((1, 1), (1, 1)), ((7, 9),), ((5, 4),)])
def test_receipts_twice_or_for_unknown_rows_do_no_harm(
    device: Device, make_result: Make, ranges: tuple[tuple[int, int], ...]
) -> None:
    device.queue.put(make_result(0))
    device.queue.put(make_result(1))
    device.step()
    for _ in range(2):
        device.receipt(*ranges)
        device.step()
    assert device.waiting() == (1 if ranges[0] == (1, 1) else 2)


def test_a_receipt_for_another_epoch_deletes_nothing(device: Device, make_result: Make) -> None:
    device.queue.put(make_result())
    device.step()
    device.receipt((1, 1), epoch="another")
    device.step()
    assert device.waiting() == 1


@pytest.mark.parametrize("topic", [TOPICS.receipt, TOPICS.opinion])
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        wire.encode(wire.Status("online", 1.0)),
        wire.encode(wire.Receipt(epoch="e", ranges=((1, 9),)))[:-3],
    ],
)
def test_garbage_from_the_cloud_is_ignored(
    device: Device, make_result: Make, topic: str, payload: bytes
) -> None:
    device.queue.put(make_result())
    device.step()
    device.cloud.publish(Message(topic, payload))
    device.step()
    assert device.waiting() == 1


def test_a_receipt_with_numbers_beyond_all_rows_deletes_those_there_are(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result())
    device.step()
    device.receipt((2**80, 2**90))
    device.step()
    assert device.waiting() == 1
    device.receipt((-(2**80), 2**80))
    device.step()
    assert device.waiting() == 0


def test_receipts_in_any_order_free_the_window(device: Device, make_result: Make) -> None:
    for position in range(24):
        device.queue.put(make_result(position))
    device.step()
    assert len(device.batches()) == 2
    device.receipt((9, 16))
    device.step()
    assert len(device.batches()) == 3, "the second batch was receipted first"
    device.receipt((1, 8), (17, 24))
    device.step()
    assert device.agent.idle


def test_a_full_disk_stops_neither_sending_nor_what_comes_after(
    device: Device, make_result: Make, caplog: pytest.LogCaptureFixture
) -> None:
    remove = device.queue.remove
    expire = device.queue.expire

    def full(*_: object) -> int:
        raise QueueFull("the disk is full")

    device.queue.put(make_result(0))
    device.step()
    device.queue.remove = full  # type: ignore[method-assign]
    device.queue.expire = full  # type: ignore[method-assign,assignment]
    device.queue.put(make_result(1))
    device.receipt((1, 1))
    device.step(1)
    assert "ALARM: the disk is full" in caplog.text
    assert len(device.batches()) == 2, "the second result was sent all the same"
    device.queue.remove = remove  # type: ignore[method-assign]
    device.queue.expire = expire  # type: ignore[method-assign]
    device.step(4.5)
    assert [item.seq for item in device.batches()[2][1].items] == [1], "the receipt was lost"
    device.receipt((1, 2))
    device.step()
    assert device.agent.idle


def test_sending_again_reads_only_the_rows_of_the_batch(device: Device, make_result: Make) -> None:
    """A batch may hold the oldest rows of a long backlog and the newest row of all."""
    for position in range(500):
        device.queue.put(make_result(position))
    device.step()
    device.receipt((1, 8))
    live = device.queue.put(make_result(500)).seq
    device.step()
    mixed = [item.seq for item in device.batches()[2][1].items]
    assert mixed == [*range(17, 24), live]
    device.step(3)
    device.receipt((9, 16))
    device.step()
    read: list[Row] = []
    pending = device.queue.pending

    def counting(*arguments: Any, **named: Any) -> list[Row]:
        rows = pending(*arguments, **named)
        read.extend(rows)
        return rows

    device.queue.pending = counting  # type: ignore[method-assign]
    device.step(3)
    resent = [[item.seq for item in batch.items] for _, batch in device.batches()[3:]]
    assert mixed in resent
    assert len(read) <= 4 * SETTINGS.batch_results


def test_urgent_goes_before_routine_before_bulk(device: Device, make_result: Make) -> None:
    for tier in (Tier.BULK, Tier.ROUTINE, Tier.URGENT):
        for position in range(3):
            device.queue.put(make_result(position, tier=tier))
    device.step()
    device.receipt((4, 9))
    device.step()
    assert [tier for tier, _ in device.batches()] == [Tier.URGENT, Tier.ROUTINE, Tier.BULK]


def test_live_results_go_before_the_backlog(device: Device, make_result: Make) -> None:
    for position in range(100):
        device.queue.put(make_result(position))
    device.step()
    live = device.queue.put(make_result(100))
    device.receipt((1, 8))
    device.step()
    newest = device.batches()[2][1].items
    assert live.seq in [item.seq for item in newest]
    assert [item.seq for item in newest] == sorted(item.seq for item in newest)


def test_batches_and_the_window_are_bounded(tmp_path: Path, make_result: Make) -> None:
    settings = SyncConfig(batch_results=50, batch_bytes=2_000, window_batches=4)
    device = Device(tmp_path, settings)
    for position in range(100):
        device.queue.put(make_result(position))
    device.step()
    assert len(device.batches()) == 3
    for _, batch in device.batches():
        assert 1 < len(batch.items) < 50
        assert sum(len(bytes(item.body)) for item in batch.items) <= 2_000
    device.queue.close()


def test_an_opinion_confirms_or_amends_and_the_review_is_queued(
    device: Device, make_result: Make
) -> None:
    sample = np.zeros(140, np.float32)
    ids = [
        device.queue.put(make_result(n, state=State.PROVISIONAL, label="normal"), sample).id
        for n in range(2)
    ]
    device.step()
    asks = [message for message in device.seen if message.topic == TOPICS.ask]
    assert [message.correlation for message in asks] == [identity.encode() for identity in ids]
    assert {message.response_topic for message in asks} == {TOPICS.opinion}
    assert all(0 < (message.expiry_s or 0) <= 60 for message in asks)
    device.opinion(ids[0], "normal")
    device.opinion(ids[1], "PVC")
    device.opinion(ids[1], "normal")
    device.step()
    assert [(r.result, r.state, r.label) for r in device.reviews()] == [
        (ids[0], State.CONFIRMED, "normal"),
        (ids[1], State.AMENDED, "PVC"),
    ]


def asked(device: Device) -> list[str]:
    """The results that opinions were asked about, in order."""
    return [
        wire.decode(message.payload, wire.Ask).result
        for message in device.seen
        if message.topic == TOPICS.ask
    ]


def test_an_unanswered_question_is_asked_again_after_the_timeout_and_after_a_reconnect(
    device: Device, make_result: Make
) -> None:
    sample = np.zeros(10)
    ids = [
        device.queue.put(make_result(n, state=State.PROVISIONAL, label="normal"), sample).id
        for n in range(2)
    ]
    device.step()
    device.opinion(ids[0], "normal")
    device.step(4)
    assert asked(device) == ids
    device.step(2)
    assert asked(device) == [*ids, ids[1]]
    device.transport.cut()
    device.step()
    device.transport.mend()
    device.step()
    assert asked(device) == [*ids, ids[1], ids[1]]


def test_only_a_bounded_number_of_questions_is_on_its_way(
    device: Device, make_result: Make
) -> None:
    ids = [
        device.queue.put(make_result(n, state=State.PROVISIONAL), np.zeros(3)).id for n in range(40)
    ]
    for _ in range(3):
        device.step()
    assert asked(device) == ids[:16]
    for identity in ids[:10]:
        device.opinion(identity, "normal")
    device.step()
    assert asked(device) == ids[:26]


def test_run_ends_when_nothing_waits_any_more(device: Device, make_result: Make) -> None:
    for position in range(20):
        device.queue.put(make_result(position))

    def answer(message: Message) -> None:
        if "/up/" in message.topic:
            batch = batches.decode(message.payload)
            device.receipt(*wire.ranges([item.seq for item in batch.items]))

    device.broker.transport().open(("ec/v1/+/+/up/+",), answer)
    device.agent.run(threading.Event(), until_empty=True)
    assert device.agent.delivered == 20
    assert device.agent.idle


def test_a_deadline_makes_unreviewed_and_a_late_opinion_still_counts(
    device: Device, make_result: Make
) -> None:
    result = make_result(state=State.PROVISIONAL, label="normal")
    identity = device.queue.put(result, np.zeros(140), deadline_s=10).id
    device.transport.cut()
    device.step(9)
    assert not device.reviews()
    device.step(2)
    assert [review.state for review in device.reviews()] == [State.UNREVIEWED]
    device.transport.mend()
    device.step()
    assert not [message for message in device.seen if message.topic == TOPICS.ask]
    device.opinion(identity, "PVC")
    device.step()
    assert [review.state for review in device.reviews()] == [State.UNREVIEWED, State.AMENDED]


def test_only_a_question_that_is_still_asked_keeps_a_sync_from_its_end(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result(state=State.PROVISIONAL), np.zeros(140), deadline_s=10)
    device.step()
    device.receipt((1, 1))
    device.step()
    assert not device.agent.idle, "an opinion may come"
    device.step(11)
    device.receipt((1, device.queue.last_seq()))
    device.step()
    assert device.queue.usage()["questions"].count == 0, "though remembered for a late opinion"
    assert device.agent.idle


def test_birth_state_and_health_are_retained_and_the_will_says_lost(device: Device) -> None:
    device.step()
    kept: list[Message] = []
    device.broker.transport().open(("ec/v1/+/+/st/+",), kept.append)
    assert {message.topic for message in kept} == {TOPICS.birth, TOPICS.state, TOPICS.health}
    for message in kept:
        assert wire.decode(message.payload, wire.Status).state == "online"
    device.transport.cut()
    assert wire.decode(device.seen[-1].payload, wire.Status).state == "lost"
    device.transport.mend()
    device.step()
    device.agent.close()
    last = [message for message in device.seen if message.topic == TOPICS.state][-1]
    assert wire.decode(last.payload, wire.Status).state == "offline"


def test_a_window_frees_a_batch_when_all_of_it_is_receipted() -> None:
    window = SendWindow(size=1, timeout_s=5, most_s=40)
    window.send(Flight(Tier.ROUTINE, {1, 2, 9}, sent_at=0, token=1, first_sent_at=0))
    window.receipt([(1, 2)], now=1)
    assert window.room == 0
    window.receipt([(9, 9)], now=2)
    assert window.room == 1


def test_a_connection_is_silent_also_where_only_a_question_waits_for_the_broker() -> None:
    window = SendWindow(size=1, timeout_s=5, most_s=40)
    assert not window.missed(100, None)
    assert not window.missed(104, 100)
    assert window.missed(105, 100) == 1
    assert not window.missed(110, 100), "the next takes twice as long"
    assert window.missed(115, 100) == 2
    window.heard(116)
    assert not window.missed(120, 100)
    assert window.missed(121, 100) == 1


class Lossy(MemoryTransport):
    """A link that loses, doubles and delays what goes through it, both ways."""

    def __init__(self, broker: MemoryBroker, chance: random.Random) -> None:
        super().__init__(broker)
        self._chance = chance
        self._late: list[Message] = []
        self.healed = False

    def receive(self, message: Message) -> None:
        for passed in self._disturb(message):
            super().receive(passed)

    def publish(self, message: Message) -> int:
        self._token += 1
        token = self._token
        for passed in self._disturb(message):
            token = super().publish(passed)
        return token

    def _disturb(self, message: Message) -> list[Message]:
        if self.healed:
            return [message]
        luck = self._chance.random()
        if luck < 0.2:
            return []
        if luck < 0.4:
            self._late.append(message)
            return []
        passed = [message, message] if luck < 0.6 else [message]
        if self._late and luck > 0.8:
            passed.append(self._late.pop(self._chance.randrange(len(self._late))))
        return passed


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_link_that_loses_doubles_and_reorders_costs_nothing(
    tmp_path_factory: pytest.TempPathFactory, make_result: Make, seed: int
) -> None:
    pytest.importorskip("pyarrow", reason="the cloud extra is not installed")
    from edgeclin.cloud.ingest import Ingest
    from edgeclin.cloud.store import Store

    chance, now = random.Random(seed), [0.0]
    broker, folder = MemoryBroker(), tmp_path_factory.mktemp("lossy")
    queue = OfflineQueue(folder / "queue.sqlite", uptime=lambda: now[0], boot="this")
    store = Store(folder / "store")
    ingest = Ingest(store, broker.transport())
    ingest.open()
    link = Lossy(broker, chance)
    agent = SyncAgent(queue, link, TOPICS, SETTINGS, monotonic=lambda: now[0])
    agent.open()
    issued = []
    for position in range(60):
        tier = chance.choice(list(Tier))
        issued.append(queue.put(make_result(position, tier=tier)).id)
        agent.step()
        now[0] += chance.choice([0.0, 1.0, 6.0])
        if chance.random() < 0.1:
            link.cut()
            link.mend()
    link.healed = True
    for _ in range(100):
        now[0] += 40.0  # what was set aside is tried again in an hour
        agent.step()
    assert agent.idle
    stored = store.tables()["result"].column("id").to_pylist()
    assert sorted(stored) == sorted(issued)
    queue.close()
    store.close()


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_over_a_bad_link_every_doubtful_answer_is_settled_once_or_left_to_a_person(
    tmp_path_factory: pytest.TempPathFactory, make_result: Make, seed: int
) -> None:
    pytest.importorskip("pyarrow", reason="the cloud extra is not installed")
    from edgeclin.cloud.ingest import Ingest
    from edgeclin.cloud.store import Store

    chance, now = random.Random(seed), [0.0]
    broker, folder = MemoryBroker(), tmp_path_factory.mktemp("opinions")
    store = Store(folder / "store")
    Ingest(store, broker.transport()).open()
    worker = broker.transport()

    def judge(message: Message) -> None:
        ask = wire.decode(message.payload, wire.Ask)
        label = "normal" if wire.from_array(ask.input)[0] % 2 else "ectopic"
        answer = wire.Opinion(result=ask.result, model="m", label=label, confidence=0.9)
        worker.publish(Message(TOPICS.opinion, wire.encode(answer)))

    worker.open(wire.OFFLOAD_FILTERS, judge)

    def start() -> tuple[OfflineQueue, Lossy, SyncAgent]:
        """A process with the agent; on one device, so the boot stays the same."""
        queue = OfflineQueue(folder / "queue.sqlite", uptime=lambda: now[0], boot="this")
        link = Lossy(broker, chance)
        agent = SyncAgent(queue, link, TOPICS, SETTINGS, monotonic=lambda: now[0])
        agent.open()
        return queue, link, agent

    queue, link, agent = start()
    truth = {}
    for position in range(40):
        result = make_result(position, state=State.PROVISIONAL, label="normal")
        sample = np.array([position], np.int32)
        truth[queue.put(result, sample, chance.choice([3.0, 30.0])).id] = position
        agent.step()
        now[0] += chance.choice([0.0, 1.0, 3.0])
        if chance.random() < 0.1:
            link.cut()
            queue.close()
            queue, link, agent = start()
    link.healed = True
    for _ in range(150):
        now[0] += 1.0
        agent.step()
    assert agent.idle
    assert queue.expire() == []
    tables = store.tables()
    assert sorted(tables["result"].column("id").to_pylist()) == sorted(truth)
    settled: dict[str, list[str]] = {identity: [] for identity in truth}
    for review in sorted(tables["review"].to_pylist(), key=lambda row: row["seq"]):
        settled[review["result"]].append(review["state"])
    for identity, states in settled.items():
        verdict = "confirmed" if truth[identity] % 2 else "amended"
        assert states in ([verdict], ["unreviewed"], ["unreviewed", verdict])
    queue.close()
    store.close()


def test_a_result_whose_question_ends_connections_is_delivered(
    device: Device, make_result: Make
) -> None:
    device.transport.ends = lambda message: message.topic == TOPICS.ask
    take_in(device)
    for position in range(4):
        doubtful = make_result(position, state=State.PROVISIONAL)
        device.queue.put(doubtful, np.zeros(9), deadline_s=1000)
    for _ in range(60):
        device.step(1.0)
        if not device.transport.connected:
            device.transport.mend()
    assert device.waiting() == 0
    assert device.transport.sessions < 20


def test_an_agent_with_nothing_to_do_looks_seldom_and_still_sends_at_once(
    device: Device, make_result: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that stands still only a change makes it step."""
    steps, stop = [], threading.Event()
    take_in(device)
    step = device.agent.step
    monkeypatch.setattr(device.agent, "step", lambda: (steps.append(1), step()))
    running = threading.Thread(target=device.agent.run, args=(stop,), daemon=True)
    running.start()
    time.sleep(1.0)
    assert len(steps) <= 3
    with OfflineQueue(device.queue.path) as other:
        other.put(make_result(0))
    wait_until(lambda: device.waiting() == 0, "another process's result went")
    device.transport.cut()
    device.queue.put(make_result(1))
    device.transport.mend()
    wait_until(lambda: device.waiting() == 0, "it went in the next session")
    stop.set()
    running.join()


# -- sealed queues --------------------------------------------------------------------------------


def test_what_lacks_its_key_is_kept_unsent_and_goes_once_that_is_back(
    tmp_path: Path, make_result: Make
) -> None:
    one, two = bytes(32), bytes(31) + b"\1"
    with OfflineQueue(tmp_path / "queue.sqlite", keyring=Keyring([one])) as queue:
        for position in range(20):
            queue.put(make_result(position))
        queue.put(make_result(20, tier=Tier.URGENT))
    lost = Device(tmp_path, keyring=Keyring([two]))
    lost.queue.put(make_result(21))
    lost.queue.put(make_result(22, tier=Tier.URGENT))
    for _ in range(5):
        lost.step(0.05)
    sent = {item.seq for _, batch in lost.batches() for item in batch.items}
    assert sent == {22, 23}, "behind all of those that are sealed"
    lost.receipt((22, 23))
    lost.step()
    assert lost.agent.idle
    assert lost.waiting() == lost.queue.standing().absent == 21
    assert lost.queue.standing().set_aside == 0, "it is not damaged"
    lost.queue.close()
    back = Device(tmp_path, keyring=Keyring([two, one]))
    assert not back.agent.idle
    for _ in range(5):
        back.step(0.05)
        items = [item for _, batch in back.batches() for item in batch.items]
        back.receipt(*((item.seq, item.seq) for item in items))
    assert sorted(item.seq for item in items) == list(range(1, 22))
    assert all(msgspec.json.decode(item.body, type=Result).label == "normal" for item in items)
    assert back.waiting() == 0
    back.queue.close()


def test_a_sealed_row_that_is_damaged_is_set_aside_and_spoils_no_batch(
    tmp_path: Path, make_result: Make
) -> None:
    device = Device(tmp_path, keyring=Keyring([bytes(32)]))
    for position in range(3):
        device.queue.put(make_result(position))
    with closing(sqlite3.connect(tmp_path / "queue.sqlite")) as connection, connection:
        connection.execute(
            "UPDATE rows SET body = (SELECT body FROM rows WHERE seq = 1) WHERE seq = 2"
        )
    device.step()
    assert [item.seq for _, batch in device.batches() for item in batch.items] == [1, 3]
    (aside,) = [one for one in waiting(device.queue.path) if one.set_aside]
    assert (aside.row.seq, "damaged" in aside.set_aside) == (2, True)
    device.queue.close()


def test_a_backlog_without_its_key_is_passed_over_a_part_at_a_step(
    tmp_path: Path, make_result: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that read all of it would be taken for a hang."""
    with OfflineQueue(tmp_path / "queue.sqlite", keyring=Keyring([bytes(32)])) as queue:
        for position in range(100):
            queue.put(make_result(position))
    device = Device(tmp_path, keyring=Keyring([b"\1" * 32]))
    pending, read = device.queue.pending, 0

    def counted(tier: Tier, **bounds: Any) -> list[Row]:
        nonlocal read
        rows = pending(tier, **bounds)
        read += len(rows)
        return rows

    monkeypatch.setattr(device.queue, "pending", counted)
    device.step()
    assert read == SETTINGS.batch_results
    for _ in range(50):
        device.step(0.05)
    assert read == 100, "each once"
    device.queue.close()
