"""Questions for a second opinion that are on their way."""

from __future__ import annotations

import logging
import math
from collections.abc import Set
from dataclasses import dataclass

from edgeclin import wire
from edgeclin.offline_queue import OfflineQueue, Question
from edgeclin.sync.link import Link
from edgeclin.sync.uploading import Upload, whole_bytes
from edgeclin.transport import Message, Transport

log = logging.getLogger(__name__)

_AT_ONCE = 16
_UNASKABLE = 4096


@dataclass(frozen=True, slots=True)
class _Asked:
    """About which result, since when, in which message."""

    result: str
    at: float
    token: int


class Asking:
    """Asks the oldest questions, and again those that nobody answered in time; of those that go in
    parts one after the other.

    Args:
        timeout_s: how long an opinion may take.
    """

    def __init__(
        self,
        queue: OfflineQueue,
        transport: Transport,
        topics: wire.Topics,
        timeout_s: float,
        link: Link,
    ) -> None:
        self._queue, self._transport, self._topics = queue, transport, topics
        self._timeout_s, self._link = timeout_s, link
        self._outstanding: dict[int, _Asked] = {}
        self._unaskable: set[int] = set()
        self._upload: Upload | None = None
        self._later: dict[int, None] = {}
        self._after = 0

    @property
    def outstanding(self) -> set[int]:
        """The rows that are asked about now."""
        return set(self._outstanding) | ({self._upload.seq} if self._upload else set())

    def clear(self) -> None:
        """Forget what is on its way, and begin with the oldest again."""
        self._outstanding.clear()
        self._later.clear()
        if self._upload is not None:
            self._upload.clear()
        self._after = 0

    def ask(self, now: float, but: Set[int]) -> int | None:
        """Ask the next question.

        Args:
            but: rows that are not to be asked about.

        Returns:
            how many questions were handled; 0 when none may be asked, None when the link has no
            room for it yet.
        """
        for seq, one in list(self._outstanding.items()):
            if now - one.at >= self._timeout_s:
                self._forget(seq)
        if len(self._outstanding) >= _AT_ONCE:
            return 0
        away = self._unaskable | but | self.outstanding | self._later.keys()
        for question in self._queue.questions(after=self._after, limit=1):
            if question.seq not in away:
                if self._in_parts(question):
                    self._begin(question, now)
                elif self._link.has_room(len(question.ask)):
                    self._ask(question, now)
                else:
                    return None
            self._after = question.seq
            return 1
        if self._upload is None and self._later:
            seq = next(iter(self._later))
            del self._later[seq]
            self._after = min(self._after, seq - 1)
            return 1
        return 0

    def send_part(self, now: float, but: Set[int]) -> int | None:
        """Send the next part of a question that goes in parts; see `ask`."""
        upload = self._upload
        if upload is None or upload.seq in but:
            return 0
        if upload.over(now):
            self._end_upload(answered=False)
            return 1
        return upload.send(now)

    def ask_about(self, seq: int, now: float) -> None:
        """Ask about one row, if that is still asked."""
        for question in self._queue.questions(after=seq - 1, limit=1):
            if question.seq == seq and self._in_parts(question):
                self._begin(question, now)
                self.send_part(now, frozenset())
            elif question.seq == seq:
                self._ask(question, now)

    def answered(self, result: str) -> None:
        """Forget the question about a result."""
        self._outstanding = {
            seq: one for seq, one in self._outstanding.items() if one.result != result
        }
        if self._upload is not None and self._upload.result == result:
            self._end_upload(answered=True)

    def kept(self, kept: wire.Kept, now: float) -> None:
        """Take in which parts the cloud has."""
        if self._upload is not None:
            self._upload.kept(kept, now)

    def refused(self, token: int) -> tuple[str, list[int]]:
        """Forget the question of a message that the broker did not take, to ask it later; returns
        its topic, and its row, if it was one."""
        if self._upload is not None and self._upload.sent(token):
            self._upload.clear()
            return self._topics.part, [self._upload.seq]
        found = [seq for seq, one in self._outstanding.items() if one.token == token]
        for seq in found:
            self._forget(seq)
        return self._topics.ask, found

    def give_up(self, seq: int, why: str) -> None:
        """Leave an answer to a person, at its deadline: the broker does not take the question, nor
        will it in this process's time."""
        log.error("ALARM: no opinion can be asked about row %d: %s", seq, why)
        still = {question.seq for question in self._queue.questions(limit=_UNASKABLE)}
        self._unaskable = {seq, *(self._unaskable & still)}
        if self._upload is not None and self._upload.seq == seq:
            self._end_upload(answered=True)

    def _forget(self, seq: int) -> None:
        del self._outstanding[seq]
        self._after = min(self._after, seq - 1)

    def _in_parts(self, question: Question) -> bool:
        return len(question.ask) > whole_bytes(self._link, self._transport)

    def _begin(self, question: Question, now: float) -> None:
        """Send a question in parts, or later where another one is."""
        if self._upload is None:
            self._upload = Upload(
                question, self._transport, self._topics, self._link, self._timeout_s, now
            )
        elif self._upload.seq != question.seq:
            self._later[question.seq] = None

    def _end_upload(self, *, answered: bool) -> None:
        """Let another question have its turn before one without an answer is asked again."""
        assert self._upload is not None
        seq, self._upload = self._upload.seq, None
        if not answered:
            self._later[seq] = None

    def _ask(self, question: Question, now: float) -> None:
        message = Message(
            self._topics.ask,
            question.ask,
            correlation=question.result.encode(),
            response_topic=self._topics.opinion,
            expiry_s=max(1, math.ceil(question.remaining_s)),
        )
        token = self._transport.publish(message)
        self._link.carries(token, len(question.ask))
        self._outstanding[question.seq] = _Asked(question.result, now, token)
