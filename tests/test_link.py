"""The link measures itself by what is acknowledged, against an exact model of a bottleneck."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin.sync.link import FIRST_BYTES, QUEUE_S, REMEMBERED_S, Link


@dataclass
class Way:
    """A bottleneck of so many bytes a second, and a way there and back; exact times."""

    rate: float
    round_trip_s: float
    now: float = 0.0
    free_at: float = 0.0
    held_until: float = 0.0
    token: int = 0
    coming: list[tuple[float, int]] = field(default_factory=list)
    carried: int = 0

    def send(self, link: Link, size: int) -> float:
        """Hand a message over; how long it takes until it is acknowledged."""
        self.token += 1
        self.free_at = max(self.free_at, self.now) + size / self.rate
        at = max(self.free_at + self.round_trip_s, self.held_until)
        heapq.heappush(self.coming, (at, self.token))
        link.carries(self.token, size)
        self.carried += size
        return at - self.now

    def wait(self, link: Link) -> None:
        """Until the next acknowledgement."""
        self.now, token = heapq.heappop(self.coming)
        link.acknowledged(token)
        link.measure()


def fill(way: Way, link: Link, until: float, size: int) -> None:
    """Send as much as there is room for."""
    while way.now < until:
        while link.has_room(size):
            way.send(link, size)
        way.wait(link)


@given(
    rate=st.floats(3e3, 3e6),
    round_trip_s=st.floats(0.001, 1.0),
    share=st.floats(0.05, 0.5),
)
@settings(deadline=None, max_examples=25)
def test_a_link_is_used_and_what_is_urgent_waits_little_behind_the_rest(
    rate: float, round_trip_s: float, share: float
) -> None:
    way = Way(rate, round_trip_s)
    link = Link(lambda: way.now)
    size = max(int(share * rate * (round_trip_s + QUEUE_S)), 1)
    fill(way, link, 20.0, size)
    assert link.goodput == pytest.approx(rate, rel=0.1)
    assert round_trip_s <= link.round_trip_s <= round_trip_s + size / rate + 0.01
    before, began = way.carried, way.now
    fill(way, link, way.now + 30.0, size)
    assert (way.carried - before) / (way.now - began) >= 0.6 * rate
    urgent_s = way.send(link, 500)
    assert urgent_s <= 2 * round_trip_s + QUEUE_S + 2 * (size + 500) / rate


@pytest.mark.parametrize("longer_s", [0.06, 0.6])
def test_a_way_that_becomes_longer_is_measured_anew(longer_s: float) -> None:
    way = Way(50e3, 0.02)
    link = Link(lambda: way.now)
    fill(way, link, 15.0, 1000)
    way.round_trip_s = longer_s
    fill(way, link, 60.0, 1000)
    assert link.round_trip_s == pytest.approx(longer_s + 0.02, abs=0.01)
    assert link.goodput == pytest.approx(50e3, rel=0.15)


def test_acknowledgements_that_were_held_up_and_come_together_say_nothing_new() -> None:
    way = Way(50e3, 0.1)
    link = Link(lambda: way.now)
    fill(way, link, 15.0, 1000)
    way.held_until = way.now + 1.0
    way.coming = [(max(at, way.held_until), token) for at, token in way.coming]
    fill(way, link, way.now + 5.0, 1000)
    assert link.goodput == pytest.approx(50e3, rel=0.15)


def test_a_link_that_becomes_slower_is_given_less() -> None:
    way = Way(500e3, 0.1)
    link = Link(lambda: way.now)
    fill(way, link, 15.0, 2000)
    way.rate = 20e3
    fill(way, link, 60.0, 2000)
    assert link.goodput == pytest.approx(20e3, rel=0.2)
    assert link.allowance <= 20e3 * (0.1 + QUEUE_S) * 2


def test_a_message_larger_than_what_may_be_on_its_way_goes_alone() -> None:
    way = Way(10e3, 0.1)
    link = Link(lambda: way.now)
    assert link.has_room(10 * FIRST_BYTES)
    way.send(link, 100)
    assert not link.has_room(10 * FIRST_BYTES)
    way.wait(link)
    assert link.has_room(10 * FIRST_BYTES)


def test_few_small_messages_do_not_make_a_link_look_slow() -> None:
    way = Way(50e3, 0.1)
    link = Link(lambda: way.now)
    fill(way, link, 5.0, 2000)
    while way.coming:
        way.wait(link)
    for _ in range(20):
        way.now += REMEMBERED_S
        way.send(link, 100)
        way.wait(link)
    assert link.goodput == pytest.approx(50e3, rel=0.15)


def test_what_a_broker_never_acknowledges_takes_no_room_for_ever() -> None:
    way = Way(50e3, 0.1)
    link = Link(lambda: way.now)
    for _ in range(3):
        way.send(link, 5000)
    way.coming = way.coming[2:]
    assert not link.has_room(5000)
    way.wait(link)
    assert not way.coming
    assert link.has_room(1_000_000), "as where nothing is on its way"


def test_of_another_session_nothing_is_remembered() -> None:
    way = Way(50e3, 0.1)
    link = Link(lambda: way.now)
    fill(way, link, 5.0, 2000)
    link.clear()
    assert link.goodput == 0.0
    assert link.allowance == FIRST_BYTES
    link.acknowledged(way.token)
    link.measure()
    assert link.goodput == 0.0
