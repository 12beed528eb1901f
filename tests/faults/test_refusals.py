"""What a real broker does not take: the rest goes on, and what does not is told and kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from polling import wait_until

from edgeclin.offline_queue import waiting
from edgeclin.records import Result, Tier
from faults.ward import Ward, needs_mosquitto

Make = Callable[..., Result]
pytestmark = needs_mosquitto


def noisy(make_result: Make, position: int, size: int) -> Result:
    """One that zstd makes no smaller than that."""
    return make_result(position, reason=random.Random(position).randbytes(size).hex())


def set_aside(here: Ward) -> dict[int, str]:
    return {one.row.seq: one.set_aside for one in waiting(here.queue.path) if one.set_aside}


def test_a_limit_of_which_the_broker_says_nothing_stops_the_one_result_beyond_it(
    ward: Callable[..., Ward], make_result: Make
) -> None:
    """Mosquitto's `message_size_limit`: its answer is none by MQTT 5, and ends the connection."""
    here = ward(rules="message_size_limit 4000\n")
    ids = [
        here.queue.put(noisy(make_result, at, 5000 if at == 40 else 100)).id for at in range(100)
    ]
    wait_until(lambda: here.agent.idle, "all but one are receipted", 60)
    assert sorted(here.stored()) == sorted(ids[:40] + ids[41:])
    assert list(set_aside(here)) == [41]
    assert "Protocol error" in set_aside(here)[41]


def test_a_limit_that_the_broker_states_costs_no_connection(
    ward: Callable[..., Ward], make_result: Make
) -> None:
    here = ward(rules="max_packet_size 4000\n")
    ids = [
        here.queue.put(noisy(make_result, at, 5000 if at == 40 else 100)).id for at in range(100)
    ]
    wait_until(lambda: here.agent.idle, "all but one are receipted", 60)
    assert sorted(here.stored()) == sorted(ids[:40] + ids[41:])
    assert "the broker takes 4000" in set_aside(here)[41]
    assert here.sessions == 1


def test_what_the_rules_do_not_allow_waits_and_is_told_and_the_rest_goes(
    ward: Callable[..., Ward], make_result: Make, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text(
        "topic write ec/v1/ward/bed/up/urgent\ntopic write ec/v1/ward/bed/st/#\n"
        "topic readwrite ec/v1/ward/bed/dn/#\ntopic read ec/v1/#\ntopic read $share/#\n"
    )
    here = ward(rules=f"user root\nacl_file {rules}\n")
    for position in range(10):
        here.queue.put(make_result(position, tier=Tier.URGENT if position % 2 else Tier.ROUTINE))
    wait_until(lambda: len(here.stored()) == 5, "the urgent ones are stored")
    wait_until(lambda: here.agent.health().refused, "the refusal is told")
    assert here.agent.health().refused == ("ec/v1/ward/bed/up/routine: Not authorized",)
    assert here.queue.usage()["routine"].count == 5
    assert not set_aside(here)
