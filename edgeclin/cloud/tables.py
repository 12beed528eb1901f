"""The columns of the store, one table a kind of record."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from edgeclin.errors import MissingExtra
from edgeclin.records import DECODERS, Latency, Record

try:
    import pyarrow as pa
except ImportError as exc:
    raise MissingExtra("pyarrow, which the store writes Parquet with,", "cloud") from exc

Table: TypeAlias = Any
"""A pyarrow.Table."""

_ENVELOPE = [
    ("id", pa.string()),
    ("site", pa.string()),
    ("device", pa.string()),
    ("epoch", pa.string()),
    ("seq", pa.int64()),
    ("received_at", pa.float64()),
    ("made_at", pa.float64()),
]
"""Times are seconds since 1970: `received_at` by the cloud's clock, `made_at` by the device's."""

SCHEMAS = {
    "result": pa.schema(
        [
            *_ENVELOPE,
            ("bundle", pa.string()),
            ("engine", pa.string()),
            ("preprocessing", pa.string()),
            ("source", pa.string()),
            ("position", pa.int64()),
            ("state", pa.string()),
            ("reason", pa.string()),
            ("tier", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float64()),
            ("probabilities", pa.list_(pa.float64())),
            ("preprocess_ms", pa.float64()),
            ("engine_ms", pa.float64()),
            ("postprocess_ms", pa.float64()),
            ("queue_ms", pa.float64()),
            ("audit", pa.bool_()),
            ("rejected", pa.bool_()),
            ("degraded", pa.string()),
            ("unsigned_bundle", pa.bool_()),
            ("shadow_of", pa.string()),
        ]
    ),
    "review": pa.schema(
        [
            *_ENVELOPE,
            ("result", pa.string()),
            ("state", pa.string()),
            ("label", pa.string()),
            ("edge_label", pa.string()),
            ("reason", pa.string()),
            ("model", pa.string()),
            ("confidence", pa.float64()),
            ("waited_s", pa.float64()),
        ]
    ),
    "drop": pa.schema(
        [
            *_ENVELOPE,
            ("tier", pa.string()),
            ("first_seq", pa.int64()),
            ("last_seq", pa.int64()),
            ("count", pa.int64()),
        ]
    ),
}

_INT64_LEAST, _INT64_MOST = -(2**63), 2**63 - 1
_NO_LATENCY = dict.fromkeys(Latency.__struct_fields__)


def require_record(kind: str, body: bytes) -> Record:
    """A record's JSON, which has to fit into the columns of its table.

    Raises:
        msgspec.MsgspecError: the body is not a record of that kind, or a number in it does not
            fit its column.
        UnicodeDecodeError: the body is not UTF-8.
    """
    record: Record = DECODERS[kind].decode(body)
    for field in type(record).__struct_fields__:
        value = getattr(record, field)
        if isinstance(value, int) and not _INT64_LEAST <= value <= _INT64_MOST:
            raise msgspec.ValidationError(f"{field} does not fit into 64 bits")
    return record


def flatten(kind: str, body: bytes) -> dict[str, Any]:
    """A record's JSON as the columns of its table; raises as `require_record`."""
    record = require_record(kind, body)
    columns: dict[str, Any] = msgspec.to_builtins(record)
    for field in type(record).__struct_fields__:
        columns.setdefault(field, getattr(record, field))
    if kind == "result":
        latency = columns.pop("latency_ms") or _NO_LATENCY
        columns.update({f"{step}_ms": value for step, value in latency.items()})
    return columns
