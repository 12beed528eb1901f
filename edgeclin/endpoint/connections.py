"""Connections of clients that must not hold the endpoint up."""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeclin.errors import EdgeclinError

HEAD_S = 10.0
"""How long the head of a request may take to come, at least; twice that at most."""
MOST = 256
_BACKLOG = 64


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which no head of a request comes.

    uvicorn itself waits for ever for the rest of a head.
    """

    _idle = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEAD_S, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        idle = self.conn.their_state is h11.IDLE
        if idle and self._idle:
            self.transport.close()
            return
        self._idle = idle
        self.loop.call_later(HEAD_S, self._look)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        EdgeclinError: the port is taken, or the address is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise EdgeclinError(f"http.host {host}: {exc.strerror}") from exc
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        raise EdgeclinError(
            f"port {port} of {host} cannot be used ({exc.strerror}); end what uses it, or give "
            "another with --http, 0 for any that is free"
        ) from exc
    return listening
