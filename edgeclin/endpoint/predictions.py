"""`POST /predict`: one sample in, its answer out once it is stored."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import TimeoutError as ThreadTimeoutError

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edgeclin.bedside import Bedside
from edgeclin.config import HTTPConfig
from edgeclin.endpoint.body import JSON, NPY, media_types, sample_of
from edgeclin.endpoint.refusal import json, refusal
from edgeclin.errors import EdgeclinError, MissingExtra
from edgeclin.inbox import Sample
from edgeclin.offline_queue import Stored
from edgeclin.records import Record, Result
from edgeclin.sources.json_lines import MAX_STREAMS

NAME = "http"
AT_ONCE = 16
"""Requests whose bodies may be in memory, or whose samples may wait."""
MOST_JSON = 2 << 20
"""While JSON is read Python judges nothing: 1 MiB of it took 10 to 60 ms on x86-64."""
_LOOP_S = 1.0
"""The event loop answers so soon, or not any more."""
BODY_S = 20.0
"""How long a body may take to come."""
STREAM = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class Answer(Record, frozen=True):
    """What was stored about a sample."""

    seq: int
    id: str
    result: Result


class Stopping(Exception):
    """The loop has ended, so that a sample that waits is not judged."""


class Predictions:
    """Offers what comes to the loop, and answers when it has."""

    def __init__(self, bedside: Bedside, config: HTTPConfig) -> None:
        self._bedside = bedside
        self._most = config.max_body_mb << 20
        self._answer_s = config.answer_s
        self._at_once = 0
        self._decoding = asyncio.Lock()  # decoded, a body may take many times its size
        self._streams: set[str] = set()
        self._waiters: set[asyncio.Future[Answer | str]] = set()

    def stop(self) -> None:
        """Tell all who wait that no answer will come."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(Stopping())

    async def answer(self, request: Request) -> Response:
        """The route."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        known = media_types(self._bedside.runtime.bundle.manifest.inputs[0])
        if media_type not in known:
            return refusal(
                415,
                f"a body of type {media_type!r}; this bundle takes {', '.join(known)}",
                Accept=", ".join(known),
            )
        packed = request.headers.get("content-encoding", "identity")
        if packed.strip().lower() != "identity":
            return refusal(415, f"a body packed by {packed!r}; send it as it is")
        stream = request.query_params.get("stream")
        if stream is not None and not STREAM.fullmatch(stream):
            return refusal(
                400, "a stream's name must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"
            )
        if self._at_once >= AT_ONCE:
            return _busy(f"{AT_ONCE} requests are at work already")
        self._at_once += 1
        try:
            return await self._take(request, media_type, stream)
        except asyncio.TimeoutError:
            return refusal(408, f"the body did not come within {BODY_S:g} s")
        except ClientDisconnect:
            return refusal(400, "the body ended early")
        finally:
            self._at_once -= 1

    async def _take(self, request: Request, media_type: str, stream: str | None) -> Response:
        most = min(self._most, MOST_JSON) if media_type == JSON else self._most
        body = await asyncio.wait_for(_read(request, most), BODY_S)
        if body is None:
            remedy = f"send it as {NPY}" if most < self._most else "raise http.max_body_mb"
            return refusal(413, f"a body of over {most >> 20} MiB; {remedy}")
        try:
            async with self._decoding:
                sample, named = await run_in_threadpool(sample_of, media_type, body)
        except MissingExtra as exc:
            return refusal(501, str(exc))
        if stream is not None and named not in (None, stream):
            return refusal(400, f"the stream is {stream} in the address and {named} in the body")
        stream = stream or named
        name = NAME if stream is None else f"{NAME}/{stream}"
        if name not in self._streams and len(self._streams) >= MAX_STREAMS:
            return refusal(429, f"{stream!r} would be more than {MAX_STREAMS} streams")
        self._streams.add(name)
        return await self._judged(name, sample)

    async def _judged(self, name: str, sample: Sample) -> Response:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer | str] = loop.create_future()

        def answered(stored: Stored | None, result: Result) -> bool:
            try:
                if stored is None:
                    return _refused(loop, waiter, self._bedside.full)
                answer = Answer(stored.seq, stored.id, result)
                loop.call_soon_threadsafe(_settle, waiter, answer)
            except RuntimeError:  # the endpoint has closed
                return False
            return True

        try:
            line = await run_in_threadpool(self._bedside.inbox.line, name)
        except EdgeclinError as exc:  # the queue, which knows where a stream goes on
            return _busy(str(exc))
        if not line.offer(sample, answered):
            if self._bedside.inbox.stopped.is_set():
                return _stopped()
            return _busy(f"as many samples of {name} as may wait do so already")
        self._waiters.add(waiter)
        try:
            answer = await asyncio.wait_for(waiter, self._answer_s)
        except asyncio.TimeoutError:
            return refusal(
                504,
                f"no answer within {self._answer_s:g} s; the sample waits, and while `edgeclin "
                "run` goes on its result will be stored and shown: do not send it again",
            )
        except Stopping:
            return _stopped()
        finally:
            self._waiters.discard(waiter)
        if isinstance(answer, str):
            return _busy(f"its answer cannot be stored: {answer}")
        return json(answer, 422 if answer.result.rejected else 200)


async def _read(request: Request, most: int) -> bytes | None:
    """The body, or None for one that is too long."""
    if int(request.headers.get("content-length", "0")) > most:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


def _refused(
    loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[Answer | str], why: str
) -> bool:
    """Tell who waits that no answer can be stored, from another thread; whether somebody was told.

    Where the loop does not say so in time, nobody will be: the answer is kept instead.
    """
    told: ThreadFuture[bool] = ThreadFuture()

    def tell() -> None:
        if told.set_running_or_notify_cancel():
            told.set_result(_settle(waiter, why))

    loop.call_soon_threadsafe(tell)
    try:
        return told.result(_LOOP_S)
    except ThreadTimeoutError:
        return not told.cancel() and told.result()


def _settle(waiter: asyncio.Future[Answer | str], answer: Answer | str) -> bool:
    """Tell who waits; returns whether somebody does."""
    if waiter.done():
        return False
    waiter.set_result(answer)
    return True


def _busy(why: str) -> Response:
    return refusal(503, f"{why}; ask again", Retry_After="1")


def _stopped() -> Response:
    return refusal(
        503, "`edgeclin run` is stopping and stored nothing about this sample", Retry_After="5"
    )
