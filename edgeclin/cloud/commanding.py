"""Commands a device: signs one request, sends it while the device is there, awaits the reply."""

from __future__ import annotations

import hashlib
import math
import queue
import time
from collections.abc import Callable
from typing import Any

import msgspec

from edgeclin import wire
from edgeclin.errors import BadMessage, NoAnswer, NotConnected
from edgeclin.keys import envelope_of
from edgeclin.transport import Message, Refusal, Transport

_POLL_S = 0.2


class Commanding:
    """One who commands one device.

    A request is for one life of the device's queue, whose epoch the device's status tells, so that
    none can be carried out by what a device is after it lost all that it knew. Its number is the
    milliseconds of this machine's clock: that grows by itself, on every machine that has the key.

    Args:
        transport: not yet opened.
        signer: of a key that the device trusts.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        transport: Transport,
        topics: wire.Topics,
        signer: Any,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._topics, self._signer = transport, topics, signer
        self._clock, self._monotonic = clock, monotonic
        self._heard: queue.SimpleQueue[Message | Refusal] = queue.SimpleQueue()
        self._name = f"{topics.site}/{topics.device}"

    def command(
        self, command: str, arguments: dict[str, Any], timeout_s: float = 30.0
    ) -> wire.Reply:
        """What became of a command; its outcome may be that it was refused.

        Raises:
            NoAnswer: the device is not there, or says nothing in time.
            NotConnected: the broker cannot be reached, or refuses the request.
        """
        deadline = self._monotonic() + timeout_s
        filters = (self._topics.state, self._topics.reply)
        self._transport.open(filters, self._heard.put, on_refusal=self._heard.put)
        try:
            status = self._find(deadline)
            return self._send(status, command, arguments, deadline)
        finally:
            self._transport.close()

    def _find(self, deadline: float) -> wire.Status:
        """The device's status, once it says that it is there."""
        status = None
        while (left := deadline - self._monotonic()) > 0:
            message = self._next(left)
            if isinstance(message, Message) and message.topic == self._topics.state:
                status = _read(message, wire.Status) or status
                if status is not None and status.state == "online":
                    return status
        if status is not None:
            raise NoAnswer(
                f"{self._name} is {status.state}: nothing was sent; try again when it is there"
            )
        if not self._transport.sessions:
            raise NotConnected("the broker cannot be reached, or does not accept this client")
        raise NoAnswer(
            f"{self._name} is not known to this broker: nothing was sent; is that its name, and "
            "has its `edgeclin sync` been here?"
        )

    def _send(
        self, status: wire.Status, command: str, arguments: dict[str, Any], deadline: float
    ) -> wire.Reply:
        now, left = self._clock(), deadline - self._monotonic()
        request = wire.Request(
            site=self._topics.site,
            device=self._topics.device,
            epoch=status.epoch,
            number=int(now * 1000),
            command=command,
            arguments=arguments,
            made_at=now,
        )
        document = msgspec.json.encode(request)
        envelope = envelope_of(document, wire.REQUEST_TYPE, self._signer)
        payload = wire.encode(msgspec.convert(envelope, wire.SignedRequest))
        token = self._transport.publish(
            Message(self._topics.request, payload, expiry_s=max(1, math.ceil(left)))
        )
        digest = hashlib.sha256(document).hexdigest()
        while (left := deadline - self._monotonic()) > 0:
            message = self._next(left)
            if isinstance(message, Refusal) and message.token in (token, None):
                raise NotConnected(f"the broker does not take a command: {message.reason}")
            if isinstance(message, Message) and message.topic == self._topics.reply:
                reply = _read(message, wire.Reply)
                if reply is not None and reply.digest == digest:
                    return reply
        raise NoAnswer(
            f"{self._name} did not answer in time, and whether it carried the command out is not "
            "known: is the key among its sync.command_keys? What it does not get now it does not "
            "get later"
        )

    def _next(self, left: float) -> Message | Refusal | None:
        try:
            return self._heard.get(timeout=min(left, _POLL_S))
        except queue.Empty:
            return None


def _read(message: Message, kind: type[wire.MessageType]) -> wire.MessageType | None:
    """A message; None where it is none of ours."""
    try:
        return wire.decode(message.payload, kind)
    except BadMessage:
        return None
