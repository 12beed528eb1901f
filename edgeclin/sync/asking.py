"""Questions for a second opinion that are on their way."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Set
from dataclasses import dataclass

from edgeclin import wire
from edgeclin.errors import QueueFull
from edgeclin.offline_queue import OfflineQueue, OpenQuestion, Question
from edgeclin.sync.choice import choose
from edgeclin.sync.link import Link
from edgeclin.sync.uploading import Upload, takes_parts, whole_bytes
from edgeclin.transport import Message, Transport

log = logging.getLogger(__name__)

_AT_ONCE = 16
_MOST = 128
"""Open questions that are looked at, the most doubtful ones."""
_PLAN_S = 0.25
_SPARE_AT_ONCE, _SPARE_LOOK = 4, 32
_SPARE_MOST_S = 3600.0
_MOST_UNASKABLE = 4096


@dataclass(frozen=True, slots=True)
class _Asked:
    """About which result, since when, in which message."""

    result: str
    at: float
    token: int
    spare: bool


class Asking:
    """Asks the questions that are worth most, and again those that nobody answered in time; of
    those that go in parts one after the other.

    Args:
        timeout_s: how long an opinion may take.

    Attributes:
        left_out: open questions that are not asked, for they would come too late or cost more than
            may be spent.
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
        self._unaskable: dict[int, None] = {}
        self._upload: Upload | None = None
        self._tries: Counter[int] = Counter()
        self._spare_at, self._unanswered = -math.inf, 0
        self._spare_asked: deque[str] = deque(maxlen=_MOST)
        self._kept_at = -math.inf
        self.left_out = 0
        self.clear()

    @property
    def outstanding(self) -> set[int]:
        """The rows of whose questions something is on its way."""
        upload = self._upload
        sending = {upload.seq} if upload is not None and upload.on_its_way else set()
        return self._outstanding.keys() | sending

    def clear(self) -> None:
        """Forget what is on its way."""
        self._outstanding.clear()
        if self._upload is not None:
            self._upload.clear()
        self._plan: deque[OpenQuestion] = deque()
        self._planned_for: object = None
        self._planned_at = -math.inf

    def ask(self, now: float, but: Set[int], most_bytes: float) -> int | None:
        """Ask the next question.

        Args:
            but: rows that are not to be asked about.
            most_bytes: that may be spent.

        Returns:
            how many questions were asked; 0 when none may be, None when the link has no room for
            the next one yet.
        """
        self._forget_unanswered(now)
        if len(self._outstanding) >= _AT_ONCE:
            return 0
        away = self._unaskable.keys() | self._outstanding.keys() | but
        if self._upload is not None:
            away.add(self._upload.seq)
        self._plan_anew(now, away, most_bytes)
        while self._plan:
            following = self._plan[0]
            parts = self._in_parts(following.bytes)
            if parts and self._upload is not None and self._upload.spare:
                self._upload = None  # the cloud keeps what it has of it
            if following.seq in away or (parts and self._upload is not None):
                self._plan.popleft()
                continue
            if not parts and not self._link.has_room(following.bytes):
                return None
            self._plan.popleft()
            question = self._queue.question(following.seq)
            if question is not None:
                self._ask(question, now)
                return 1
        return 0

    def ask_spare(self, now: float, but: Set[int]) -> int | None:
        """Ask about a confident answer, the most doubtful one first; see `ask`. While nobody
        answers such questions, each wait is twice as long."""
        self._give_up_upload(now)
        spare = sum(one.spare for one in self._outstanding.values())
        if now < self._spare_at or spare >= _SPARE_AT_ONCE:
            return 0
        away = self._unaskable.keys() | self._outstanding.keys() | but
        if self._upload is not None:
            away.add(self._upload.seq)
        for one in self._queue.most_doubtful_spare(_SPARE_LOOK + len(away)):
            if one.seq in away or (self._upload is not None and self._in_parts(one.bytes)):
                continue
            if not self._link.has_room(min(one.bytes, whole_bytes(self._link, self._transport))):
                return None
            question = self._queue.question(one.seq)
            if question is None:  # its sample is gone, or its key
                self._let_go(one.seq)
                continue
            self._spare_asked.append(question.result)
            self._ask(question, now)
            return 1
        return 0

    def _give_up_upload(self, now: float) -> None:
        """Let one about a confident answer rest whose parts the cloud does not take, or that nobody
        answers."""
        upload = self._upload
        if upload is not None and upload.spare and now - self._kept_at >= self._timeout_s:
            self._upload = None
            self._back_off(now)

    def _back_off(self, now: float) -> None:
        if now >= self._spare_at:
            wait_s = self._timeout_s * 2.0 ** min(self._unanswered, 32)
            self._spare_at = now + min(wait_s, _SPARE_MOST_S)
            self._unanswered += 1

    def _forget_unanswered(self, now: float) -> None:
        for seq, one in list(self._outstanding.items()):
            if now - one.at >= self._timeout_s:
                del self._outstanding[seq]
                if one.spare:
                    self._back_off(now)

    def _plan_anew(self, now: float, away: Set[int], most_bytes: float) -> None:
        """Choose among what is open, where that or what may be spent has changed."""
        known = self._queue.version(), away
        if now - self._planned_at < _PLAN_S and (self._plan or self.left_out):
            return
        if known == self._planned_for and not self.left_out:
            return
        found = self._queue.most_doubtful(_MOST + len(away))
        self._tries = Counter({one.seq: self._tries[one.seq] for one in found})
        waiting = [one for one in found if one.seq not in away]
        chosen = choose(waiting, most_bytes, self._link.most_goodput)
        self.left_out = len(waiting) - len(chosen)
        self._plan = deque(sorted(chosen, key=lambda one: self._tries[one.seq]))
        self._planned_for, self._planned_at = known, now

    def send_part(self, now: float, but: Set[int], spare: bool = False) -> int | None:
        """Send the next part of a question that goes in parts; see `ask`.

        Args:
            spare: whether it may be one about a confident answer.
        """
        upload = self._upload
        if upload is not None and upload.over(now):
            self._upload = None
            return 1
        if upload is None or upload.seq in but or (upload.spare and not spare):
            return 0
        return upload.send(now)

    def ask_about(self, seq: int, now: float) -> None:
        """Ask about one row, if that is still asked."""
        question = self._queue.question(seq)
        if question is not None:
            self._ask(question, now)
            self.send_part(now, frozenset(), spare=True)

    def answered(self, result: str) -> None:
        """Forget the question about a result."""
        self._outstanding = {
            seq: one for seq, one in self._outstanding.items() if one.result != result
        }
        if self._upload is not None and self._upload.result == result:
            self._upload = None
        if result in self._spare_asked:
            self._spare_at, self._unanswered = -math.inf, 0

    def kept(self, kept: wire.Kept, now: float) -> None:
        """Take in which parts the cloud has."""
        if self._upload is not None:
            self._kept_at = now
            self._upload.kept(kept, now)

    def refused(self, token: int) -> tuple[str, list[int]]:
        """Forget the question of a message that the broker did not take, to ask it later; returns
        its topic, and its row, if it was one."""
        if self._upload is not None and self._upload.sent(token):
            self._upload.clear()
            return self._topics.part, [self._upload.seq]
        found = [seq for seq, one in self._outstanding.items() if one.token == token]
        for seq in found:
            del self._outstanding[seq]
        return self._topics.ask, found

    def give_up(self, seq: int, why: str) -> None:
        """Leave an answer to a person, at its deadline: the broker does not take the question, nor
        will it in this process's time."""
        if self._upload is not None and self._upload.seq == seq:
            self._upload = None
        if self._let_go(seq):
            log.warning("row %d is not asked about: %s", seq, why)
            return
        log.error("ALARM: no opinion can be asked about row %d: %s", seq, why)
        self._unaskable[seq] = None
        if len(self._unaskable) > _MOST_UNASKABLE:
            del self._unaskable[next(iter(self._unaskable))]

    def _let_go(self, seq: int) -> bool:
        """Ask no more about a confident answer; whether it is one."""
        try:
            return self._queue.drop_spare(seq)
        except QueueFull:  # of a full disk: not in this process's time
            self._unaskable[seq] = None
            return True

    def _in_parts(self, size: int) -> bool:
        return size > whole_bytes(self._link, self._transport)

    def _ask(self, question: Question, now: float) -> None:
        """Ask a question, or begin to send it in parts."""
        self._tries[question.seq] += 1
        if self._in_parts(len(question.ask)):
            if not takes_parts(self._transport):
                self.give_up(question.seq, f"{len(question.ask)} bytes are too large")
            elif self._upload is None:
                self._kept_at = now
                self._upload = Upload(
                    question, self._transport, self._topics, self._link, self._timeout_s, now
                )
            return
        message = Message(
            self._topics.ask,
            question.ask,
            correlation=question.result.encode(),
            response_topic=self._topics.opinion,
            expiry_s=max(1, math.ceil(question.remaining_s)),
        )
        token = self._transport.publish(message)
        self._link.carries(token, len(question.ask))
        self._outstanding[question.seq] = _Asked(question.result, now, token, question.spare)
