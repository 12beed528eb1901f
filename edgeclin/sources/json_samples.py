"""A sample, or what came of a stream, as JSON."""

from __future__ import annotations

import json
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgeclin.errors import BadInput
from edgeclin.records import Record

_NOT_JSON = (b"NaN", b"Infinity")
"""What Python writes for a sample that is missing; JSON (RFC 8259) has no such numbers."""


STREAM = r"\A[A-Za-z0-9._-]{1,64}\Z"
"""How a stream may be called."""


class Chunk(Record, frozen=True):
    """Numbers of one stream; see `to_array`."""

    stream: Annotated[str, Meta(pattern=STREAM)]
    samples: Any


def parse(text: bytes) -> np.ndarray | Chunk:
    """Read an array of numbers, float32, or an object {"stream": NAME, "samples": ARRAY}.

    Raises:
        BadInput: it is neither.
    """
    try:
        odd = any(word in text for word in _NOT_JSON)
        # msgspec is faster, and the GIL is held all the while.
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
    if not sample.ndim or sample.dtype.kind not in "iuf" or _has_truth(value, sample.ndim):
        raise BadInput("not a JSON array of numbers")
    with np.errstate(over="ignore"):  # it becomes infinite, which no sample may be
        return sample.astype(np.float32)


def _has_truth(value: Any, deep: int) -> bool:
    """Whether true or false is among numbers, where NumPy makes 1 or 0 of it."""
    for _ in range(deep - 1):
        value = chain.from_iterable(value)
    return bool in map(type, value)
