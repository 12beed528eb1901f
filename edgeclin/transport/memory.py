"""A broker inside the process, with a switch for the network."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgeclin.errors import NotConnected
from edgeclin.transport.base import Message, OnAcknowledged, OnMessage, OnRefusal, Refusal

log = logging.getLogger(__name__)


class MemoryBroker:
    """Routes messages between the transports it makes; shared subscriptions take turns.

    As in MQTT 5, only what was kept from before arrives marked `retain`, and a shared
    subscription gets nothing of it.
    """

    def __init__(self) -> None:
        self._transports: list[MemoryTransport] = []
        self._retained: dict[str, Message] = {}
        self._turns: Counter[str] = Counter()
        self._lock = threading.RLock()

    def transport(self) -> MemoryTransport:
        """A new client of this broker."""
        return MemoryTransport(self)

    def attach(self, transport: MemoryTransport) -> None:
        with self._lock:
            self._transports.append(transport)
            kept = [
                message
                for message in self._retained.values()
                if any(topic_matches(entry, message.topic) for entry in transport.filters)
            ]
        for message in kept:
            transport.receive(message)

    def detach(self, transport: MemoryTransport) -> None:
        with self._lock:
            if transport in self._transports:
                self._transports.remove(transport)

    def route(self, message: Message) -> None:
        with self._lock:
            if message.retain and message.payload:
                self._retained[message.topic] = message
            elif message.retain:
                self._retained.pop(message.topic, None)
            groups: dict[str, list[MemoryTransport]] = {}
            direct: list[MemoryTransport] = []
            for transport in self._transports:
                for entry in transport.filters:
                    if not topic_matches(_plain(entry), message.topic):
                        continue
                    if entry.startswith("$share/"):
                        groups.setdefault(entry, []).append(transport)
                    elif transport not in direct:
                        direct.append(transport)
            chosen = direct
            for entry, members in groups.items():
                chosen.append(members[self._turns[entry] % len(members)])
                self._turns[entry] += 1
        for transport in chosen:
            transport.receive(replace(message, retain=False))


class MemoryTransport:
    """One client; `cut` and `mend` break and restore its link.

    Attributes:
        refuses: the reason code by which the broker refuses a message, 0 for none.
        ends: whether a message makes the broker end the connection, and say that it does.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._on_message: OnMessage | None = None
        self._on_refusal: OnRefusal | None = None
        self._on_acknowledged: OnAcknowledged | None = None
        self._token = 0
        self.refuses: Callable[[Message], int] = lambda message: 0
        self.ends: Callable[[Message], bool] = lambda message: False
        self.most_bytes: int | None = None
        self._will: Message | None = None
        self.filters: tuple[str, ...] = ()
        self.connected = False
        self.sessions = 0

    def open(
        self,
        filters: Sequence[str],
        on_message: OnMessage,
        will: Message | None = None,
        on_refusal: OnRefusal | None = None,
        on_acknowledged: OnAcknowledged | None = None,
    ) -> None:
        self.filters, self._on_message, self._will = tuple(filters), on_message, will
        self._on_refusal, self._on_acknowledged = on_refusal, on_acknowledged
        self.mend()

    def publish(self, message: Message) -> int:
        if not self.connected:
            raise NotConnected("the link is cut")
        self._token += 1
        if self.ends(message):
            self.connected = False
            self._broker.detach(self)
            if self._on_refusal is not None:
                self._on_refusal(Refusal(None, 0x82, "Protocol error"))
            return self._token
        if self._on_acknowledged is not None:
            self._on_acknowledged(self._token)
        code = self.refuses(message)
        if not code:
            self._broker.route(message)
        elif self._on_refusal is not None:
            self._on_refusal(Refusal(self._token, code, f"refused by {code:#x}"))
        return self._token

    def receive(self, message: Message) -> None:
        if self._on_message is None:
            return
        try:
            self._on_message(message)
        except Exception:
            log.exception("a message on %s was not handled", message.topic)

    def cut(self) -> None:
        """Lose the network: the broker publishes the will."""
        self.connected = False
        self._broker.detach(self)
        if self._will is not None:
            self._broker.route(self._will)

    def mend(self) -> None:
        """Have the network back."""
        self.connected = True
        self.sessions += 1
        self._broker.attach(self)

    def renew(self) -> None:
        self._broker.detach(self)
        self.mend()

    def close(self) -> None:
        self.connected = False
        self._broker.detach(self)


def topic_matches(topic_filter: str, topic: str) -> bool:
    """MQTT's rule: `+` stands for one level, `#` for the rest."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def _plain(topic_filter: str) -> str:
    return topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter
