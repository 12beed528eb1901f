"""Connections of clients that must not hold the endpoint up."""

from __future__ import annotations

import asyncio
import errno
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeclin.errors import EdgeclinError

HEAD_S = 10.0
"""How long the head of a request may take to come."""
STALLED_S = 15.0
"""After so long the kernel ends a connection whose client takes nothing more."""
MOST = 256
_BACKLOG = 64


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which the head of a request does not come in time.

    uvicorn itself waits for ever for the rest of a head.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait_no_more()

    def _wait_for_head(self) -> None:
        """Begin to wait where a head has begun to come, end it where it is there."""
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_S, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        EdgeclinError: the port is taken, or the address is not this machine's.
    """
    try:
        *kind, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # The protocol too, or asyncio leaves Nagle's algorithm on: 40 ms an answer.
        listening = socket.socket(*kind)
    except OSError as exc:
        raise EdgeclinError(f"http.host {host}: {exc.strerror}") from exc
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_S * 1000))
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        end = "" if exc.errno == errno.EACCES else "end what uses it, or "
        raise EdgeclinError(
            f"port {port} of {host} cannot be used ({exc.strerror}); {end}give another with "
            "--http, 0 for any that is free"
        ) from exc
    return listening
