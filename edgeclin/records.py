"""The records that travel from the bedside to the cloud, and how files of records are read.

Every record is frozen and slotted; a key that a record does not know is an error, not noise.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeclin.errors import BadFile
from edgeclin.files import read_small
from edgeclin.mismatch import explain

_MAX_TOML = 1 << 20


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of every record and setting."""


class State(str, Enum):
    """What a clinician may make of a result; it only moves forward (see `edgeclin.states`)."""

    FINAL = "final"
    PROVISIONAL = "provisional"
    UNREVIEWED = "unreviewed"
    CONFIRMED = "confirmed"
    AMENDED = "amended"


class Tier(str, Enum):
    """How much a power cut may take, and who goes first: urgent, then routine, then bulk."""

    URGENT = "urgent"
    ROUTINE = "routine"
    BULK = "bulk"


class Latency(Record, frozen=True):
    """Milliseconds spent on one sample, by step; `queue` is how long it waited to be taken."""

    preprocess: float
    engine: float
    postprocess: float
    queue: float = 0.0

    @property
    def total(self) -> float:
        return self.queue + self.preprocess + self.engine + self.postprocess


class Result(Record, frozen=True, omit_defaults=True):
    """One answer of an edge engine about one sample.

    `probabilities` are calibrated and sum to one, but for rounding. A sample that cannot be judged
    is `rejected`: it has no `label`, and `reason` says why. `degraded` says why another engine
    answered than the bundle's primary one; empty when that one did.
    `made_at` is seconds since 1970 by the device's clock, which may be wrong: order is the
    queue's sequence number, never this. `position` is the sample's index in its source.
    `shadow_of` is the id of the answer beside which a second bundle gave this one, for comparison
    alone: nobody is shown it, and it settles nothing.
    """

    bundle: str
    engine: str
    preprocessing: str
    source: str
    position: int
    made_at: float
    state: State
    reason: str
    tier: Tier
    label: str | None = None
    confidence: float = 0.0
    probabilities: tuple[float, ...] = ()
    latency_ms: Latency | None = None
    audit: bool = False
    rejected: bool = False
    degraded: str = ""
    unsigned_bundle: bool = False
    shadow_of: str = ""


class Review(Record, frozen=True, omit_defaults=True):
    """What became of a result that asked for an opinion; the result itself stays on record."""

    result: str
    state: State
    label: str | None
    reason: str
    made_at: float
    edge_label: str | None = None
    model: str | None = None
    confidence: float | None = None
    waited_s: float | None = None


class Drop(Record, frozen=True):
    """Results that the queue gave up to make room, so that the cloud knows what is missing."""

    tier: Tier
    first_seq: int
    last_seq: int
    count: int
    made_at: float


DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "result": msgspec.json.Decoder(Result),
    "review": msgspec.json.Decoder(Review),
    "drop": msgspec.json.Decoder(Drop),
}
"""What reads the JSON of each kind of record that travels."""
RecordType = TypeVar("RecordType", bound=Record)


def load_toml(path: Path, kind: type[RecordType]) -> RecordType:
    """Read a TOML file as a record.

    Raises:
        BadFile: not there, not TOML, an unknown key, or a value of the wrong type.
    """
    data = read_small(path, _MAX_TOML)
    try:
        return msgspec.toml.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise BadFile(path, *explain(exc, kind)) from exc


def load_json(data: bytes, kind: type[RecordType], path: Path | str) -> RecordType:
    """Read JSON bytes, which came from `path`, as a record.

    Raises:
        BadFile: not JSON, an unknown key, or a value of the wrong type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadFile(path, *explain(exc, kind)) from exc
