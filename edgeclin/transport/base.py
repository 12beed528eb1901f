"""The seam between edgeclin and a message broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    """One message, with the MQTT 5 properties that edgeclin uses; `schema` is of the payload."""

    topic: str
    payload: bytes
    schema: int = 1
    retain: bool = False
    correlation: bytes | None = None
    response_topic: str | None = None
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The broker's word that it did not take a message.

    Attributes:
        token: of the message, as `publish` returned it; None where the connection has ended for
            something that was sent, and nobody says what.
        code: the reason code of MQTT 5, at least 128 (2.4).
        reason: the same in words.
    """

    token: int | None
    code: int
    reason: str


OnMessage: TypeAlias = Callable[[Message], None]
OnRefusal: TypeAlias = Callable[[Refusal], None]
OnAcknowledged: TypeAlias = Callable[[int], None]


class Transport(Protocol):
    """A connection that comes and goes by itself.

    Delivery is at least once at best, and at most once when a broker restarts: only the
    receipts of the layer above prove anything. The transport reconnects on its own, with
    exponential backoff and full jitter, and subscribes anew each time.
    """

    def open(
        self,
        filters: Sequence[str],
        on_message: OnMessage,
        will: Message | None = None,
        on_refusal: OnRefusal | None = None,
        on_acknowledged: OnAcknowledged | None = None,
    ) -> None:
        """Begin to connect, and return at once.

        `on_message` runs on the transport's own thread and must not block for long. An exception
        from it is logged, and the message counts as not handled. `on_refusal` runs there too,
        perhaps before `publish` has returned, and so does `on_acknowledged`, with the token of a
        message that the broker has received, whether it takes it or not.
        """

    def publish(self, message: Message) -> int:
        """Hand a message over for sending.

        Returns:
            its token, another one than of all before it.

        Raises:
            NotConnected: there is no connection; the message was not kept.
        """

    @property
    def most_bytes(self) -> int | None:
        """The largest message that the broker takes, with its topic and properties; None where it
        did not say."""

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and our subscriptions."""

    @property
    def sessions(self) -> int:
        """How often a connection was made; a change says that in-flight messages may be lost."""

    def renew(self) -> None:
        """Take the connection as lost, though it may not look so, and make another."""

    def close(self) -> None:
        """Disconnect in good order, which keeps the broker from publishing the will."""


AROUND = 512
"""Bytes of a message beside its payload, at most: topics with names of 64, and properties."""


def fits(message: Message, transport: Transport) -> bool:
    """Whether a broker takes a message of that length, as far as it said."""
    most = transport.most_bytes
    return most is None or len(message.payload) + AROUND <= most
