"""Gives second opinions: a bigger model judges the samples that the edge was unsure about."""

from __future__ import annotations

import logging

import numpy as np

from edgeclin import wire
from edgeclin.errors import BadInput, BadMessage, EngineFailed
from edgeclin.runtime import Runtime
from edgeclin.transport import Message, Transport

log = logging.getLogger(__name__)


class Offload:
    """One offload worker; run as many as needed on the shared subscription.

    Attributes:
        answered, refused: questions since the start.
    """

    def __init__(self, runtime: Runtime, transport: Transport) -> None:
        self._runtime = runtime
        self._transport = transport
        self.answered = 0
        self.refused = 0

    def open(self) -> None:
        """Begin to connect; the transport calls `handle` from then on."""
        self._transport.open((wire.OFFLOAD_FILTER,), self.handle)

    def handle(self, message: Message) -> None:
        """Answer one question; a sample that cannot be judged is answered with that."""
        try:
            topics, _ = wire.parse_topic(message.topic)
            ask = wire.decode(message.payload, wire.Ask)
            sample = wire.from_array(ask.input)
        except BadMessage as exc:
            self.refused += 1
            log.warning("refused a question on %s: %s", message.topic, exc)
            return
        self._transport.publish(
            Message(
                topics.opinion,
                wire.encode(self._judge(ask.result, sample)),
                correlation=message.correlation,
            )
        )
        self.answered += 1

    def _judge(self, result: str, sample: np.ndarray) -> wire.Opinion:
        model = self._runtime.bundle.digest
        try:
            answer = self._runtime.predict(sample)
        except (BadInput, EngineFailed) as exc:
            return wire.Opinion(
                result=result, model=model, label=None, confidence=0.0, reason=str(exc)
            )
        return wire.Opinion(
            result=result, model=model, label=answer.label, confidence=answer.confidence
        )

    def close(self) -> None:
        """Disconnect."""
        self._transport.close()
