"""One contract for every transport, over real brokers where a machine has them."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from authority import Authority
from broker import LocalBroker, find_mosquitto, free_port
from faults.network import Network
from polling import wait_until

from edgeclin.config import BrokerConfig
from edgeclin.errors import BadFile, EdgeclinError, NotConnected
from edgeclin.transport import MemoryBroker, MemoryTransport, Message, Refusal, Transport
from edgeclin.transport.memory import topic_matches
from edgeclin.transport.mqtt import MQTTTransport

NO_MOSQUITTO = "mosquitto is not installed: apt-get install mosquitto"
NO_IOTCORE = "iotcore is not installed: pip install 'edgeclin[broker]'"

KINDS = [
    "memory",
    pytest.param(
        "mosquitto",
        marks=[
            pytest.mark.mosquitto,
            pytest.mark.skipif(find_mosquitto() is None, reason=NO_MOSQUITTO),
        ],
    ),
    pytest.param(
        "iotcore",
        marks=pytest.mark.skipif(importlib.util.find_spec("iotcore") is None, reason=NO_IOTCORE),
    ),
]


@dataclass(eq=False)
class Client:
    """A transport, what it received, and its network link; see `Network`."""

    transport: Transport
    cut: Callable[[], None]
    mend: Callable[[], None]
    strand: Callable[[], None]
    inbox: list[Message] = field(default_factory=list)

    def join(self, *filters: str, will: Message | None = None) -> Client:
        self.transport.open(filters, self.inbox.append, will)
        wait_until(lambda: self.transport.connected, "connected")
        return self

    def wait_for(self, *payloads: bytes) -> list[Message]:
        """The messages received, once there are as many as payloads; these must be theirs."""
        wait_until(lambda: len(self.inbox) >= len(payloads), f"{len(payloads)} messages")
        assert [message.payload for message in self.inbox] == list(payloads)
        return self.inbox


class Bench(Protocol):
    """A broker and the clients of it that a test makes."""

    def client(self, name: str) -> Client: ...

    def restart(self) -> None:
        """The broker goes away and comes back without any memory of its sessions."""


class MemoryBench:
    def __init__(self) -> None:
        self._broker = MemoryBroker()
        self._transports: list[MemoryTransport] = []

    def client(self, name: str) -> Client:
        transport = self._broker.transport()
        self._transports.append(transport)
        return Client(transport, transport.cut, transport.mend, lambda: None)

    def restart(self) -> None:
        for transport in self._transports:
            transport.cut()
        for transport in self._transports:
            transport.mend()


class RealBench:
    def __init__(self, folder: Path, kind: str) -> None:
        self._broker = LocalBroker(folder, kind).start()
        self._links: list[Network] = []
        self._clients: list[Client] = []

    def client(self, name: str) -> Client:
        link = Network(free_port(), self._broker.port)
        self._links.append(link)
        transport = MQTTTransport(BrokerConfig(port=link.port), name, jitter=lambda _: 0.02)
        self._clients.append(Client(transport, link.cut, link.mend, link.strand))
        return self._clients[-1]

    def restart(self) -> None:
        self._broker.stop()
        for client in self._clients:
            wait_until(lambda client=client: not client.transport.connected, "cut off")
        self._broker.start()

    def close(self) -> None:
        for client in self._clients:
            client.transport.close()
        for link in self._links:
            link.close()
        self._broker.stop()


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "memory":
        yield MemoryBench()
        return
    real = RealBench(tmp_path, request.param)
    yield real
    real.close()


# -- the contract -------------------------------------------------------------------------------


def test_a_message_arrives_with_all_it_carries(bench: Bench) -> None:
    subscriber = bench.client("subscriber").join("ec/v1/+/+/up/+")
    publisher = bench.client("publisher").join()
    sent = Message(
        "ec/v1/s/d/up/urgent",
        bytes(range(256)),
        correlation=b"\x00result",
        response_topic="ec/v1/s/d/dn/opinion",
        expiry_s=30,
    )
    publisher.transport.publish(sent)
    (got,) = subscriber.wait_for(sent.payload)
    assert (got.topic, got.correlation, got.response_topic, got.retain) == (
        sent.topic,
        sent.correlation,
        sent.response_topic,
        False,
    )


def test_only_what_a_filter_matches_arrives(bench: Bench) -> None:
    subscriber = bench.client("subscriber").join("a/+/c", "b/#")
    publisher = bench.client("publisher").join()
    for topic in ("a/x/y", "a/x/c/d", "c/b", "a/x/c", "b/x/y"):
        publisher.transport.publish(Message(topic, topic.encode()))
    subscriber.wait_for(b"a/x/c", b"b/x/y")


def test_messages_of_one_client_arrive_in_their_order(bench: Bench) -> None:
    subscriber = bench.client("subscriber").join("order")
    publisher = bench.client("publisher").join()
    payloads = [str(number).encode() for number in range(50)]
    for payload in payloads:
        publisher.transport.publish(Message("order", payload))
    subscriber.wait_for(*payloads)


def test_a_batch_of_the_largest_size_passes(bench: Bench) -> None:
    subscriber = bench.client("subscriber").join("big")
    payload = b"\xa5" * (128 * 1024)
    bench.client("publisher").join().transport.publish(Message("big", payload))
    subscriber.wait_for(payload)


def test_the_last_retained_message_reaches_who_comes_later(bench: Bench) -> None:
    early = bench.client("early").join("st/+")
    publisher = bench.client("publisher").join()
    for payload in (b"old", b"new"):
        publisher.transport.publish(Message("st/state", payload, retain=True))
    live = early.wait_for(b"old", b"new")
    assert [message.retain for message in live] == [False, False]
    (kept,) = bench.client("late").join("st/+").wait_for(b"new")
    assert kept.retain


def test_an_empty_retained_message_takes_the_kept_one_back(bench: Bench) -> None:
    early = bench.client("early").join("st/+")
    publisher = bench.client("publisher").join()
    for payload in (b"kept", b""):
        publisher.transport.publish(Message("st/state", payload, retain=True))
    publisher.transport.publish(Message("st/other", b"other", retain=True))
    early.wait_for(b"kept", b"", b"other")
    bench.client("late").join("st/+").wait_for(b"other")


def test_the_will_is_published_when_the_link_is_cut(bench: Bench) -> None:
    watcher = bench.client("watcher").join("st/+")
    device = bench.client("device").join(will=Message("st/state", b"lost", retain=True))
    device.cut()
    watcher.wait_for(b"lost")
    (kept,) = bench.client("late").join("st/+").wait_for(b"lost")
    assert kept.retain


def test_closing_in_good_order_publishes_no_will(bench: Bench) -> None:
    watcher = bench.client("watcher").join("st/+")
    device = bench.client("device").join(will=Message("st/state", b"lost"))
    device.transport.publish(Message("st/state", b"offline"))
    device.transport.close()
    assert not device.transport.connected
    watcher.wait_for(b"offline")
    # What the broker makes of the end of the connection has come before this does:
    bench.client("marker").join().transport.publish(Message("st/marker", b"marker"))
    watcher.wait_for(b"offline", b"marker")


def test_a_shared_subscription_gives_each_message_to_one_member(bench: Bench) -> None:
    members = [bench.client(f"member{number}").join("$share/g/up/+") for number in range(3)]
    alone = bench.client("alone").join("up/+")
    publisher = bench.client("publisher").join()
    payloads = [str(number).encode() for number in range(60)]
    for payload in payloads:
        publisher.transport.publish(Message("up/x", payload))
    alone.wait_for(*payloads)
    wait_until(lambda: sum(len(member.inbox) for member in members) >= 60, "all are shared out")
    shared = [message.payload for member in members for message in member.inbox]
    assert sorted(shared, key=int) == payloads
    assert all(member.inbox for member in members)


def test_a_shared_subscription_goes_on_without_a_member_that_is_cut(bench: Bench) -> None:
    one, other = (bench.client(name).join("$share/g/up") for name in ("one", "other"))
    publisher = bench.client("publisher").join("seen")
    one.cut()
    wait_until(lambda: not one.transport.connected, "cut")
    # The broker may still hold the dead connection for a moment: wait until it has none.
    publisher.transport.publish(Message("seen", b""))
    publisher.wait_for(b"")
    payloads = [str(number).encode() for number in range(20)]

    def all_arrive() -> bool:
        other.inbox.clear()
        for payload in payloads:
            publisher.transport.publish(Message("up", payload))
        publisher.inbox.clear()
        publisher.transport.publish(Message("seen", b""))
        wait_until(lambda: publisher.inbox, "the broker has seen them all")
        return {message.payload for message in other.inbox} == set(payloads)

    wait_until(all_arrive, "the other member gets everything")


def test_publishing_without_a_connection_is_refused(bench: Bench) -> None:
    client = bench.client("client")
    with pytest.raises(NotConnected):
        client.transport.publish(Message("a", b""))
    client.join()
    client.cut()
    wait_until(lambda: not client.transport.connected, "cut")
    with pytest.raises(NotConnected) as caught:
        client.transport.publish(Message("a", b""))
    assert isinstance(caught.value, ConnectionError)


def test_a_mended_link_is_a_new_session_with_the_same_subscriptions(bench: Bench) -> None:
    subscriber = bench.client("subscriber").join("a", "b")
    publisher = bench.client("publisher").join()
    assert subscriber.transport.sessions == 1
    for session in (2, 3):
        subscriber.cut()
        wait_until(lambda: not subscriber.transport.connected, "cut")
        subscriber.mend()
        wait_until(lambda: subscriber.transport.connected, "connected again")
        assert subscriber.transport.sessions == session
        publisher.transport.publish(Message("a", b"to a"))
        publisher.transport.publish(Message("b", b"to b"))
        subscriber.wait_for(b"to a", b"to b")
        subscriber.inbox.clear()


def test_clients_come_back_after_the_broker_lost_its_memory(bench: Bench) -> None:
    subscriber = bench.client("subscriber").join("topic")
    publisher = bench.client("publisher").join()
    bench.restart()
    for client in (subscriber, publisher):
        wait_until(lambda client=client: client.transport.sessions == 2, "a second session")
        wait_until(lambda client=client: client.transport.connected, "connected again")
    publisher.transport.publish(Message("topic", b"after"))
    subscriber.wait_for(b"after")


def test_a_device_that_is_gone_before_it_is_back_is_told_as_lost(bench: Bench) -> None:
    watcher = bench.client("watcher").join("state")
    gone = bench.client("gone").join(will=Message("state", b"lost"))
    gone.transport.publish(Message("state", b"online"))
    watcher.wait_for(b"online")
    gone.strand()
    if isinstance(bench, MemoryBench):
        return  # it is back at once
    gone.transport.renew()
    watcher.wait_for(b"online", b"lost")


@pytest.mark.parametrize("stuffed", [False, True], ids=["quiet", "stuffed"])
def test_a_connection_that_is_half_open_is_made_anew_on_demand(bench: Bench, stuffed: bool) -> None:
    subscriber = bench.client("subscriber").join("topic")
    publisher = bench.client("publisher").join()
    subscriber.strand()
    for _ in range(8 if stuffed else 0):
        subscriber.transport.publish(Message("elsewhere", bytes(1 << 20)))
    subscriber.transport.renew()
    wait_until(lambda: subscriber.transport.sessions == 2, "a second session")
    wait_until(lambda: subscriber.transport.connected, "connected again")
    publisher.transport.publish(Message("topic", b"after"))
    subscriber.wait_for(b"after")


def test_an_error_in_the_receiver_costs_only_that_message(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bytes] = []

    def receive(message: Message) -> None:
        if message.payload == b"bad":
            raise RuntimeError("cannot handle this one")
        seen.append(message.payload)

    client = bench.client("client")
    client.transport.open(("topic",), receive)
    wait_until(lambda: client.transport.connected, "connected")
    publisher = bench.client("publisher").join()
    with caplog.at_level(logging.ERROR):
        for payload in (b"one", b"bad", b"two"):
            publisher.transport.publish(Message("topic", payload))
        wait_until(lambda: len(seen) == 2, "both good messages")
    assert seen == [b"one", b"two"]
    assert "a message on topic was not handled" in caplog.text
    assert client.transport.sessions == 1


def test_a_receiver_may_publish(bench: Bench) -> None:
    answerer = bench.client("answerer")
    answerer.transport.open(
        ("question",),
        lambda message: answerer.transport.publish(Message("answer", message.payload.upper())),
    )
    wait_until(lambda: answerer.transport.connected, "connected")
    asker = bench.client("asker").join("answer")
    asker.transport.publish(Message("question", b"why"))
    asker.wait_for(b"WHY")


# -- MQTT alone ---------------------------------------------------------------------------------

_CONNECT, _SUBSCRIBE, _DISCONNECT = 0x10, 0x82, 0xE0
_NOT_AUTHORISED = 0x87


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Callable[..., tuple[Client, list[Refusal]]]]:
    """A client of a mosquitto with rules, and what that refuses."""
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    made: list[Any] = []

    def start(rules: str) -> tuple[Client, list[Refusal]]:
        broker = LocalBroker(tmp_path, "mosquitto", rules).start()
        transport = MQTTTransport(BrokerConfig(port=broker.port), "client", jitter=lambda _: 0.02)
        made.extend([transport.close, broker.stop])
        client, refusals = Client(transport, broker.stop, broker.start, lambda: None), []
        transport.open(("allowed",), client.inbox.append, on_refusal=refusals.append)
        wait_until(lambda: transport.connected, "connected")
        return client, refusals

    yield start
    for end in made:
        end()


def test_what_the_rules_of_a_broker_do_not_allow_is_told_with_its_message(
    strict: Callable[..., tuple[Client, list[Refusal]]], tmp_path: Path
) -> None:
    (tmp_path / "acl").write_text("topic readwrite allowed\n")
    client, refusals = strict(f"user root\nacl_file {tmp_path / 'acl'}\n")
    tokens = [client.transport.publish(Message(topic, b"x")) for topic in ("allowed", "other")]
    client.wait_for(b"x")
    wait_until(lambda: refusals, "a refusal")
    assert refusals == [Refusal(tokens[1], 0x87, "Not authorized")]
    assert client.transport.sessions == 1


def test_an_end_that_blames_what_was_sent_is_told(
    strict: Callable[..., tuple[Client, list[Refusal]]],
) -> None:
    client, refusals = strict("message_size_limit 100\n")
    assert client.transport.most_bytes is None
    client.transport.publish(Message("allowed", bytes(200)))
    wait_until(lambda: refusals, "a refusal")
    assert refusals == [Refusal(None, 0x82, "Protocol error")]


def test_how_large_a_message_may_be_is_what_the_broker_says(
    strict: Callable[..., tuple[Client, list[Refusal]]],
) -> None:
    client, refusals = strict("max_packet_size 1000\n")
    assert client.transport.most_bytes == 1000
    client.transport.publish(Message("allowed", bytes(700)))
    client.wait_for(bytes(700))
    assert not refusals


class ScriptedBroker:
    """Speaks just enough MQTT 5 to answer a CONNECT and a SUBSCRIBE as a test wants it."""

    def __init__(self, connect_reason: int = 0, subscribe_reason: int = 1) -> None:
        self.connect_reason, self.subscribe_reason = connect_reason, subscribe_reason
        self.tls: ssl.SSLContext | None = None
        self.proceed = threading.Event()
        self.proceed.set()
        self.accepted = 0
        self.ended = 0
        self.names: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self.proceed.wait()
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                subject = (connection.getpeercert() or {}).get("subject", ())
                self.names += [value for ((_, value),) in subject]
            self._connections.append(connection)
            while True:
                kind, body = _read_packet(connection)
                if kind == _CONNECT:
                    connection.sendall(bytes([0x20, 3, 0, self.connect_reason, 0]))
                elif kind == _SUBSCRIBE:
                    connection.sendall(bytes([0x90, 4, *body[:2], 0, self.subscribe_reason]))
        except OSError:
            self.ended += 1


def _read_packet(connection: socket.socket) -> tuple[int, bytes]:
    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = connection.recv(size - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data

    kind, size = read(2)
    assert size < 128, "longer packets are not scripted"
    return kind, read(size)


@pytest.fixture
def scripted() -> Iterator[ScriptedBroker]:
    broker = ScriptedBroker()
    yield broker
    broker.close()


def test_the_wait_between_attempts_doubles_up_to_its_bound() -> None:
    bounds: list[float] = []

    def note(bound: float) -> float:
        bounds.append(bound)
        return 0.0

    transport = MQTTTransport(
        BrokerConfig(port=free_port(), reconnect_most_s=3.0), "client", jitter=note
    )
    transport.open((), lambda message: None)
    wait_until(lambda: len(bounds) >= 6, "six attempts")
    transport.close()
    assert bounds[:6] == [1.0, 2.0, 3.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("lasted", [True, False])
def test_the_wait_is_short_again_after_a_session_that_lasted(
    scripted: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, lasted: bool
) -> None:
    monkeypatch.setattr("edgeclin.transport.mqtt._LASTED_S", 0.0 if lasted else 1000.0)
    bounds: list[float] = []

    def note(bound: float) -> float:
        bounds.append(bound)
        return 0.0

    scripted.connect_reason = _NOT_AUTHORISED
    transport = MQTTTransport(BrokerConfig(port=scripted.port), "client", jitter=note)
    transport.open(("a",), lambda message: None)
    wait_until(lambda: len(bounds) >= 4, "four refusals")
    assert not transport.connected
    scripted.connect_reason = 0
    wait_until(lambda: transport.connected, "connected")
    refused = len(bounds)
    scripted.cut()
    wait_until(lambda: len(bounds) > refused, "the session ended")
    transport.close()
    assert (bounds[refused] == 0.5) == lasted


def test_by_default_the_wait_is_drawn_from_all_of_the_bound() -> None:
    transport = MQTTTransport(BrokerConfig(), "client")
    drawn = [transport._jitter(8.0) for _ in range(500)]
    assert min(drawn) >= 0
    assert max(drawn) <= 8
    assert min(drawn) < 1
    assert max(drawn) > 7


def test_a_refused_subscription_is_no_connection_and_is_tried_again(
    scripted: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.subscribe_reason = _NOT_AUTHORISED
    transport = MQTTTransport(BrokerConfig(port=scripted.port), "client", jitter=lambda _: 0.01)
    transport.open(("secret/topic",), lambda message: None)
    wait_until(lambda: scripted.accepted >= 3, "tried again")
    assert not transport.connected
    assert transport.sessions == 0
    assert "refused to subscribe us to secret/topic (Not authorized)" in caplog.text
    scripted.subscribe_reason = 1
    wait_until(lambda: transport.connected, "connected once the broker allows it")
    transport.close()


def test_the_first_failure_to_connect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[float] = []

    def note(bound: float) -> float:
        attempts.append(bound)
        return 0.0

    port = free_port()
    transport = MQTTTransport(BrokerConfig(port=port), "client", jitter=note)
    with caplog.at_level(logging.WARNING):
        transport.open((), lambda message: None)
        wait_until(lambda: len(attempts) >= 5, "five attempts")
        transport.close()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage().split(": ")[0] for record in told] == [
        f"cannot reach 127.0.0.1:{port}"
    ]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_listens_and_is_no_broker_is_told(
    answer: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.transport.mqtt._ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def listen() -> None:
            with suppress(OSError):
                while True:
                    accepted.append(server.accept()[0])
                    accepted[-1].sendall(answer)

        threading.Thread(target=listen, daemon=True).start()
        broker = BrokerConfig(port=server.getsockname()[1], reconnect_most_s=0.1)
        transport = MQTTTransport(broker, "device")
        transport.open((), lambda _: None)
        try:
            wait_until(lambda: len(accepted) > 1, "another attempt")
        finally:
            transport.close()
            for connection in accepted:
                connection.close()
    assert caplog.text.count("no answer as of an MQTT 5 broker") == 1
    assert not transport.connected


def test_closing_before_it_ever_connected_takes_no_time() -> None:
    transport = MQTTTransport(BrokerConfig(port=free_port()), "client", jitter=lambda _: 60.0)
    transport.open((), lambda message: None)
    started = time.monotonic()
    transport.close()
    assert time.monotonic() - started < 2


# -- TLS ----------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def tls_port(tmp_path: Path, authority: Authority) -> Iterator[int]:
    """A real mosquitto that admits only clients with a certificate of `authority`."""
    program = find_mosquitto()
    if program is None:
        pytest.skip(NO_MOSQUITTO)
    folder, port = tmp_path / "tls", free_port()
    folder.mkdir()
    certificate, key = authority.issue("broker")
    for file in (certificate, key, authority.certificate):
        shutil.copy(file, folder)
        (folder / file.name).chmod(0o644)
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nuser root\nallow_anonymous true\n"
        f"cafile {folder}/ca.pem\ncertfile {folder}/broker.crt\nkeyfile {folder}/broker.key\n"
        "require_certificate true\n"
    )
    with (folder / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)

    def accepts() -> bool:
        assert process.poll() is None, (folder / "mosquitto.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(accepts, "mosquitto accepts connections")
    yield port
    process.terminate()
    process.wait(timeout=10)


def _tls_client(port: int, ca: Path, pair: tuple[Path, Path] | None) -> MQTTTransport:
    certificate, key = (None, None) if pair is None else map(str, pair)
    config = BrokerConfig(port=port, ca=str(ca), certificate=certificate, key=key)
    return MQTTTransport(config, "device", jitter=lambda _: 0.05)


def _never_connects(transport: MQTTTransport, caplog: pytest.LogCaptureFixture) -> str:
    """Try a few times; the log of it."""
    attempts: list[float] = []

    def note(bound: float) -> float:
        attempts.append(bound)
        return 0.01

    transport._jitter = note
    with caplog.at_level(logging.DEBUG, "edgeclin.transport.mqtt"):
        transport.open(("echo",), lambda message: None)
        wait_until(lambda: len(attempts) >= 3, "three attempts")
    assert transport.sessions == 0
    assert not transport.connected
    transport.close()
    return caplog.text


@pytest.mark.mosquitto
def test_tls_with_a_client_certificate_carries_messages(
    tls_port: int, authority: Authority
) -> None:
    inbox: list[Message] = []
    transport = _tls_client(tls_port, authority.certificate, authority.issue("device"))
    transport.open(("echo",), inbox.append)
    wait_until(lambda: transport.connected, "connected")
    transport.publish(Message("echo", b"private"))
    wait_until(lambda: inbox, "the message")
    transport.close()
    assert inbox[0].payload == b"private"


@pytest.mark.mosquitto
def test_a_broker_of_another_authority_is_not_talked_to(
    tls_port: int, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority(tmp_path, "other")
    transport = _tls_client(tls_port, other.certificate, authority.issue("device"))
    assert "certificate verify failed" in _never_connects(transport, caplog)


def test_a_broker_with_the_certificate_of_another_host_is_not_talked_to(
    tmp_path: Path, authority: Authority, scripted: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    scripted.tls.load_cert_chain(*authority.issue("stranger", host="192.0.2.1"))
    transport = _tls_client(scripted.port, authority.certificate, None)
    assert "IP address mismatch" in _never_connects(transport, caplog)


@pytest.mark.mosquitto
@pytest.mark.parametrize("pair", ["none", "of another authority"])
def test_a_client_without_a_good_certificate_gets_no_session(
    tls_port: int,
    authority: Authority,
    tmp_path: Path,
    pair: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = None if pair == "none" else Authority(tmp_path, "other").issue("device")
    _never_connects(_tls_client(tls_port, authority.certificate, wrong), caplog)


def test_tls_files_that_cannot_be_loaded_are_named(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(BadFile, match=r"missing\.pem.*\[broker\]"):
        _tls_client(1, tmp_path / "missing.pem", None)
    certificate, _ = authority.issue("device")
    _, other_key = authority.issue("other")
    with pytest.raises(BadFile, match=r"\[broker\]"):
        _tls_client(1, authority.certificate, (certificate, other_key))


def test_a_certificate_that_was_renewed_is_used_without_a_restart(
    tmp_path: Path,
    authority: Authority,
    scripted: ScriptedBroker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("edgeclin.transport.mqtt._LOOK_S", 0.05)
    scripted.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    scripted.tls.verify_mode = ssl.CERT_REQUIRED
    scripted.tls.load_cert_chain(*authority.issue("broker"))
    pair = authority.issue("old", file="device")
    transport = _tls_client(scripted.port, authority.certificate, pair)
    transport.open(("topic",), lambda message: None)
    wait_until(lambda: transport.sessions == 1, "a session")
    certificate, key = (file.read_bytes() for file in authority.issue("new"))
    pair[0].write_bytes(certificate)
    time.sleep(0.5)
    assert transport.sessions == 1, "its key is not there yet"
    assert caplog.text.count("cannot be loaded") == caplog.text.count("the old ones serve on") == 1
    pair[1].write_bytes(key)
    wait_until(lambda: transport.sessions == 2, "a session with the new one")
    wait_until(lambda: scripted.names == ["old", "new"], "both were shown")
    transport.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "broker.example.org"])
def test_another_machine_is_reached_without_tls_on_demand_alone(host: str) -> None:
    with pytest.raises(EdgeclinError, match=f"broker {host} is another machine and the link would"):
        MQTTTransport(BrokerConfig(host=host), "client")
    MQTTTransport(BrokerConfig(host=host, plaintext=True), "client")


def test_close_ends_a_connection_that_is_still_being_made(
    authority: Authority, scripted: ScriptedBroker
) -> None:
    scripted.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    scripted.tls.load_cert_chain(*authority.issue("broker"))
    scripted.proceed.clear()
    transport = _tls_client(scripted.port, authority.certificate, None)
    transport.open((), lambda message: None)
    wait_until(lambda: scripted.accepted == 1, "half a connection")
    closer = threading.Thread(target=transport.close)
    closer.start()
    wait_until(transport._closing.is_set, "closing")
    scripted.proceed.set()
    wait_until(lambda: scripted.ended == 1, "the broker is told goodbye", most_s=3)
    closer.join(timeout=5)
    assert not closer.is_alive()
    assert transport.sessions == 0


# -- topics -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b", "a", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/+", "/b", True),
        ("#", "a/b/c", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "b/a", False),
        ("+", "", True),
    ],
)
def test_filters_match_by_the_rules_of_mqtt(topic_filter: str, topic: str, matches: bool) -> None:
    assert topic_matches(topic_filter, topic) is matches


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason=NO_MOSQUITTO)
def test_small_messages_wait_for_no_acknowledgement(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path, "mosquitto").start()
    transport = MQTTTransport(BrokerConfig(host="127.0.0.1", port=broker.port), "nodelay")
    try:
        transport.open((), lambda _: None)
        wait_until(lambda: transport.connected, "a session")
        connection = transport._client.socket()
        assert connection is not None
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    finally:
        transport.close()
        broker.stop()
