"""The agent, a real broker and a real ingest worker over networks as devices meet them."""

from __future__ import annotations

import base64
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from broker import free_port
from polling import wait_until

from edgeclin.records import Result, Tier
from faults.network import PROFILES, Conditions, Network
from faults.ward import Ward, needs_mosquitto

Make = Callable[..., Result]


@needs_mosquitto
@pytest.mark.parametrize("profile", PROFILES)
def test_over_every_network_each_result_is_stored_once(
    ward: Callable[..., Ward], make_result: Make, profile: str
) -> None:
    here, chance = ward(PROFILES[profile]), random.Random(profile)
    issued: list[str] = []

    def troubled() -> bool:
        tier = chance.choice(list(Tier))
        issued.append(here.queue.put(make_result(len(issued), tier=tier)).id)
        met = here.network.late > 0 if here.network.conditions.loss else True
        return met and here.network.pauses >= bool(here.network.conditions.pause_s[1])

    wait_until(lambda: troubled() and len(issued) >= 200, "its troubles were met", 60)
    wait_until(lambda: here.agent.idle, "everything is receipted", 60)
    assert sorted(here.stored()) == sorted(issued)


@needs_mosquitto
def test_an_urgent_result_does_not_wait_behind_a_bulk_upload(
    ward: Callable[..., Ward], make_result: Make
) -> None:
    """2 MB of bulk that no packing makes smaller: a minute of this link."""
    here, noise = ward(PROFILES["slow"]), random.Random(3)
    for position in range(100):
        reason = base64.b64encode(noise.randbytes(15_000)).decode()
        here.queue.put(make_result(position, tier=Tier.BULK, reason=reason))
    wait_until(lambda: here.agent.delivered >= 10, "the upload is running", 30)
    took = [here.receipt_s(make_result(at, tier=Tier.URGENT)) for at in range(100, 105)]
    assert here.queue.usage()[Tier.BULK.value].count > 0, "the upload is still running"
    assert sorted(took)[2] < 1.5, "it waited for 15 kB, and not for a window of them"


@needs_mosquitto
def test_a_half_open_connection_costs_one_timeout_and_no_result(
    ward: Callable[..., Ward], make_result: Make
) -> None:
    here = ward(PROFILES["loopback"])
    issued = [here.queue.put(make_result(0)).id]
    wait_until(lambda: here.agent.idle, "the first is receipted")
    here.network.strand()
    began = time.monotonic()
    issued.append(here.queue.put(make_result(1, tier=Tier.URGENT)).id)
    wait_until(lambda: here.agent.health().silent_s > 0, "that no receipt comes is told")
    wait_until(lambda: here.agent.idle, "the second is receipted")
    assert 2.0 <= time.monotonic() - began < 8.0, "well before the keep alive of 20 s ends it"
    assert sorted(here.stored()) == sorted(issued)


def echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def through() -> Iterator[Callable[[Conditions], socket.socket]]:
    """A connection through a network to what sends everything back."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(server,), daemon=True).start()
    networks: list[Network] = []

    def connect(conditions: Conditions) -> socket.socket:
        networks.append(Network(free_port(), server.getsockname()[1], conditions))
        return socket.create_connection(("127.0.0.1", networks[0].port), timeout=30)

    yield connect
    for network in networks:
        network.close()
    server.close()


def there_and_back(connection: socket.socket, size: int) -> float:
    sent = random.Random(size).randbytes(size)
    began = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=(sent,))
    sender.start()
    received = b""
    while len(received) < size:
        received += connection.recv(65536)
    sender.join()
    assert received == sent
    return time.monotonic() - began


def test_a_network_takes_the_time_that_its_conditions_say(
    through: Callable[[Conditions], socket.socket],
) -> None:
    with through(Conditions(delay_s=0.15, bits_per_s=800e3)) as connection:
        assert 0.3 <= there_and_back(connection, 10) < 0.5
        assert 0.5 <= there_and_back(connection, 20_000) < 0.9, "0.2 s of bytes, and the delays"


def test_what_is_lost_comes_late_and_in_order(
    through: Callable[[Conditions], socket.socket],
) -> None:
    with through(Conditions(loss=1.0)) as connection:
        assert there_and_back(connection, 5_000) >= 0.4


def test_nothing_passes_in_a_pause(through: Callable[[Conditions], socket.socket]) -> None:
    with through(Conditions(pause_s=(1.0, 1.0), every_s=(0.2, 0.2))) as connection:
        times = []
        until = time.monotonic() + 3
        while time.monotonic() < until:
            times.append(there_and_back(connection, 10))
        assert max(times) > 0.7
        assert sorted(times)[len(times) // 2] < 0.1
