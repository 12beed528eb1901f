"""`GET /openapi.json`: what the endpoint answers, made from the records that it answers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edgeclin.endpoint.body import JSON
from edgeclin.endpoint.drawing import SignalDrawing
from edgeclin.endpoint.health import Health
from edgeclin.endpoint.history import KEPT, Latest, Shown
from edgeclin.endpoint.predictions import STREAM, Answer
from edgeclin.endpoint.refusal import Refusal
from edgeclin.records import Record
from edgeclin.version import VERSION


class Results(Record, frozen=True):
    """The last results, newest first."""

    results: tuple[Shown, ...]


_RECORDS = (Answer, Refusal, Results, Health, Latest, SignalDrawing)
_REFUSALS = {
    "400": "The stream's name is none, or another one than the body's.",
    "403": "A page of another site asks.",
    "408": "The body did not come in time.",
    "413": "The body is too long.",
    "415": "This bundle does not take such a body.",
    "421": "The Host header names another machine.",
    "429": "Too many streams.",
    "501": "What reads such a body is not installed.",
    "503": "No room, or `edgeclin run` is stopping; see Retry-After. Nothing was judged.",
    "504": "No answer in time; the result is stored and listed later all the same.",
}


def document(media_types: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0).

    Args:
        media_types: what `POST /predict` takes with this bundle.
    """
    _, schemas = msgspec.json.schema_components(
        _RECORDS, ref_template="#/components/schemas/{name}"
    )
    script = {"200": _text("text/javascript", "JavaScript.")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeclin run",
            "version": VERSION,
            "description": "One device's answers. There are no users: it is for its own machine.",
        },
        "paths": {
            "/predict": {"post": _predict(media_types)},
            "/results": _get(
                f"The last results, at most {KEPT} since the start, newest first",
                {
                    "200": _record(Results, "As they are now, reviews included."),
                    "400": _record(Refusal, "A parameter is no number in its range."),
                },
                _parameter("after", "Only those with a higher seq.", type="integer", minimum=0),
                _parameter("limit", "At most so many.", type="integer", minimum=1, maximum=KEPT),
            ),
            "/results/{seq}/drawing": _get(
                "What the sample of a result looks like",
                {
                    "200": _drawing(),
                    "404": _record(Refusal, "Its sample is no longer kept, or cannot be drawn."),
                    "501": _record(Refusal, "What draws it is not installed."),
                },
                {**_parameter("seq", "Of the result.", "path", type="integer"), "required": True},
            ),
            "/events": _get(
                "Results (`Latest`) and health (`Health`) as server-sent events",
                {
                    "200": _text("text/event-stream", "`results` and, each second, `health`."),
                    "503": _record(Refusal, "Too many listeners."),
                },
                _parameter("Last-Event-ID", "Goes on after it.", "header", type="string"),
            ),
            "/health": _get(
                "How the device is now",
                {
                    "200": _record(Health, "It answers; `status` says whether all is well."),
                    "503": _record(Health, "It does not answer, or cannot store answers."),
                },
            ),
            "/metrics": _get("The same for Prometheus", {"200": _text("text/plain", "Metrics.")}),
            "/openapi.json": _get(
                "This", {"200": {"description": "OpenAPI", "content": {JSON: {}}}}
            ),
            "/": _get("The bedside page", {"200": _text("text/html", "Needs no internet.")}),
            "/bedside.css": _get("Its style", {"200": _text("text/css", "CSS.")}),
            "/bedside.js": _get("Its script", script),
            "/results.js": _get("The part of it that shows results", script),
            "/sample.js": _get("The part of it that draws a sample", script),
        },
        "components": {"schemas": schemas},
    }


def _predict(media_types: Sequence[str]) -> dict[str, Any]:
    numbers = {"type": "array", "description": "Numbers, nested as the sample's axes are."}
    name = {"type": "string", "pattern": STREAM.pattern}
    named = {
        "type": "object",
        "properties": {"samples": numbers, "stream": name},
        "required": ["samples", "stream"],
        "additionalProperties": False,
    }
    json = {"anyOf": [numbers, named]}
    return {
        "summary": "Judge one sample; the answer comes once it is stored",
        "parameters": [_parameter("stream", "Of the sample.", **name)],
        "requestBody": {
            "required": True,
            "content": {one: {"schema": json} if one == JSON else {} for one in media_types},
        },
        "responses": {
            "200": _record(Answer, "The answer."),
            "422": _record(Answer, "It cannot be judged; a result that says why is stored."),
            **{status: _record(Refusal, why) for status, why in _REFUSALS.items()},
        },
    }


def _get(summary: str, responses: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": parameters, "responses": responses}}


def _parameter(name: str, what: str, place: str = "query", **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "description": what, "schema": schema}


def _record(record: type[Record], description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{record.__name__}"}
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _drawing() -> dict[str, Any]:
    drawn = _record(SignalDrawing, "A signal in few points, or a picture in few pixels.")
    drawn["content"]["image/png"] = {}
    return drawn


def _text(media_type: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}
