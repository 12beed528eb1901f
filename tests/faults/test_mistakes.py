"""What a device meets that nobody meant: its clock jumps, or two agents deliver its queue."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from polling import wait_until

from edgeclin import wire
from edgeclin.config import BrokerConfig, SyncConfig
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, State, Tier
from edgeclin.sync import SyncAgent
from edgeclin.transport.mqtt import MQTTTransport
from faults.ward import Ward, needs_mosquitto

Make = Callable[..., Result]
DAY_S = 86_400.0


@needs_mosquitto
@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S, -time.time()], ids=["day", "back", "1970"])
def test_a_clock_that_jumps_costs_no_result_and_settles_no_answer(
    ward: Callable[..., Ward], make_result: Make, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    here, issued, ahead = ward(), [], [0.0]
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr("time.time", lambda: max(now() + ahead[0], 0.0))
    monkeypatch.setattr("time.time_ns", lambda: max(now_ns() + int(ahead[0] * 1e9), 0))
    doubtful = make_result(0, state=State.PROVISIONAL)
    issued.append(here.queue.put(doubtful, np.zeros(10), deadline_s=600).id)
    for position in range(1, 60):
        ahead[0] = jump_s if position % 20 < 10 else 0.0
        tier = list(Tier)[position % 3]
        issued.append(here.queue.put(make_result(position, tier=tier)).id)
        time.sleep(0.01)
    wait_until(lambda: len(here.stored()) == len(issued), "all are stored")
    assert sorted(here.stored()) == sorted(issued)
    assert issued == sorted(set(issued)), "in the order in which they were made"
    assert here.queue.usage()["questions"].count == 1, "its deadline counts seconds of being on"
    assert here.queue.reviews() == {}


@needs_mosquitto
@pytest.mark.parametrize("client", ["ward.bed", "ward.other"], ids=["one name", "two names"])
def test_two_agents_on_one_queue_cost_no_result(
    ward: Callable[..., Ward], make_result: Make, client: str
) -> None:
    """`sync` refuses to be the second; this is what happens where something else is."""
    here, chance, issued = ward(), random.Random(5), []
    queue = OfflineQueue(here.queue.path)
    transport = MQTTTransport(
        BrokerConfig(port=here.network.port, reconnect_most_s=1.0), client_id=client
    )
    settings = SyncConfig(receipt_timeout_s=2.0, receipt_most_s=8.0)
    other = SyncAgent(queue, transport, wire.Topics("ward", "bed"), settings)
    stop = threading.Event()
    running = threading.Thread(target=other.run, args=(stop,))
    other.open()
    running.start()
    try:
        for position in range(150):
            tier = chance.choice(list(Tier))
            issued.append(here.queue.put(make_result(position, tier=tier)).id)
            time.sleep(0.01)
        if client == "ward.bed":
            wait_until(lambda: here.sessions + transport.sessions >= 4, "they threw each other out")
    finally:
        stop.set()
        running.join()
        other.close()
        queue.close()
    wait_until(lambda: here.agent.idle, "everything is receipted", 60)
    assert sorted(here.stored()) == sorted(issued)
    assert here.agent.delivered + other.delivered == len(issued), "each row was deleted once"
