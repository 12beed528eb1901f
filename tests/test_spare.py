"""Confident answers are asked about while the link is free, and nothing ever waits for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from test_sync import SETTINGS, TOPICS, Device

from edgeclin import wire
from edgeclin.config import BudgetConfig
from edgeclin.offline_queue import Keyring, OfflineQueue
from edgeclin.records import Result, State, Tier
from edgeclin.transport import Message

Make = Callable[..., Result]
SAMPLE = np.zeros(8, np.float32)
LARGE = np.random.default_rng(1).standard_normal(80_000).astype(np.float32)
"""Goes in parts."""


class Noon:
    """In the place of the local time."""

    @staticmethod
    def fromtimestamp(_: float) -> datetime:
        return datetime(2026, 1, 1, 12, 0, 0)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path, spare_bytes=1_000_000)
    yield made
    made.queue.close()


def sure(
    device: Device, make_result: Make, at: int, confidence: float = 0.95, **more: object
) -> str:
    """Put a confident answer; its id."""
    result = make_result(
        at, confidence=confidence, reason=f"confidence {confidence} reaches 0.9", **more
    )
    return device.queue.put(result, SAMPLE).id


def deliver(device: Device) -> None:
    """Let the cloud store all that waits."""
    device.step()
    while device.waiting():
        device.step()
        device.receipt((1, 1000))
    device.step()


def asked(device: Device) -> list[str]:
    """Whose opinions were asked for in one message, in order."""
    return [
        wire.decode(message.payload, wire.Ask).result
        for message in device.seen
        if message.topic == TOPICS.ask
    ]


def parts(device: Device) -> list[Message]:
    return [message for message in device.seen if message.topic == TOPICS.part]


def test_the_most_doubtful_are_asked_about_first_and_the_answer_is_amended(
    device: Device, make_result: Make
) -> None:
    ids = [sure(device, make_result, at, c) for at, c in enumerate((0.99, 0.91, 0.95))]
    assert device.queue.usage()["spare"].count == 3
    assert device.queue.usage()["questions"].count == 0
    deliver(device)
    assert asked(device) == [ids[1], ids[2], ids[0]]
    device.opinion(ids[1], "abnormal")
    device.opinion(ids[2], "normal")
    device.opinion(ids[0], None)
    device.step()
    states = {review.result: review.state for review in device.reviews()}
    assert states == {ids[1]: State.AMENDED, ids[2]: State.CONFIRMED}
    assert device.queue.usage()["spare"].count == 0, "nor is asked again what none can judge"


def test_nothing_is_asked_while_anything_else_waits_or_is_on_its_way(
    device: Device, make_result: Make
) -> None:
    identity = sure(device, make_result, 0)
    for _ in range(5):
        device.step(0.5)
    assert asked(device) == [], "its own result has no receipt yet"
    device.receipt((1, 1))
    device.step()
    assert asked(device) == [identity]


def test_a_question_in_doubt_goes_before_them(device: Device, make_result: Make) -> None:
    first = sure(device, make_result, 0)
    unsure = device.queue.put(make_result(1, state=State.PROVISIONAL), SAMPLE).id
    deliver(device)
    assert asked(device) == [unsure, first]


@pytest.mark.parametrize(
    "budget",
    [BudgetConfig(bulk_hours="05:00-05:01"), BudgetConfig(day_mb=0.001), None],
    ids=["another hour", "spent", "metered"],
)
def test_what_holds_bulk_holds_them(
    tmp_path: Path, make_result: Make, budget: BudgetConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.sync.budget.datetime", Noon)
    settings = replace(SETTINGS, budget=budget or BudgetConfig())
    device = Device(tmp_path, settings, spare_bytes=1_000_000)
    if budget is None:
        monkeypatch.setattr(device.agent._budget, "_metered", lambda: True)
    sure(device, make_result, 0, tier=Tier.URGENT)
    deliver(device)
    device.step(10)
    assert asked(device) == []
    device.queue.close()


def test_nobody_waits_for_them(device: Device, make_result: Make) -> None:
    sure(device, make_result, 0)
    deliver(device)
    assert device.queue.usage()["spare"].count == 1
    assert device.agent.idle
    assert device.agent.health().held == {}


def test_while_nobody_answers_ever_less_is_asked(device: Device, make_result: Make) -> None:
    for at in range(4):
        sure(device, make_result, at)
    deliver(device)
    for _ in range(7200):
        device.step(0.5)
    assert 4 < len(asked(device)) <= 4 * 11, "in an hour"
    before = len(asked(device))
    identity = asked(device)[0]
    device.opinion(identity, "normal")
    deliver(device)
    assert len(asked(device)) > before, "at once where somebody answers again"


def test_answers_to_others_make_them_no_more_frequent(device: Device, make_result: Make) -> None:
    sure(device, make_result, 0)
    deliver(device)
    for at in range(1, 361):
        unsure = device.queue.put(make_result(at, state=State.PROVISIONAL), SAMPLE).id
        device.step()
        device.opinion(unsure, "normal")
        deliver(device)
        device.step(10)
    assert asked(device).count(asked(device)[0]) < 20, "in an hour"


def test_a_large_one_that_nobody_takes_rests_too(device: Device, make_result: Make) -> None:
    large = make_result(0, confidence=0.9, reason="confidence 0.9 reaches 0.9")
    device.queue.put(large, LARGE)
    small = sure(device, make_result, 1)
    deliver(device)
    for _ in range(7200):
        device.step(0.5)
    assert 1 < len(parts(device)) < 30, "in an hour"
    assert small in asked(device), "and holds up no other"


def test_one_whose_sample_is_gone_holds_up_no_other(device: Device, make_result: Make) -> None:
    for at in range(6):
        large = make_result(at, confidence=0.8, reason="confidence")
        device.queue.put(large, LARGE if at < 2 else LARGE[:20_000])
    last = sure(device, make_result, 9)
    for file in Path(f"{device.queue.path}.payloads").iterdir():
        file.unlink()
    deliver(device)
    for _ in range(5):
        device.step(0.1)
    assert asked(device) == [last]
    assert device.queue.usage()["spare"].count == 1


def test_one_whose_label_is_damaged_is_asked_about_once(tmp_path: Path, make_result: Make) -> None:
    device = Device(tmp_path, keyring=Keyring((bytes(32),)), spare_bytes=1_000_000)
    identity = sure(device, make_result, 0)
    with device.queue._database.transaction(Tier.BULK) as db:
        (label,) = db.execute("SELECT label FROM questions").fetchone()
        db.execute("UPDATE questions SET label = ?", (label[:-1] + bytes([label[-1] ^ 1]),))
    deliver(device)
    for _ in range(20):
        device.opinion(identity, "normal")
        device.step(0.1)
    assert asked(device) == [identity]
    device.queue.close()


def test_a_large_one_goes_in_parts_and_makes_way_for_one_in_doubt(
    device: Device, make_result: Make
) -> None:
    result = make_result(0, confidence=0.9, reason="confidence 0.9 reaches 0.9")
    spare = device.queue.put(result, LARGE)
    deliver(device)
    assert len(parts(device)) == 1
    (first,) = (wire.decode(message.payload, wire.Part) for message in parts(device))
    unsure = device.queue.put(make_result(1, state=State.PROVISIONAL), LARGE * 2)
    deliver(device)
    device.step(0.3)
    (second,) = (wire.decode(message.payload, wire.Part) for message in parts(device)[1:])
    assert second.whole != first.whole
    device.opinion(unsure.id, "normal")
    deliver(device)
    device.step(0.3)
    third = wire.decode(parts(device)[2].payload, wire.Part)
    assert (third.whole, third.at) == (first.whole, first.at), "it is tried once more"
    device.opinion(spare.id, "normal")
    device.step()
    assert device.queue.usage()["spare"].count == 0


def test_a_full_queue_lets_go_of_them_before_anything_else(
    tmp_path: Path, make_result: Make
) -> None:
    with OfflineQueue(tmp_path / "q", max_bytes=100_000, spare_bytes=60_000) as queue:
        noise = np.random.default_rng(0).integers(0, 256, 9_000, dtype=np.uint8)
        for at in range(6):
            queue.put(make_result(at, tier=Tier.BULK, confidence=0.9, reason="confidence"), noise)
        bulk, spare = queue.usage()["bulk"], queue.usage()["spare"]
        assert spare.count > 3
        at = 6
        while queue.usage()["spare"].count:
            queue.put(make_result(at, reason="x" * 5000))
            assert queue.usage()["bulk"] == bulk
            assert sum(usage.bytes for usage in queue.usage().values()) <= 90_000
            at += 1
        assert not queue.put(make_result(at, confidence=0.5, reason="confidence"), noise).asked
        assert queue.usage()["bulk"] == bulk, "a sample takes no result's place"


def test_payload_files_go_with_their_questions(tmp_path: Path, make_result: Make) -> None:
    folder = tmp_path / "q.payloads"
    with OfflineQueue(tmp_path / "q", spare_bytes=1_000_000) as queue:
        for at, confidence in enumerate((0.95, 0.94, 0.93, 0.96)):
            made = make_result(at, confidence=confidence, reason="confidence")
            queue.put(made, LARGE)
        assert queue.usage()["spare"].count == 3 == len([*folder.iterdir()])
        (least,) = queue.most_doubtful_spare(9)[-1:]
        assert least.seq == 1, "the one that was less in doubt was not kept"
        queue.put(make_result(4, confidence=0.8, reason="confidence"), LARGE)
        assert {one.seq for one in queue.most_doubtful_spare(9)} == {2, 3, 5}
        assert len([*folder.iterdir()]) == 3
    with OfflineQueue(tmp_path / "q") as queue:
        assert queue.usage()["spare"].count == 3, "those of before are still asked about"
