"""A day's bytes: what is urgent goes whatever is left, bulk first waits, and no restart refills."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polling import wait_until

from edgeclin import batches, wire
from edgeclin.config import BudgetConfig, SyncConfig, load_config
from edgeclin.errors import BadFile
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, Tier
from edgeclin.sync import NetworkManager, SyncAgent
from edgeclin.sync.budget import DAY_S, within
from edgeclin.sync.metered import ask
from edgeclin.transport import MemoryBroker, Message

Make = Callable[..., Result]
TOPICS = wire.Topics("ward", "bed")
NOON = datetime(2026, 5, 4, 12).timestamp()


class Device:
    """An agent under a budget, whose cloud receipts all; clocks are moved by hand."""

    def __init__(self, folder: Path, budget: BudgetConfig) -> None:
        self.folder, self.budget = folder, budget
        self.now, self.clock, self.metered = 100.0, NOON, False
        self.broker = MemoryBroker()
        self.sent: list[tuple[Tier, int]] = []
        self.cloud = self.broker.transport()
        self.cloud.open(("ec/v1/+/+/up/+",), self._receipt)
        self.queue = OfflineQueue(folder / "queue.sqlite")
        self.boot()

    def boot(self) -> None:
        self.transport = self.broker.transport()
        self.agent = SyncAgent(
            self.queue,
            self.transport,
            TOPICS,
            SyncConfig(batch_results=1, budget=self.budget),
            metered=lambda: self.metered,
            clock=lambda: self.clock,
            monotonic=lambda: self.now,
            jitter=lambda bound: bound,
        )
        self.agent.open()

    def _receipt(self, message: Message) -> None:
        tier = Tier(message.topic.rsplit("/", 1)[1])
        seqs = [item.seq for item in batches.decode(message.payload).items]
        self.sent += [(tier, seq) for seq in seqs]
        receipt = wire.Receipt(epoch=self.queue.epoch, ranges=wire.ranges(seqs))
        self.cloud.publish(Message(TOPICS.receipt, wire.encode(receipt)))

    def step(self, seconds: float = 0.0) -> None:
        for _ in range(5):
            self.now += seconds / 5
            self.clock += seconds / 5
            self.agent.step()

    def tiers(self) -> set[Tier]:
        return {tier for tier, _ in self.sent}


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    made: list[Device] = []

    def start(**budget: object) -> Device:
        made.append(Device(tmp_path, msgspec.convert(budget, BudgetConfig)))
        return made[-1]

    yield start
    for device in made:
        device.queue.close()


def test_without_a_budget_nothing_is_held(boot: Callable[..., Device], make_result: Make) -> None:
    device = boot()
    for position in range(30):
        device.queue.put(make_result(position, tier=list(Tier)[position % 3]))
    device.step()
    assert len(device.sent) == 30
    assert (device.agent.health().left, device.agent.health().held) == (None, {})


def test_what_is_spent_holds_bulk_first_then_routine_and_never_what_is_urgent(
    boot: Callable[..., Device], make_result: Make
) -> None:
    device = boot(day_mb=0.01)
    half = 0
    for position in range(60):
        device.queue.put(make_result(position, tier=Tier.BULK))
        device.step()
        half += Tier.BULK in device.tiers() and "bulk" not in device.agent.health().held
    left = device.agent.health().left
    assert left is not None
    assert 0 < left <= 5_000, "half a day's bytes are not for bulk"
    assert 0 < half < 60
    for position in range(60, 120):
        device.queue.put(make_result(position))
        device.step()
    assert Tier.ROUTINE in device.tiers()
    assert device.agent.health().held == {
        "questions": "the day's bytes are spent",
        "routine": "the day's bytes are spent",
        "bulk": "the day's bytes are spent",
    }
    before = len(device.sent)
    device.queue.put(make_result(120, tier=Tier.URGENT))
    device.step()
    assert device.sent[before:] == [(Tier.URGENT, 121)]
    assert len(device.queue.pending(Tier.ROUTINE, limit=999)) > 0, "kept, not lost"


def test_what_was_spent_in_the_last_minute_is_not_given_back_by_a_kill(
    boot: Callable[..., Device], make_result: Make
) -> None:
    device = boot(day_mb=0.05)
    for position in range(3000):
        device.queue.put(make_result(position))
    spent = 0
    for _ in range(10):
        for _ in range(20):
            device.step()
        spent += device.agent.health().sent
        device.boot()  # as after a SIGKILL
    assert spent < 60_000


def test_a_clock_that_was_not_set_when_it_was_kept_has_earned_nothing_meanwhile(
    boot: Callable[..., Device], make_result: Make
) -> None:
    device = boot(day_mb=0.01)
    now, device.clock = device.clock, 946_684_800.0  # 2000, on a board without a battery
    for position in range(200):
        device.queue.put(make_result(position))
    for _ in range(20):
        device.step()
    device.agent.close()
    device.clock = now
    device.boot()
    left = device.agent.health().left
    assert left is not None
    assert left <= 0


def test_a_day_brings_a_day_s_bytes_and_not_more(
    boot: Callable[..., Device], make_result: Make
) -> None:
    device = boot(day_mb=0.05)
    for position in range(3000):
        device.queue.put(make_result(position))
    for _ in range(20):
        device.step()
    spent = device.agent.health().sent
    assert 50_000 <= spent < 52_000
    for _ in range(24):
        device.step(DAY_S / 24)
    assert 95_000 <= device.agent.health().sent < 105_000
    device.step(9 * DAY_S)
    assert device.agent.health().sent < 160_000, "what was not used for days is not saved up"


def test_a_restart_gives_nothing_back(boot: Callable[..., Device], make_result: Make) -> None:
    device = boot(day_mb=0.01)
    for position in range(100):
        device.queue.put(make_result(position))
    device.step()
    assert (device.agent.health().left or 0.0) <= 0
    before = len(device.sent)
    device.agent.close()
    device.boot()
    device.step()
    assert len(device.sent) == before
    device.agent.close()
    device.clock -= DAY_S
    device.boot()
    device.step()
    assert len(device.sent) == before, "nor a clock that was set back"
    device.agent.close()
    device.clock += 3 * DAY_S
    device.boot()
    device.step()
    assert len(device.sent) > before, "a day without power has earned a day's bytes"


def test_bulk_waits_for_its_hours_and_on_a_metered_link(
    boot: Callable[..., Device], make_result: Make
) -> None:
    device = boot(bulk_hours="22:00-06:00")
    device.queue.put(make_result(0, tier=Tier.BULK))
    device.queue.put(make_result(1))
    device.step()
    assert device.tiers() == {Tier.ROUTINE}
    assert device.agent.health().held == {"bulk": "it is not the hour for bulk"}
    device.clock, device.metered = NOON + 11 * 3600, True
    device.step()
    assert device.agent.health().held == {"bulk": "the link is metered"}
    device.metered = False
    device.step()
    assert device.tiers() == {Tier.ROUTINE, Tier.BULK}


def test_a_budget_that_was_ordered_holds_over_a_restart_until_it_is_taken_back(
    boot: Callable[..., Device], make_result: Make
) -> None:
    device = boot()
    device.agent.set_budget(0.001)
    for position in range(50):
        device.queue.put(make_result(position))
    device.step()
    before = len(device.sent)
    assert 0 < before < 50
    device.agent.close()
    device.boot()
    device.step()
    assert len(device.sent) == before
    device.agent.set_budget(None)
    device.step()
    assert len(device.sent) == 50
    device.agent.close()
    device.boot()
    assert device.agent.health().left is None


def test_a_larger_budget_does_not_forget_what_was_spent(
    boot: Callable[..., Device], make_result: Make
) -> None:
    device = boot(day_mb=0.01)
    for position in range(200):
        device.queue.put(make_result(position))
    device.step()
    device.agent.set_budget(0.02)
    assert (device.agent.health().left or 0.0) <= 10_000


@given(minute=st.integers(0, 1439), first=st.integers(0, 1439), last=st.integers(0, 1439))
def test_hours_are_those_of_the_clock_round_midnight_too(
    minute: int, first: int, last: int
) -> None:
    moment = datetime(2026, 1, 15, minute // 60, minute % 60).timestamp()
    hours = "-".join(f"{at // 60:02}:{at % 60:02}" for at in (first, last))
    inside = set(range(first, last)) if first <= last else {*range(first, 1440), *range(last)}
    assert within(hours, moment) == (minute in inside)
    assert not within(hours, 1000.0), "a clock that was never set tells no hour"
    assert within(None, 1000.0)


@pytest.mark.parametrize(
    ("table", "about"),
    [("day_mb = 0", "day_mb"), ('bulk_hours = "22-06"', "bulk_hours"), ("metered = 1", "metered")],
)
def test_a_budget_that_is_none_is_refused(tmp_path: Path, table: str, about: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(
        'schema = 1\nsite = "w"\ndevice = "b"\n[queue]\npath = "q"\n[sync.budget]\n' + table
    )
    with pytest.raises(BadFile, match=about):
        load_config(path)


@pytest.mark.parametrize(
    ("answer", "metered"),
    [("u 1", True), ("u 3", True), ("u 2", False), ("u 4", False), ("", False)],
)
def test_networkmanager_is_asked_whether_the_link_is_metered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, metered: bool
) -> None:
    """By a `busctl` that answers as NetworkManager's documentation says."""
    script = tmp_path / "busctl"
    script.write_text(f'#!/bin/sh\ncase "$*" in *NetworkManager*Metered) echo "{answer}";; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ask() is metered
    with NetworkManager(every_s=0.01) as known:
        assert known.metered is metered
        script.write_text("#!/bin/sh\necho u 1\n")
        wait_until(lambda: known.metered, "the change is seen")
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert ask() is False
