"""Gives second opinions: a bigger model judges the samples that the edge was unsure about."""

from __future__ import annotations

import logging

import numpy as np

from edgeclin import wire
from edgeclin.cloud.inputs import Inputs
from edgeclin.errors import BadInput, BadMessage, EngineFailed, StoreUnusable
from edgeclin.runtime import Runtime
from edgeclin.transport import Message, Transport

log = logging.getLogger(__name__)


class Offload:
    """One offload worker; run as many as needed on the shared subscription.

    Args:
        inputs: where ingest keeps the questions that come in parts; without them this worker
            leaves those to others.

    Attributes:
        answered, refused: questions since the start.
    """

    def __init__(
        self, runtime: Runtime, transport: Transport, inputs: Inputs | None = None
    ) -> None:
        self._runtime = runtime
        self._transport = transport
        self._inputs = inputs
        self.answered = 0
        self.refused = 0

    def open(self) -> None:
        """Begin to connect; the transport calls `handle` from then on."""
        self._transport.open(wire.OFFLOAD_FILTERS, self.handle)

    def handle(self, message: Message) -> None:
        """Answer one question; a sample that cannot be judged is answered with that."""
        try:
            topics, _ = wire.parse_topic(message.topic)
            if message.topic == topics.whole:
                self._answer_whole(topics, message)
            else:
                self._answer(topics, message, wire.decode(message.payload, wire.Ask))
        except (BadMessage, StoreUnusable) as exc:
            self.refused += 1
            log.warning("refused a question on %s: %s", message.topic, exc)

    def _answer(self, topics: wire.Topics, message: Message, ask: wire.Ask) -> None:
        opinion = self._judge(ask.result, wire.from_array(ask.input))
        self._transport.publish(
            Message(topics.opinion, wire.encode(opinion), correlation=message.correlation)
        )
        self.answered += 1

    def _answer_whole(self, topics: wire.Topics, message: Message) -> None:
        """Answer a question that came in parts, or have the device send them again."""
        asked = wire.decode(message.payload, wire.AskWhole)
        if self._inputs is None:
            raise BadMessage("its input is in the store of ingest: start offload with --store")
        data = self._inputs.read(topics, asked.whole)
        if data is None:
            gone = wire.Kept(asked.whole, (), "it is not kept here")
            self._transport.publish(Message(topics.kept, wire.encode(gone)))
            return
        ask = wire.decode(data, wire.Ask)
        if ask.result != asked.result:
            raise BadMessage(f"its input belongs to {ask.result}, not to {asked.result}")
        self._answer(topics, message, ask)
        self._inputs.answered(topics, asked.whole)

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
