"""Second opinions over MQTT: how long the cloud takes, from the question to its answer."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from urllib.parse import urlsplit

from edgeclin import wire
from edgeclin.benchmark.inputs import Inputs
from edgeclin.benchmark.percentiles import Distribution, distribution
from edgeclin.benchmark.taking import Limit
from edgeclin.config import BrokerConfig
from edgeclin.errors import BadMessage, EdgeclinError, EngineUnavailable, NotConnected
from edgeclin.records import Record
from edgeclin.transport import Message, Transport

SITE = "benchmark"
_CONNECT_S = 10.0
_ANSWER_S = 10.0
_POLL_S = 0.2
_PORT = 1883


class RoundTrips(Record, frozen=True):
    """Questions asked one after another, and the cloud's opinions.

    Attributes:
        latency: from the sample in memory to its decoded opinion; a question without an answer in
            10 s counts as unanswered.
        up_bytes, down_bytes: of one question and one opinion as MQTT payloads, in the mean.
        sample_bytes: of one raw sample.
        up_kbit_s: what the questions took of the uplink, in kbit/s.
        model: the digest of the bundle that answered.
        refused: opinions without a label.
        loopback: whether broker and device are one machine, so that no network is in it.
    """

    url: str
    latency: Distribution
    up_bytes: float
    down_bytes: float
    sample_bytes: int
    up_kbit_s: float
    down_kbit_s: float
    model: str
    refused: int
    loopback: bool


def broker_of(
    url: str, ca: str | None, certificate: str | None, key: str | None, plaintext: bool
) -> BrokerConfig:
    """The broker that mqtt://HOST[:PORT] names.

    Raises:
        EdgeclinError: another kind of URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
    except ValueError as exc:
        raise EdgeclinError(f"{url!r}: {exc}; expected mqtt://HOST:PORT") from exc
    if parts.scheme != "mqtt" or not parts.hostname or parts.path or parts.query or parts.username:
        raise EdgeclinError(f"{url!r} is neither `bare` nor mqtt://HOST:PORT")
    return BrokerConfig(
        host=parts.hostname,
        port=port,
        ca=ca,
        certificate=certificate,
        key=key,
        plaintext=plaintext,
    )


class Asking:
    """One client that asks and waits.

    Args:
        transport: not yet opened.
        url: of its broker, for what is said.
    """

    def __init__(self, transport: Transport, url: str) -> None:
        self._transport = transport
        self._url = url
        self._topics = wire.Topics(SITE, f"bench-{uuid.uuid4().hex[:12]}")
        self._arrived = threading.Condition()
        self._opinion: wire.Opinion | None = None
        self._size = 0
        self._waiting = ""

    def run(
        self, inputs: Inputs, bundle: str, limit: Limit, loopback: bool
    ) -> tuple[RoundTrips, list[float]]:
        """Ask one question after another.

        Returns:
            the figures, and each latency in milliseconds.

        Raises:
            EngineUnavailable: no broker there, or nobody answers the first question.
        """
        self._connect(limit)
        latencies: list[float] = []
        asked = unanswered = refused = up = down = 0
        model, began = "", time.monotonic()
        while not limit.reached(asked):
            sample = inputs[asked]
            start = time.perf_counter_ns()
            identity = str(uuid.uuid4())
            ask = wire.Ask(result=identity, model=bundle, input=wire.to_array(sample))
            payload = wire.encode(ask)
            opinion = self._ask(identity, payload, limit)
            spent = (time.perf_counter_ns() - start) / 1e6
            if opinion is None and limit.stop.is_set():
                break
            asked, up = asked + 1, up + len(payload)
            if opinion is None:
                unanswered += 1
                if not latencies:
                    raise EngineUnavailable(
                        f"{self._url}: nobody answers within {_ANSWER_S:g} s; is `edgeclin cloud "
                        "offload` running on that broker?"
                    )
                continue
            latencies.append(spent)
            down += self._size
            refused += opinion.label is None
            model = opinion.model
        seconds = max(time.monotonic() - began, 1e-9)
        trips = RoundTrips(
            url=self._url,
            latency=distribution(latencies, unanswered),
            up_bytes=up / max(asked, 1),
            down_bytes=down / max(len(latencies), 1),
            sample_bytes=inputs.bytes,
            up_kbit_s=8e-3 * up / seconds,
            down_kbit_s=8e-3 * down / seconds,
            model=model,
            refused=refused,
            loopback=loopback,
        )
        return trips, latencies

    def close(self) -> None:
        """Disconnect."""
        self._transport.close()

    def _connect(self, limit: Limit) -> None:
        self._transport.open((self._topics.opinion,), self._take)
        deadline = time.monotonic() + _CONNECT_S
        while not self._transport.connected and not limit.stop.is_set():
            if time.monotonic() > deadline:
                raise EngineUnavailable(f"{self._url}: no broker accepts a connection there")
            time.sleep(0.01)

    def _ask(self, identity: str, payload: bytes, limit: Limit) -> wire.Opinion | None:
        with self._arrived:
            self._opinion, self._waiting = None, identity
        deadline = time.monotonic() + _ANSWER_S
        with suppress(NotConnected):  # then nobody answers it
            self._transport.publish(
                Message(self._topics.ask, payload, correlation=identity.encode())
            )
        with self._arrived:
            while self._opinion is None:
                rest = deadline - time.monotonic()
                if rest <= 0 or limit.stop.is_set():
                    return None
                self._arrived.wait(min(rest, _POLL_S))
            return self._opinion

    def _take(self, message: Message) -> None:
        try:
            opinion = wire.decode(message.payload, wire.Opinion)
        except BadMessage:
            return
        with self._arrived:
            if opinion.result == self._waiting:
                self._opinion, self._size = opinion, len(message.payload)
                self._arrived.notify()
