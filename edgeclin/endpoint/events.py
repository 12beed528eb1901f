"""`GET /events`: results and health as server-sent events, to listeners of any speed."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgeclin.endpoint.health import Health
from edgeclin.endpoint.history import Cursor, History
from edgeclin.endpoint.refusal import refusal

LISTENERS = 16
HEALTH_S = 1.0
_TURN_S = 0.1
_MEDIA_TYPE = "text/event-stream"
_ID = re.compile(r"([0-9a-f]{16})-(\d{1,15})-(\d{1,15})")


class Events:
    """Streams to each listener what changed since it was told last.

    An event `results` holds a `Latest` and has an id, with which a listener that comes back goes on
    (`Last-Event-ID`); one from before a restart gets all that is kept. An event `health` follows
    every second, so that a listener that hears nothing for longer knows that the link is gone.

    Args:
        health: how the device is, made anew at most once in `HEALTH_S`.
    """

    def __init__(self, history: History, health: Callable[[], Health]) -> None:
        self._history = history
        self._health = health
        self._session = secrets.token_hex(8)
        self._open = 0
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await Response(media_type=_MEDIA_TYPE)(scope, receive, send)
            return
        if self._open >= LISTENERS:
            answer = refusal(503, f"{LISTENERS} listeners already", Retry_After="5")
            await answer(scope, receive, send)
            return
        self._open += 1
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await self._tell(self._cursor(Headers(scope=scope)), gone, send)
        finally:
            gone.cancel()
            self._open -= 1

    def _cursor(self, headers: Headers) -> Cursor:
        found = _ID.fullmatch(headers.get("last-event-id", ""))
        if found is None or found[1] != self._session:
            return Cursor()
        return Cursor(int(found[2]), int(found[3]))

    async def _tell(self, cursor: Cursor, gone: asyncio.Future[None], send: Send) -> None:
        headers = [(b"content-type", _MEDIA_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        told = float("-inf")
        text = b"retry: 1000\n\n"
        first = True
        while not gone.done() and not self.stopping:
            if first or cursor != self._history.cursor:
                latest, cursor = self._history.since(cursor)
                identity = f"{self._session}-{cursor.change}-{cursor.count}"
                text += _event("results", latest, identity)
                first = False
            if time.monotonic() - told >= HEALTH_S:
                told = time.monotonic()
                text += _event("health", self._health())
            if text:
                await send({"type": "http.response.body", "body": text, "more_body": True})
                text = b""
            await asyncio.sleep(_TURN_S)
        if not gone.done():
            await send({"type": "http.response.body", "body": b""})


def _event(name: str, value: object, identity: str = "") -> bytes:
    text = f"event: {name}\n".encode()
    if identity:
        text += f"id: {identity}\n".encode()
    return text + b"data: " + msgspec.json.encode(value) + b"\n\n"


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
