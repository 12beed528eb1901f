"""What the cloud tells a device to do: signed, numbered, and written down before it is done."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeAlias

import msgspec

from edgeclin import wire
from edgeclin.errors import BadFile, BadMessage, KeyAbsent, NotConnected, QueueFull
from edgeclin.health import RunHealth, SyncHealth
from edgeclin.keys import signer_of
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Record, Tier
from edgeclin.sync.audit import AuditLog
from edgeclin.transport import Message, Transport, fits
from edgeclin.version import VERSION

log = logging.getLogger(__name__)

_MOST_BYTES = 16 << 10
_MOST_WAITING = 16
_AT_ONCE, _EVERY_S = 20, 900.0
"""Refusals of what no trusted key has signed for this device, or of what came before, are written
and answered so many at once, and then one in so many seconds: nobody fills the disk with them."""
_AGAIN_S = 5.0
"""Between two attempts to open a log that could not be: each reads all of it."""
_NAME = 64

Facts: TypeAlias = dict[str, Any]


class Agent(Protocol):
    """What commands are carried out by."""

    def health(self) -> SyncHealth:
        """How it is now."""

    def drain(self) -> int:
        """Try all that waits at once; returns how many rows were set aside before."""

    def send_first(self, seq: int) -> Tier | None:
        """Send a row ahead of all others; None where it does not wait."""

    def set_budget(self, day_mb: float | None) -> None:
        """Send at most so many megabytes a day; None for what `device.toml` says."""


class _Nothing(Record, frozen=True):
    """No arguments."""


class _SendResult(Record, frozen=True):
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class _SetBudget(Record, frozen=True):
    day_mb: Annotated[float, msgspec.Meta(gt=0, le=1 << 20)] | None


@dataclass(frozen=True, slots=True)
class _Command:
    arguments: type[Record]
    carry_out: Callable[[Any], Facts]


class _CannotBeDone(Exception):
    """Why a command came to nothing, in a sentence."""


class Commands:
    """Takes requests and answers them, one in each step.

    Args:
        keys: the public keys of those who may command.
        clock: seconds since 1970, for the log alone.
        monotonic: seconds.
    """

    def __init__(
        self,
        queue: OfflineQueue,
        transport: Transport,
        topics: wire.Topics,
        keys: Sequence[Any],
        agent: Agent,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._transport, self._topics = queue, transport, topics
        self._keys, self._agent = keys, agent
        self._clock, self._monotonic = clock, monotonic
        self._waiting: deque[Message] = deque()
        self._log: AuditLog | None = None
        self._trouble: BadFile | QueueFull | None = None
        self._again_at = 0.0
        self._numbers: dict[str, int] = {}
        self._allowance, self._allowed_at = float(_AT_ONCE), monotonic()
        self._untold = 0
        self._known = {
            "status": _Command(_Nothing, self._status),
            "drain": _Command(_Nothing, self._drain),
            "send result": _Command(_SendResult, self._send_result),
            "set budget": _Command(_SetBudget, self._set_budget),
        }

    def open(self) -> None:
        """Read the log, so that what is wrong with it is said at once."""
        try:
            self._opened()
        except (BadFile, QueueFull) as exc:
            log.error("ALARM: no command is carried out: %s", exc)

    @property
    def waiting(self) -> int:
        """Requests that wait for their answer."""
        return len(self._waiting)

    def take(self, message: Message) -> None:
        """Take in a request, to answer it in a step."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(message)
        else:
            self._untold += 1

    def step(self) -> None:
        """Answer the next request."""
        if not self._waiting:
            return
        reply = self._answer(self._waiting.popleft())
        if reply is None:
            return
        message = Message(self._topics.reply, wire.encode(reply))
        if not fits(message, self._transport):
            short = msgspec.structs.replace(
                reply, facts={}, reason="the broker takes no answer of this length"
            )
            message = Message(self._topics.reply, wire.encode(short))
        try:
            self._transport.publish(message)
        except NotConnected as exc:
            log.warning("nobody hears what became of a command: %s", exc)

    def _answer(self, message: Message) -> wire.Reply | None:
        try:
            signed = wire.decode(message.payload, wire.SignedRequest, _MOST_BYTES)
            document = signed.document
        except BadMessage as exc:
            return self._refuse("", str(exc))
        digest = hashlib.sha256(document).hexdigest()
        try:
            envelope = msgspec.to_builtins(signed)
            key = signer_of(envelope, wire.REQUEST_TYPE, self._keys)
            request = wire.from_json(document, wire.Request)
            self._require_ours(request)
        except BadMessage as exc:
            return self._refuse(digest, str(exc))
        return self._take_up(request, key, digest)

    def _require_ours(self, request: wire.Request) -> None:
        """Refuse what is for another device, or for another life of this one.

        Raises:
            BadMessage: says which.
        """
        if wire.Topics(request.site, request.device) != self._topics:
            raise BadMessage("it is for another device")
        if request.epoch != self._queue.epoch:
            raise BadMessage("it is for another life of the queue, of another epoch")

    def _take_up(self, request: wire.Request, key: str, digest: str) -> wire.Reply | None:
        """Answer what a trusted key has signed for this device."""
        try:
            audit = self._opened()
        except (BadFile, QueueFull) as exc:
            return self._not_written(request, digest, exc)
        last = self._numbers.get(key, 0)
        if request.number <= last:
            return self._refuse(
                digest,
                f"its number {request.number} is not above {last}, the last by this key: it came "
                "before, or the sender's clock went back",
            )
        self._numbers[key] = request.number
        facts = {"key": key, "number": request.number, "digest": digest}
        facts["command"] = request.command[:_NAME]
        try:
            command = self._known.get(request.command)
            if command is None:
                known = ", ".join(self._known)
                return self._refused(audit, facts, f"unknown command; this one knows {known}")
            try:
                arguments = msgspec.convert(request.arguments, command.arguments)
            except msgspec.ValidationError as exc:
                return self._refused(audit, facts, f"its arguments do not fit: {exc}")
            audit.append("request", **facts, arguments=msgspec.to_builtins(arguments))
        except (BadFile, QueueFull) as exc:
            return self._not_written(request, digest, exc)
        return self._carry_out(command, arguments, request, digest)

    def _carry_out(
        self, command: _Command, arguments: Record, request: wire.Request, digest: str
    ) -> wire.Reply:
        outcome: wire.Outcome
        try:
            facts, reason, outcome = command.carry_out(arguments), "", "done"
        except (_CannotBeDone, KeyAbsent, QueueFull) as exc:
            facts, reason, outcome = {}, str(exc), "failed"
        log.info("command %s, number %d: %s", request.command, request.number, outcome)
        try:
            self._opened().append(
                "outcome", digest=digest, command=request.command, outcome=outcome, reason=reason
            )
        except (BadFile, QueueFull) as exc:
            self._log = None  # Whoever opens it next sees that this line is missing, and says so.
            log.error("ALARM: what became of a command is not written down: %s", exc)
        return self._reply(digest, outcome, request.number, facts, reason)

    def _refused(self, audit: AuditLog, facts: Facts, reason: str) -> wire.Reply:
        """Refuse what counts: its number cannot come again, so that this needs no allowance."""
        audit.append("refused", **facts, reason=reason)
        log.warning("a command was refused: %s", reason)
        return self._reply(facts["digest"], "refused", facts["number"], {}, reason)

    def _refuse(self, digest: str, reason: str) -> wire.Reply | None:
        """Refuse what anybody could repeat: written and answered as far as the allowance goes."""
        now = self._monotonic()
        earned = (now - self._allowed_at) / _EVERY_S
        self._allowance, self._allowed_at = min(self._allowance + earned, float(_AT_ONCE)), now
        if self._allowance < 1:
            self._untold += 1
            return None
        self._allowance -= 1
        log.warning("a command was refused: %s", reason)
        try:
            self._opened().append("refused", digest=digest, reason=reason, count=self._untold)
            self._untold = 0
        except (BadFile, QueueFull) as exc:
            self._log = None
            log.error("ALARM: a refused command is not written down: %s", exc)
        return self._reply(digest, "refused", 0, {}, reason) if digest else None

    def _not_written(self, request: wire.Request, digest: str, exc: Exception) -> wire.Reply:
        self._log = None
        log.error("ALARM: no command is carried out: %s", exc)
        reason = f"nothing was done, for it cannot be written down: {exc}"
        return self._reply(digest, "refused", request.number, {}, reason)

    def _reply(
        self, digest: str, outcome: wire.Outcome, number: int, facts: Facts, reason: str
    ) -> wire.Reply:
        lines, head = (0, "") if self._log is None else (self._log.lines, self._log.head)
        return wire.Reply(digest, outcome, number, facts, reason, lines, head)

    def _opened(self) -> AuditLog:
        """The log, read anew where the file is another.

        Raises:
            BadFile, QueueFull: it cannot be read or written, or could not be a moment ago.
        """
        if self._log is not None and not self._log.moved:
            return self._log
        self._log = None
        if self._trouble is not None and self._monotonic() < self._again_at:
            raise self._trouble
        try:
            self._log = AuditLog(self._queue, self._clock)
        except (BadFile, QueueFull) as exc:
            self._trouble, self._again_at = exc, self._monotonic() + _AGAIN_S
            raise
        for key, number in self._log.numbers.items():
            self._numbers[key] = max(number, self._numbers.get(key, 0))
        return self._log

    def _status(self, _: _Nothing) -> Facts:
        standing, now = self._queue.standing(), self._clock()
        run = self._queue.notices.told(RunHealth)
        facts: Facts = msgspec.to_builtins(
            {
                "version": VERSION,
                "epoch": standing.epoch,
                "last_seq": standing.last_seq,
                "waiting": standing.waiting,
                "oldest_s": standing.oldest_s(now),
                "set_aside": standing.set_aside,
                "sync": self._agent.health(),
                "run": None if run is None else run.health,
                "run_age_s": None if run is None else run.age_s,
                "refusals_not_written": self._untold,
                "audit_problems": [] if self._log is None else self._log.problems[:3],
            }
        )
        return facts

    def _drain(self, _: _Nothing) -> Facts:
        return {"taken_back": self._agent.drain()}

    def _send_result(self, arguments: _SendResult) -> Facts:
        tier = self._agent.send_first(arguments.seq)
        if tier is not None:
            return {"tier": tier.value}
        last = self._queue.last_seq()
        if arguments.seq > last:
            raise _CannotBeDone(f"there never was a row {arguments.seq}; the newest is {last}")
        raise _CannotBeDone(f"row {arguments.seq} waits no more: it was delivered or given up")

    def _set_budget(self, arguments: _SetBudget) -> Facts:
        self._agent.set_budget(arguments.day_mb)
        return {"left": self._agent.health().left}
