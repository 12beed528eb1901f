"""Why a request got no answer about its sample, in one sentence."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from edgeclin.records import Record


class Refusal(Record, frozen=True):
    """The body of every answer from 400 on, but for 422 with a recorded result."""

    error: str


def refusal(status: int, error: str, **headers: str) -> Response:
    """An answer that refuses; names of headers are written with `_` for `-`.

    What is left of the body is not read: the connection closes.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return json(Refusal(error), status, {"Connection": "close", **named})


def json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A record as an answer."""
    body = msgspec.json.encode(value)
    return Response(body, status, headers, media_type="application/json")
