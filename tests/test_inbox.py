"""Streams take turns, none waits for ever, and what finds no room is told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from delivered import delivered
from polling import wait_until

from edgeclin.errors import BadFile, BadInput
from edgeclin.inbox import LINE, Arrival, Inbox, Part

SAMPLE = np.zeros(3)


class Recorded:
    """A source that puts so many samples into one line."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count, self.ended = name, count, False

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name)
        for _ in range(self.count):
            if not line.put(SAMPLE):
                break
        self.ended = True


def drain(inbox: Inbox) -> list[Arrival]:
    return list(iter(inbox.take, None))


def test_a_recorded_stream_arrives_whole_and_in_order() -> None:
    arrivals = delivered(Recorded("a", 500), start=7)
    assert [arrival.position for arrival in arrivals] == list(range(7, 507))
    assert {arrival.stream for arrival in arrivals} == {"a"}


def test_a_recorded_stream_waits_for_room() -> None:
    inbox = Inbox()
    inbox.feed(Recorded("a", 10 * LINE))
    deadline = time.monotonic() + 10
    while inbox.waiting < LINE and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert inbox.waiting == LINE
    assert len(drain(inbox)) == 10 * LINE
    assert inbox.dropped == {}


def test_the_loop_does_not_wait_for_the_database_that_says_where_a_new_stream_begins() -> None:
    asked, says = threading.Event(), threading.Event()

    def start(stream: str) -> int:
        if stream == "slow":
            asked.set()
            assert says.wait(20)
        return 5

    inbox, made = Inbox(start), []
    inbox.line("a").push(SAMPLE)
    threads = [threading.Thread(target=lambda: made.append(inbox.line("slow"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert asked.wait(20)
    arrival = inbox.take()
    assert arrival is not None
    assert (arrival.stream, arrival.position) == ("a", 5)
    says.set()
    for thread in threads:
        thread.join(20)
    assert made[0] is made[1] is inbox.line("slow")


def test_streams_take_turns_however_fast_one_of_them_is() -> None:
    inbox = Inbox()
    for _ in range(LINE):
        inbox.line("fast").push(SAMPLE)
    for name in ("slow", "slower"):
        inbox.line(name).push(SAMPLE)
    assert [inbox.take().stream for _ in range(5)] == [  # type: ignore[union-attr]
        "fast", "slow", "slower", "fast", "fast",
    ]  # fmt: skip


def test_a_hundred_streams_are_each_taken_once_a_round() -> None:
    inbox = Inbox()
    for _ in range(LINE):
        for bed in range(100):
            inbox.line(f"bed-{bed}").push(SAMPLE)
    taken = drain(inbox)
    for round_ in range(LINE):
        names = [arrival.stream for arrival in taken[100 * round_ : 100 * (round_ + 1)]]
        assert len(set(names)) == 100


def test_a_live_stream_loses_its_oldest_and_says_how_many() -> None:
    inbox = Inbox()
    line = inbox.line("bed")
    for _ in range(LINE + 5):
        assert line.push(SAMPLE)
    first, *rest = drain(inbox)
    assert isinstance(first.sample, BadInput)
    assert "dropped: 5 samples from number 0" in str(first.sample)
    assert first.position == 4
    assert [arrival.position for arrival in rest] == list(range(5, LINE + 5))
    assert inbox.dropped == {"bed": 5}


def test_every_position_is_taken_or_told_as_dropped_under_any_interleaving() -> None:
    inbox = Inbox()
    draw = np.random.default_rng(4)
    seen: Counter[str] = Counter()
    puts = 0

    def account(arrival: Arrival | None) -> None:
        assert arrival is not None
        lost = 0
        if isinstance(arrival.sample, BadInput):
            lost = int(str(arrival.sample).split()[1])
            seen["lost"] += lost
        else:
            seen["taken"] += 1
        assert seen["lost"] + seen["taken"] == arrival.position + 1

    for pushes in draw.integers(0, 14, 300):
        for _ in range(pushes):
            inbox.line("bed").push(SAMPLE)
            puts += 1
        for _ in range(min(int(draw.integers(0, 9)), inbox.waiting)):
            account(inbox.take())
    for arrival in drain(inbox):
        account(arrival)
    assert seen["lost"] + seen["taken"] == puts
    assert seen["lost"] == inbox.dropped["bed"] > 0


def test_a_line_of_nothing_but_losses_is_told_whenever_it_is_taken() -> None:
    """The quiet time may begin or end between any two looks at the clock."""
    now = [0.0]

    def ticking() -> float:
        now[0] += 0.01
        return now[0]

    inbox = Inbox(clock=ticking)
    draw = np.random.default_rng(7)
    line, told, judged, pushed = inbox.line("bed"), 0, 0, 0
    for _ in range(3000):
        for _ in range(int(draw.integers(0, 3))):
            line.push(SAMPLE)
            pushed += 1
        now[0] += float(draw.uniform(0, 0.9))
        try:
            arrival = inbox.take(0.0)
        except TimeoutError:
            continue
        if arrival is None:
            continue
        if draw.random() < 0.7:
            inbox.lose(arrival)
        elif arrival.lost is not None:
            told += arrival.lost.count
        else:
            judged += 1
    now[0] += 10
    for arrival in drain(inbox):
        told += 0 if arrival.lost is None else arrival.lost.count
        judged += arrival.lost is None
    assert told + judged == pushed
    assert told == inbox.dropped["bed"]


def test_one_that_somebody_waits_for_is_refused_rather_than_dropped() -> None:
    inbox = Inbox()
    line = inbox.line("http")
    assert all(line.offer(SAMPLE, lambda *_: None) for _ in range(LINE))
    assert not line.offer(SAMPLE, lambda *_: None)
    assert [arrival.position for arrival in drain(inbox)] == list(range(LINE))


def test_the_end_of_all_sources_ends_the_loop_and_not_the_end_of_one() -> None:
    inbox = Inbox()
    for name, count in (("a", 3), ("b", 30)):
        inbox.feed(Recorded(name, count))
    assert Counter(arrival.stream for arrival in drain(inbox)) == {"a": 3, "b": 30}


def test_stopping_ends_the_loop_and_lets_every_source_go() -> None:
    inbox = Inbox()
    source = Recorded("a", 10**9)
    inbox.feed(source)
    assert inbox.take() is not None
    inbox.stop()
    assert inbox.take() is None
    deadline = time.monotonic() + 10
    while not source.ended and time.monotonic() < deadline:
        time.sleep(0.001)
    assert source.ended


def test_stopping_ends_a_loop_that_waits() -> None:
    inbox, waits = Inbox(), threading.Event()

    class Silent:
        def deliver(self, inbox: Inbox) -> None:
            waits.wait(30)

    inbox.feed(Silent())
    threading.Timer(0.05, inbox.stop).start()
    assert inbox.take() is None
    waits.set()


def test_a_source_that_fails_ends_the_loop_after_what_it_had_delivered() -> None:
    class Failing:
        def deliver(self, inbox: Inbox) -> None:
            inbox.line("a").put(SAMPLE)
            raise BadFile("a.csv", "gone")

    inbox = Inbox()
    inbox.feed(Failing())
    assert inbox.take() is not None
    with pytest.raises(BadFile, match="gone"):
        inbox.take()


def test_a_source_that_fails_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def deliver(self, inbox: Inbox) -> None:
            raise BadFile("a.csv", "gone")

    inbox = Inbox()
    go_on = threading.Event()

    class Slow(Recorded):
        def deliver(self, inbox: Inbox) -> None:
            go_on.wait(30)
            super().deliver(inbox)

    inbox.feed(Slow("b", 5))
    inbox.feed(Failing())
    wait_until(lambda: "a source has failed" in caplog.text, "the alarm")
    go_on.set()
    for _ in range(5):
        assert inbox.take() is not None
    with pytest.raises(BadFile, match="gone"):
        inbox.take()


def test_a_line_may_carry_other_streams_one_after_another() -> None:
    inbox = Inbox(lambda stream: 3)
    line = inbox.line("watch")
    for name in ("a", "b"):
        for position in range(2):
            line.put(SAMPLE, Part(name, position, last=position == 1))
    found = [(arrival.stream, arrival.position, arrival.last) for arrival in drain(inbox)]
    assert found == [("a", 0, False), ("a", 1, True), ("b", 0, False), ("b", 1, True)]


def test_a_stream_has_one_line_however_often_it_is_named() -> None:
    starts: list[str] = []

    def start(stream: str) -> int:
        starts.append(stream)
        return 40

    inbox = Inbox(start)
    for _ in range(3):
        inbox.line("a").push(SAMPLE)
    assert [key for key, _ in groupby(starts)] == ["a"]
    assert [arrival.position for arrival in drain(inbox)] == [40, 41, 42]
