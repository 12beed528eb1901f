"""Who is let in: programs and pages of this machine, and no page of another site in a browser here.

There are no users or passwords: whoever may open a connection may ask. What is kept out are pages
that a browser on this machine shows, for they reach its loopback too.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeclin.config import HTTPConfig, is_loopback
from edgeclin.endpoint.refusal import refusal

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
_HEADERS = {
    # All that the page loads comes from here, and no page may frame it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class Doorkeeper:
    """Refuses what other sites have a browser send, and marks every answer."""

    def __init__(self, app: ASGIApp, config: HTTPConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._known(host):
            answer = refusal(
                421,
                "this endpoint answers to localhost, 127.0.0.1 and [::1] only, whatever "
                "name a name server gives this machine",
            )
            await answer(scope, receive, marked)
        elif _from_elsewhere(headers, host) and not _followed(scope["method"], headers):
            await refusal(403, "a page of another site may not ask here")(scope, receive, marked)
        else:
            await self._app(scope, receive, marked)

    def _known(self, host: str) -> bool:
        """Whether a Host header names this machine; a name that another's name server leads here
        does not (DNS rebinding)."""
        name = _name(host)
        if self._config.on_loopback:
            return is_loopback(name)
        return name in ("localhost", self._config.host) or _is_address(name)


def _followed(method: str, headers: Headers) -> bool:
    """Whether somebody followed a link, which shows them the page and the other site nothing."""
    return method == "GET" and headers.get("sec-fetch-mode") == "navigate"


def _from_elsewhere(headers: Headers, host: str) -> bool:
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin != f"http://{host}"


def _name(host: str) -> str:
    """Without the port; empty for what is no Host header (RFC 9110, 7.2)."""
    found = _HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
