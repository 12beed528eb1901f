"""MQTT 5 through paho: QoS 1, clean sessions, TLS where a CA is named."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeclin.config import BrokerConfig, require_private
from edgeclin.errors import NotConnected
from edgeclin.transport.base import Message, OnAcknowledged, OnMessage, OnRefusal, Refusal
from edgeclin.transport.certificates import Certificates
from edgeclin.wire import CONTENT_TYPE

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.5
_ANSWER_S = 20.0
"""What accepts the connection and says nothing for so long is no broker, or not at work."""
_POLL_S = 0.2
_BLAMES = frozenset({0x81, 0x82, 0x95, 0x99})
"""Ends of a connection that blame what was sent. Paho too takes an answer that is none for a
protocol error, such as mosquitto's to a message beyond its `message_size_limit`."""
_LASTED_S = 1.0
"""After a session that was shorter the wait goes on growing."""
_LOOK_S = 10.0
"""Between two looks at whether certificates were renewed."""
_GOODBYE_S = 2.0
"""A connection that takes no goodbye for so long is cut."""


class MQTTTransport:
    """One client of one broker, reconnecting until it is closed.

    Args:
        broker: where and how to connect.
        client_id: the device's id; two clients of one id throw each other out.
        jitter: maps the backoff's upper bound to the wait, both in seconds.

    Raises:
        BadFile: a certificate or key cannot be loaded.
        EdgeclinError: it would be another machine's broker, without TLS, and nobody asked for that.
    """

    def __init__(
        self,
        broker: BrokerConfig,
        client_id: str,
        jitter: Callable[[float], float] = lambda bound: random.uniform(0, bound),
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._jitter = jitter
        require_private(broker)
        self._tls = None if broker.ca is None else Certificates(broker, broker.ca)
        self._filters: tuple[str, ...] = ()
        self._on_message: OnMessage | None = None
        self._on_refusal: OnRefusal | None = None
        self._on_acknowledged: OnAcknowledged | None = None
        self.most_bytes: int | None = None
        self._will: Message | None = None
        self._client = self._new_client()
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._closing = threading.Event()
        self._renewing = threading.Event()
        self._thread = threading.Thread(target=self._stay_connected, daemon=True)
        self.sessions = 0
        self._answered = self._refused = False

    @property
    def connected(self) -> bool:
        return self._ready.is_set()

    def open(
        self,
        filters: Sequence[str],
        on_message: OnMessage,
        will: Message | None = None,
        on_refusal: OnRefusal | None = None,
        on_acknowledged: OnAcknowledged | None = None,
    ) -> None:
        self._filters, self._on_message, self._will = tuple(filters), on_message, will
        self._on_refusal, self._on_acknowledged = on_refusal, on_acknowledged
        self._thread.start()

    def publish(self, message: Message) -> int:
        if not self._ready.is_set():
            raise NotConnected(f"no connection to {self._broker.host}:{self._broker.port}")
        info = self._client.publish(
            message.topic,
            message.payload,
            qos=1,
            retain=message.retain,
            properties=_properties(message),
        )
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise NotConnected(f"{message.topic} was not sent: {mqtt.error_string(info.rc)}")
        return self._token(info.mid)

    def renew(self) -> None:
        self._ready.clear()
        self._renewing.set()

    def close(self) -> None:
        self._closing.set()
        self._ready.clear()
        self._client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _new_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
        )
        if self._tls is not None:
            client.tls_set_context(self._tls.context)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=self._will.retain)
        client.on_socket_open = _at_once
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_publish = self._answered_for
        return client

    def _stay_connected(self) -> None:
        failures = 0
        while not self._closing.is_set():
            before, began = self.sessions, time.monotonic()
            # A client of its own for each session: paho would resend what it still has in memory,
            # and what is to be sent again is for the layer above to say.
            self._client = self._new_client()
            self._answered = self._refused = False
            self._ended.clear()  # Before `connect`: a session may end within it.
            self._renewing.clear()
            try:
                self._client.connect(
                    self._broker.host,
                    self._broker.port,
                    keepalive=self._broker.keepalive_s,
                    clean_start=True,
                )
                self._serve(self._client)
                if self.sessions == before and not self._closing.is_set() and not self._refused:
                    raise OSError("no answer as of an MQTT 5 broker")
            except (OSError, ValueError) as exc:
                level = logging.DEBUG if failures else logging.WARNING
                where = f"{self._broker.host}:{self._broker.port}"
                log.log(level, "cannot reach %s: %s; it is tried again", where, exc)
            self._ready.clear()
            lasted = self.sessions > before and time.monotonic() - began >= _LASTED_S
            failures = 0 if lasted else failures + 1
            bound = min(self._broker.reconnect_most_s, BACKOFF_FIRST_S * 2 ** min(failures, 16))
            self._closing.wait(self._jitter(bound))

    def _serve(self, client: mqtt.Client) -> None:
        """Let paho's own thread do all reading and writing until the session ends.

        With `loop_forever` here, a `publish` from another thread would write to the socket itself,
        at the same time: packets would mix, and TLS would break the connection.
        """
        client.loop_start()
        patience, look = time.monotonic() + _ANSWER_S, 0.0
        while not self._ended.wait(_POLL_S):
            if self._closing.is_set() and not client.is_connected():
                return
            if self._tls is not None and time.monotonic() > look:
                look = time.monotonic() + _LOOK_S
                if self._tls.renewed():
                    log.info("the TLS files have changed: connecting anew")
                    self.renew()
            if self._renewing.is_set():
                self._part(client)
            elif time.monotonic() > patience and not self._answered:
                client.disconnect()

    def _part(self, client: mqtt.Client) -> None:
        # With the will, for this device may be gone before it is back.
        client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=0x04))
        connection = client.socket()
        if not self._ended.wait(_GOODBYE_S) and isinstance(connection, socket.socket):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _connected(
        self, client: mqtt.Client, _: Any, __: Any, reason: Any, properties: Any
    ) -> None:
        self._answered, self._refused = True, reason.is_failure
        self.most_bytes = getattr(properties, "MaximumPacketSize", None)
        if self._closing.is_set():
            client.disconnect()  # `close` came before there was a connection to end.
        elif reason.is_failure:
            log.error("the broker refused the connection: %s", reason)
        elif self._filters:
            client.subscribe([(entry, SubscribeOptions(qos=1)) for entry in self._filters])
        else:
            self._begin_session()

    def _subscribed(
        self, client: mqtt.Client, _: Any, __: Any, reasons: list[Any], ___: Any
    ) -> None:
        refused = [
            f"{entry} ({reason})"
            for entry, reason in zip(self._filters, reasons, strict=False)
            if reason.is_failure
        ]
        if refused:
            self._refused = True
            log.error("the broker refused to subscribe us to %s", ", ".join(refused))
            client.disconnect()  # And try again: its rules may change.
        else:
            self._begin_session()

    def _begin_session(self) -> None:
        self.sessions += 1
        self._ready.set()

    def _disconnected(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if self._ready.is_set() and reason.value in _BLAMES and self._on_refusal is not None:
            self._on_refusal(Refusal(None, reason.value, str(reason)))
        self._ready.clear()
        self._ended.set()
        log.info("disconnected: %s", reason)

    def _token(self, number: int) -> int:
        """Of a message; the client of each session numbers its own from 1 to 65,535."""
        return self.sessions << 16 | number

    def _answered_for(self, _: Any, __: Any, number: int, reason: Any, ___: Any) -> None:
        if self._on_acknowledged is not None:
            self._on_acknowledged(self._token(number))
        if reason.is_failure and self._on_refusal is not None:
            self._on_refusal(Refusal(self._token(number), reason.value, str(reason)))

    def _received(self, _: Any, __: Any, message: mqtt.MQTTMessage) -> None:
        if self._on_message is None:
            return
        properties = message.properties
        try:
            self._on_message(
                Message(
                    topic=message.topic,
                    payload=bytes(message.payload),
                    retain=message.retain,
                    correlation=getattr(properties, "CorrelationData", None),
                    response_topic=getattr(properties, "ResponseTopic", None),
                )
            )
        except Exception:
            log.exception("a message on %s was not handled", message.topic)


def _at_once(_: mqtt.Client, __: Any, connection: Any) -> None:
    """Send small messages when they are there: Nagle's algorithm (RFC 896) waits for an
    acknowledgement, which the other side delays by 40 ms."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _properties(message: Message) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ContentType = CONTENT_TYPE
    properties.UserProperty = ("schema", str(message.schema))
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.response_topic is not None:
        properties.ResponseTopic = message.response_topic
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    return properties
