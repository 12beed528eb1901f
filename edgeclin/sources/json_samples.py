"""A sample, or what came of a stream, as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgeclin.errors import BadInput
from edgeclin.records import Record

_NOT_JSON = (b"NaN", b"Infinity")
"""What Python writes for a sample that is missing; JSON (RFC 8259) has no such numbers."""


class Chunk(Record, frozen=True):
    """Numbers of one stream; see `to_array`."""

    stream: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
    samples: Any


def parse(text: bytes) -> np.ndarray | Chunk:
    """Read an array of numbers, float32, or an object {"stream": NAME, "samples": ARRAY}.

    Raises:
        BadInput: it is neither.
    """
    try:
        odd = any(word in text for word in _NOT_JSON)
        # msgspec is five times as fast, and the GIL is held all the while.
        value = json.loads(text) if odd else msgspec.json.decode(text)
        if isinstance(value, dict):
            return msgspec.convert(value, Chunk)
    except (ValueError, msgspec.MsgspecError, RecursionError) as exc:
        what = "what came of a stream" if text.lstrip()[:1] == b"{" else "a JSON array of numbers"
        raise BadInput(f"not {what} ({exc})") from exc
    return to_array(value)


def to_array(value: Any) -> np.ndarray:
    """Nested lists of numbers as float32.

    Raises:
        BadInput: they are ragged, or not numbers.
    """
    try:
        sample = np.asarray(value)
    except (ValueError, TypeError) as exc:
        raise BadInput(f"not a JSON array of numbers ({exc})") from exc
    if not sample.ndim or sample.dtype.kind not in "iuf":
        raise BadInput("not a JSON array of numbers")
    with np.errstate(over="ignore"):  # it becomes infinite, which no sample may be
        return sample.astype(np.float32)
