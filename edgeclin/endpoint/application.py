"""The routes of the endpoint, and what is behind each."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeclin.bedside import Bedside
from edgeclin.config import HTTPConfig
from edgeclin.endpoint import metrics
from edgeclin.endpoint.body import media_types
from edgeclin.endpoint.doorkeeper import Doorkeeper
from edgeclin.endpoint.drawing import draw
from edgeclin.endpoint.events import Events
from edgeclin.endpoint.health import Watch
from edgeclin.endpoint.history import KEPT, History
from edgeclin.endpoint.openapi import Results, document
from edgeclin.endpoint.predictions import Predictions
from edgeclin.endpoint.query import known_names, number, whole
from edgeclin.endpoint.refusal import json, refusal
from edgeclin.errors import BadInput, MissingExtra

log = logging.getLogger(__name__)

_PAGE = {
    "/": ("bedside.html", "text/html"),
    "/bedside.css": ("bedside.css", "text/css"),
    "/bedside.js": ("bedside.js", "text/javascript"),
    "/results.js": ("results.js", "text/javascript"),
    "/sample.js": ("sample.js", "text/javascript"),
}
_MOST_SEQ = 1 << 62


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the routes lead to."""

    history: History
    watch: Watch
    metrics: metrics.Metrics
    predictions: Predictions
    events: Events


def application(rooms: Rooms, bedside: Bedside, config: HTTPConfig) -> Starlette:
    """The endpoint as an ASGI application."""

    async def predict(request: Request) -> Response:
        known_names(request, "stream")
        return await rooms.predictions.answer(request)

    async def results(request: Request) -> Response:
        known_names(request, "after", "limit")
        after = number(request, "after", 0, 0, _MOST_SEQ)
        limit = number(request, "limit", KEPT, 1, KEPT)
        return json(Results(tuple(rooms.history.newest(after, limit))))

    async def drawing(request: Request) -> Response:
        seq = whole(request.path_params["seq"])
        kept = None if seq is None else rooms.history.sample(seq)
        if kept is None:
            return refusal(404, "no such result, or its sample is no longer kept")
        try:
            media_type, data = await run_in_threadpool(draw, *kept)
        except BadInput as problem:
            return refusal(404, f"the sample cannot be drawn: {problem}")
        except MissingExtra as exc:
            return refusal(501, str(exc))
        return Response(data, media_type=media_type)

    async def health(_: Request) -> Response:
        now = await run_in_threadpool(rooms.watch.health)
        return json(now, 200 if now.serving else 503)

    async def for_prometheus(_: Request) -> Response:
        text = await run_in_threadpool(rooms.metrics.text)
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def schema(_: Request) -> Response:
        return json(document(media_types(bedside.runtime.bundle.manifest.inputs[0])))

    routes = [
        Route("/predict", predict, methods=["POST"]),
        Route("/results", results),
        Route("/results/{seq}/drawing", drawing),
        Route("/events", rooms.events, methods=["GET"]),
        Route("/health", health),
        Route("/metrics", for_prometheus),
        Route("/openapi.json", schema),
        *(Route(path, _file(*page)) for path, page in _PAGE.items()),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Doorkeeper, config=config)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    data = files("edgeclin.endpoint").joinpath(name).read_bytes()

    async def page(_: Request) -> Response:
        return Response(data, media_type=media_type)

    return page


async def _refused(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    answer = refusal(exc.status_code, exc.detail)
    answer.headers.update(exc.headers or {})
    return answer


async def _failed(_: Request, exc: Exception) -> Response:
    log.error("a request failed: %s", type(exc).__name__, exc_info=exc)
    return refusal(500, f"a fault of edgeclin ({type(exc).__name__}); its log says more")
