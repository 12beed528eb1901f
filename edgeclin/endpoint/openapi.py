"""`GET /openapi.json`: what the endpoint answers, made from the records that it answers
with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edgeclin.endpoint.body import DICOM, JSON, NPY
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


def document(media_types: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0).

    Args:
        media_types: what `POST /predict` takes with this bundle.
    """
    _, schemas = msgspec.json.schema_components(
        _RECORDS, ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeclin run",
            "version": VERSION,
            "description": "One device's answers. There are no users: it is for its own machine.",
        },
        "paths": {
            "/predict": {"post": _predict(media_types)},
            "/results": {"get": _results()},
            "/results/{seq}/drawing": {"get": _drawing()},
            "/events": {"get": _events()},
            "/health": {
                "get": {
                    "summary": "How the device is now",
                    "responses": {
                        "200": _of(Health, "It answers; `status` says whether all is well."),
                        "503": _of(Health, "It does not answer, or cannot store answers."),
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "The same for Prometheus",
                    "responses": {"200": _text("text/plain", "Prometheus' text format.")},
                }
            },
            "/": {
                "get": {
                    "summary": "The bedside page",
                    "responses": {"200": _text("text/html", "A page that needs no internet.")},
                }
            },
        },
        "components": {"schemas": schemas},
    }


def _predict(media_types: Sequence[str]) -> dict[str, Any]:
    refusals = {
        "400": "The stream's name is none.",
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
    return {
        "summary": "Judge one sample; the answer comes once it is stored",
        "parameters": [
            _query("stream", {"type": "string", "pattern": STREAM.pattern}, "Of the sample."),
        ],
        "requestBody": {
            "required": True,
            "content": {media_type: {"schema": _body(media_type)} for media_type in media_types},
        },
        "responses": {
            "200": _of(Answer, "The answer."),
            "422": _of(Answer, "The sample cannot be judged; a result that says why is stored."),
            **{status: _of(Refusal, why) for status, why in refusals.items()},
        },
    }


def _body(media_type: str) -> dict[str, Any]:
    if media_type != JSON:
        form = {NPY: "A .npy file", DICOM: "A DICOM file of one frame"}.get(media_type, "A picture")
        return {"description": form}
    numbers = {"type": "array", "description": "Numbers, nested as the sample's axes are"}
    return {
        "anyOf": [
            numbers,
            {
                "type": "object",
                "properties": {"samples": numbers, "stream": {"type": "string"}},
                "required": ["samples"],
                "additionalProperties": False,
            },
        ]
    }


def _results() -> dict[str, Any]:
    return {
        "summary": f"The last results, at most {KEPT} since the start, newest first",
        "parameters": [
            _query("after", {"type": "integer", "minimum": 0}, "Only those with a higher seq."),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": KEPT}, "At most so many."),
        ],
        "responses": {
            "200": _of(Results, "As they are now, reviews included."),
            "400": _of(Refusal, "A parameter is no number in its range."),
        },
    }


def _drawing() -> dict[str, Any]:
    seq = {"name": "seq", "in": "path", "required": True, "schema": {"type": "integer"}}
    drawn = _of(SignalDrawing, "A signal in few points, or a picture in few pixels.")
    drawn["content"]["image/png"] = {}
    return {
        "summary": "What the sample of a result looks like",
        "parameters": [seq],
        "responses": {
            "200": drawn,
            "404": _of(Refusal, "Its sample is no longer kept, or cannot be drawn."),
            "501": _of(Refusal, "What draws it is not installed."),
        },
    }


def _events() -> dict[str, Any]:
    return {
        "summary": "Results (`Latest`) and health (`Health`) as server-sent events",
        "parameters": [
            {
                "name": "Last-Event-ID",
                "in": "header",
                "schema": {"type": "string"},
                "description": "Goes on after that event.",
            }
        ],
        "responses": {
            "200": _text("text/event-stream", "Events `results` and, each second, `health`."),
            "503": _of(Refusal, "Too many listeners."),
        },
    }


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _of(record: type[Record], description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{record.__name__}"}
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _text(media_type: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}
