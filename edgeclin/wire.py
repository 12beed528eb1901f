"""The messages between device and cloud: MQTT topics, and JSON under zstd.

`docs/wire.md` documents the same for those who write the other side.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
import zstandard

from edgeclin.columns import Column
from edgeclin.config import check_topic_level
from edgeclin.errors import BadMessage, EdgeclinError
from edgeclin.health import RunHealth
from edgeclin.records import Record, Tier

SCHEMA = 1
BATCH_SCHEMA = 2
"""Schema 1 was a list of rows, at three times the length."""
ROOT = "ec/v1"
CONTENT_TYPE = "application/vnd.edgeclin+json+zstd"
INGEST_FILTERS = (
    f"$share/ingest/{ROOT}/+/+/up/+",
    f"$share/ingest/{ROOT}/+/+/ask/part",
    f"{ROOT}/+/+/st/+",
)
OFFLOAD_FILTERS = (
    f"$share/offload/{ROOT}/+/+/ask/opinion",
    f"$share/offload/{ROOT}/+/+/ask/whole",
)
REQUEST_TYPE = "application/vnd.edgeclin.command+json"
"""What DSSE signs beside a request, so that no other signature passes for a command's."""
MAX_DECODED = 32 << 20
LEAST_PART = 1024
"""Bytes of a part, but of the last of its whole: a flood of single bytes would be as many rows."""
MOST_ID = 64
"""Characters of an epoch, or of a row's id: each row is stored with both."""

_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device."""

    site: str
    device: str

    @property
    def _base(self) -> str:
        return f"{ROOT}/{self.site}/{self.device}"

    def up(self, tier: Tier) -> str:
        return f"{self._base}/up/{tier.value}"

    @property
    def ask(self) -> str:
        return f"{self._base}/ask/opinion"

    @property
    def part(self) -> str:
        return f"{self._base}/ask/part"

    @property
    def whole(self) -> str:
        return f"{self._base}/ask/whole"

    @property
    def receipt(self) -> str:
        return f"{self._base}/dn/receipt"

    @property
    def kept(self) -> str:
        return f"{self._base}/dn/kept"

    @property
    def opinion(self) -> str:
        return f"{self._base}/dn/opinion"

    @property
    def request(self) -> str:
        return f"{self._base}/cmd/request"

    @property
    def reply(self) -> str:
        return f"{self._base}/cmd/reply"

    @property
    def birth(self) -> str:
        return f"{self._base}/st/birth"

    @property
    def state(self) -> str:
        return f"{self._base}/st/state"

    @property
    def health(self) -> str:
        return f"{self._base}/st/health"


def parse_topic(topic: str) -> tuple[Topics, str]:
    """Split a device's topic into whose it is and the rest, such as `up/urgent`.

    Raises:
        BadMessage: not a topic below `ec/v1`, or of a site or device that cannot be configured.
    """
    parts = topic.split("/")
    if len(parts) != 6 or "/".join(parts[:2]) != ROOT:
        raise BadMessage(f"topic {topic!r} is not one of {ROOT}/SITE/DEVICE/…")
    try:
        check_topic_level("site", parts[2])
        check_topic_level("device", parts[3])
    except EdgeclinError as exc:
        raise BadMessage(f"topic {topic!r}: {exc}") from exc
    return Topics(parts[2], parts[3]), "/".join(parts[4:])


class Table(Record, frozen=True):
    """Rows of one kind whose records have the same keys.

    Attributes:
        heads: their numbers `seq` and their ids.
        bodies: their records.
    """

    kind: Literal["result", "review", "drop"]
    count: Annotated[int, msgspec.Meta(ge=1)]
    heads: dict[str, Column]
    bodies: dict[str, Column]


class PackedBatch(Record, frozen=True):
    """A batch as columns."""

    epoch: Annotated[str, msgspec.Meta(max_length=MOST_ID)]
    tables: tuple[Table, ...]
    schema: int = BATCH_SCHEMA


class Receipt(Record, frozen=True):
    """The cloud's word that these rows are stored; ranges are inclusive."""

    epoch: str
    ranges: tuple[tuple[int, int], ...]
    schema: int = SCHEMA


class Array(Record, frozen=True):
    """A numpy array of little-endian numbers, row-major, in base64."""

    dtype: Literal[
        "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"
    ]
    shape: tuple[int, ...]
    data: str


class Ask(Record, frozen=True):
    """A request to judge one raw sample (before preprocessing) again."""

    result: str
    model: str
    input: Array
    schema: int = SCHEMA


Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Part(Record, frozen=True):
    """Some bytes of an encoded Ask that is too large for one message.

    Attributes:
        whole: SHA-256 of all its bytes.
        size: how many they are.
        at: where these begin.
    """

    whole: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_DECODED)]
    at: Annotated[int, msgspec.Meta(ge=0, lt=MAX_DECODED)]
    data: Annotated[bytes, msgspec.Meta(min_length=1)]
    schema: int = SCHEMA


class Kept(Record, frozen=True):
    """The cloud's word which bytes of a whole are stored; ranges are inclusive.

    Attributes:
        refused: why it takes no more of them now, or did not keep those that it had.
    """

    whole: Digest
    ranges: tuple[tuple[int, int], ...]
    refused: str = ""
    schema: int = SCHEMA


class AskWhole(Record, frozen=True):
    """A request to judge the sample of an Ask of which all parts are stored."""

    result: str
    whole: Digest
    schema: int = SCHEMA


class Opinion(Record, frozen=True):
    """The cloud model's answer about the sample of `result`."""

    result: str
    model: str
    label: str | None
    confidence: float
    reason: str = ""
    schema: int = SCHEMA


Presence: TypeAlias = Literal["online", "offline", "lost"]


class Status(Record, frozen=True, omit_defaults=True):
    """What a device says of itself: its birth, its state, its health.

    Attributes:
        run: how `edgeclin run` is, said `run_age_s` ago (None: before the last boot); absent when
            it never said.
    """

    state: Presence
    made_at: float
    version: str = ""
    epoch: str = ""
    pending: dict[str, int] = {}
    open_questions: int = 0
    run: RunHealth | None = None
    run_age_s: float | None = None
    schema: int = SCHEMA


class Signature(Record, frozen=True):
    """One signature of a DSSE envelope: the key's id, and base64."""

    keyid: str
    sig: str


class SignedRequest(Record, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope; `payload` is the JSON of a Request in base64."""

    payload: str
    payload_type: str
    signatures: tuple[Signature, ...]
    schema: int = SCHEMA

    @property
    def document(self) -> bytes:
        """What is signed.

        Raises:
            BadMessage: the payload is not base64.
        """
        try:
            return base64.b64decode(self.payload, validate=True)
        except ValueError as exc:
            raise BadMessage(f"not a SignedRequest: {exc}") from exc


class Request(Record, frozen=True):
    """A command to one device, in one life of its queue.

    Attributes:
        number: above that of every request before by the same key.
        made_at: seconds since 1970 by the sender's clock; nothing depends on it.
    """

    site: str
    device: str
    epoch: str
    number: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    command: str
    arguments: dict[str, Any] = {}
    made_at: float = 0.0
    schema: int = SCHEMA


Outcome: TypeAlias = Literal["done", "refused", "failed"]


class Reply(Record, frozen=True, omit_defaults=True):
    """What became of a request.

    Attributes:
        digest: SHA-256 of what was signed.
        number: 0 where it was not looked at.
        lines, head: how many lines the device's audit log has, and the SHA-256 of the last.
    """

    digest: str
    outcome: Outcome
    number: int = 0
    facts: dict[str, Any] = {}
    reason: str = ""
    lines: int = 0
    head: str = ""
    schema: int = SCHEMA


Document: TypeAlias = (
    "PackedBatch | Receipt | Ask | Part | Kept | AskWhole | Opinion | Status | SignedRequest"
    " | Request | Reply"
)
MessageType = TypeVar("MessageType", bound=Document)


def encode(message: Document) -> bytes:
    """A message as bytes for the wire."""
    plain = msgspec.json.encode(message)
    # A compressor of its own each time: two threads in one crash the process.
    return zstandard.ZstdCompressor(level=_LEVEL).compress(plain)


def decode(data: bytes, kind: type[MessageType], most: int = MAX_DECODED) -> MessageType:
    """Bytes from the wire as a message.

    Raises:
        BadMessage: not zstd with a stated size of at most `most` bytes, not JSON, an
            unknown schema, an unknown key or a value of the wrong type.
    """
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= most:
            raise BadMessage(f"a {kind.__name__} that would unpack to {size} bytes")
        plain = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise BadMessage(f"not a {kind.__name__}: {exc}") from exc
    return from_json(plain, kind)


def from_json(plain: bytes, kind: type[MessageType]) -> MessageType:
    """JSON as a message.

    Raises:
        BadMessage: not JSON, an unknown schema, an unknown key or a value of the wrong type.
    """
    try:
        message = msgspec.json.decode(plain, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"not a {kind.__name__}: {exc}") from exc
    known = BATCH_SCHEMA if isinstance(message, PackedBatch) else SCHEMA
    if message.schema != known:
        raise BadMessage(f"a {kind.__name__} of schema {message.schema}; this reads {known}")
    return message


def to_array(value: np.ndarray) -> Array:
    """Pack an array for the wire.

    Raises:
        BadMessage: a dtype that the wire does not carry.
    """
    little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
    try:
        return msgspec.convert(
            {
                "dtype": little.dtype.str,
                "shape": value.shape,
                "data": base64.b64encode(little.tobytes()).decode(),
            },
            Array,
        )
    except msgspec.ValidationError as exc:
        raise BadMessage(f"an array of {value.dtype} cannot travel: {exc}") from exc


def from_array(array: Array) -> np.ndarray:
    """Unpack an array from the wire, of its stated shape and dtype.

    Raises:
        BadMessage: the data is not base64 or has another length than shape and dtype say.
    """
    if any(size < 0 for size in array.shape):
        raise BadMessage(f"array of shape {array.shape}: a size below zero")
    try:
        flat = np.frombuffer(base64.b64decode(array.data, validate=True), dtype=array.dtype)
        return flat.reshape(array.shape)
    except ValueError as exc:
        raise BadMessage(f"array of shape {array.shape}: {exc}") from exc


def ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as inclusive ranges: 1, 2, 3, 7 → (1, 3), (7, 7)."""
    return joined((number, number) for number in numbers)


def joined(some: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Inclusive ranges as few as say the same, sorted: (4, 9), (1, 3) → (1, 9)."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(some):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def gaps(some: Iterable[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """What of an inclusive range is in none of some others."""
    found, at = [], first
    for start, end in joined(some):
        if start > last:
            break
        if start > at:
            found.append((at, start - 1))
        at = max(at, end + 1)
    return [*found, (at, last)] if at <= last else found
